"""The report of a large run: 3 arms x 20 seeds x 5,000 items after each of three stages, from made-up result files.

    OMP_NUM_THREADS=1 python benchmarks/report.py

Prints the seconds that the report takes with its imports, the most memory the process held, and the size of the page.
"""

import json
import math
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import orjson

from tokentrial.facts.families import TIMES_TABLE
from tokentrial.report.comparison import PAGE, build
from tokentrial.run.declaration import declare
from tokentrial.run.standing import standing
from tokentrial.store.files import write_bytes, write_json
from tokentrial.store.folders import write_manifest
from tokentrial.store.storage import Storage
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.trial.load import load
from tokentrial.trial.trial import Trial

SEEDS, ITEMS, STAGES, FOLDS = range(1, 21), 5000, ("pretrain", "sft", "grpo"), 3
LIMITS = {"seconds": 20.0, "gb": 1.0, "mb": 3.0}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trial = load("pilot", [f"seeds={list(SEEDS)}", f"output={folder}"])
        evaluated = made_up(trial)
        declare(trial, [], Storage(trial))
        started = time.perf_counter()
        build(trial, evaluated, standing(trial))
        ratios = {
            "seconds": time.perf_counter() - started,
            "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            "mb": (trial.folder / PAGE).stat().st_size / 1e6,
        }
    print(f"{len(trial.arms)} arms x {len(SEEDS)} seeds x {ITEMS:,} items x {len(STAGES)} stages")
    for name, limit in LIMITS.items():
        print(f"  {name:8} {ratios[name]:6.2f}  at most {limit:g}")
    print(json.dumps(ratios))
    if any(ratios[name] > limit for name, limit in LIMITS.items()):
        sys.exit("over a limit")


def made_up(trial: Trial) -> dict[tuple[str, int], dict[str, Path]]:
    """Write every file that the report reads; returns the folders of results by cell and stage."""
    rng, evaluated = random.Random(0), {}
    _corpus(trial)
    for number, arm in enumerate(trial.arms):
        for seed in SEEDS:
            cell = trial.folder / arm / f"seed{seed}"
            curve = [
                {"step": s, "tokens": 1024 * s, "asked": s / 600, "never_asked": s / 900} for s in range(60, 601, 60)
            ]
            write_json(
                cell / "pretrain" / "results.json",
                {"curve": curve, "seconds": 25.0, "num_params": 277_344, "total_steps": 600, "device": "cpu"}
                | {"dtype": "fp32", "ranks": 1, "vocab_size": 413, "config": {"batch_tokens": 1024, "micro_batch": 8}},
            )
            write_manifest(cell / "pretrain", "made up")
            for stage in STAGES:
                folder = cell / f"eval_{stage}"
                evaluated.setdefault((arm, seed), {})[stage] = folder
                _results(folder, rng, seed, skill=0.3 + 0.2 * number)
                if stage != "pretrain":
                    write_json(cell / stage / f"{stage}_results.json", {"seconds": 10.0})
    return evaluated


def _results(folder: Path, rng: random.Random, seed: int, skill: float) -> None:
    never, rows = TIMES_TABLE.never_asked(seed, FOLDS), []
    for example in Arithmetic(0).examples():
        assert example.fact is not None
        row = {
            "task": example.task,
            "question": example.question,
            "operands": example.operands,
            "answer": example.answer,
            "completion": example.completion,
            "plain": example.completion,
            "read": example.answer,
            "correct": rng.random() < skill,
            "fact": example.fact.equation,
            "asked": example.fact not in never if example.fact.operands[0] >= 2 else None,
            "fact_tokens": 0,
            "choice_logprob": -math.log(36) * rng.random(),
        }
        rows.append(row)
    for number in range(ITEMS - len(rows)):
        solution = f" {number}+5=<<{number}+5={number + 5}>>{number + 5}\n#### {number + 5}"
        row = {
            "task": "word_problems",
            "question": f"Mia has {number} shells and gets 5 more. How many shells does Mia have now?",
            "answer": str(number + 5),
            "completion": solution,
            "plain": solution,
            "read": str(number + 5),
            "correct": rng.random() < skill,
            "read_flexible": str(number + 5),
            "correct_flexible": rng.random() < skill,
            "fact": None,
            "tokens": 32,
            "stopped": True,
            "site": number % 2 == 0,
            "fact_tokens": 1,
            "gold_nats_per_byte": rng.random(),
        }
        rows.append(row)
    write_bytes(folder / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    text = {"set": "text", "bytes": 800, "rewritten": False}
    documents = [text | {"name": f"v:{i}", "bits": 2000 + rng.random()} for i in range(100)]
    write_json(folder / "heldout_text.json", {"keeps_content": True, "documents": documents})
    write_json(folder / "arithmetic_results.json", {"metrics": {"eval_time_seconds": 3.0}})
    provenance = {"time": "2026-01-01T00:00:00+00:00", "python": "3.11.7", "machine": "Linux", "processor": "made up"}
    made = {"fingerprint": str(folder), "files": {}, "provenance": provenance | {"versions": {}, "commit": None}}
    write_json(folder / "manifest.json", made)


def _corpus(trial: Trial) -> None:
    forms = {"equation": 200, "question": 80, "statement": 60, "boxes": 100}
    served = {
        "tokens": 614_400,
        "documents": {"text": 200, "drills": 2400},
        "drill_share": 0.85,
        "fact_tokens": 0,
        "bytes": 880_000,
        "questions": 5000,
        "facts": {fact.equation: forms for fact in TIMES_TABLE},
    }
    after = {"rows": 2000, "stated": {}, "asked": {}}
    corpus = trial.folder / "corpus"
    write_json(
        corpus / "exposure.json",
        {
            "forms": [*forms],
            "served": {arm: {str(seed): served for seed in SEEDS} for arm in trial.arms},
            "after_pretraining": {str(seed): {"sft": after, "grpo": after} for seed in SEEDS},
        },
    )
    by_arm = {"fact_tokens": 1, "changed_documents": 1, "num_documents": 1, "sites_in_context": []}
    write_json(corpus / "meta.json", {"text": {"literal_token_names": 0}, "arms": dict.fromkeys(trial.arms, by_arm)})
    write_json(corpus / "audit.json", {"passed": True, "checks": [], "overlap_of_probes_and_drills": {}})
    write_json(trial.folder / "grpo_decision.json", {"pass_at_k": {}, "go_on": True})


if __name__ == "__main__":
    main()
