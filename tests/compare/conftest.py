"""Run folders as evaluations write them, and the command line's answer as JSON."""

import json
import math

import pytest
import yaml

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.run.run_folder import declare
from tokentrial.store.files import write_bytes, write_json
from tokentrial.tasks.arithmetic import Arithmetic


def write_cell(folder, seed, known, bits=200.0):
    """One evaluated cell that answers the first `known` of its never-asked facts, and all others, right."""
    never = TIMES_TABLE.never_asked(seed, 3)
    knows = (set(TIMES_TABLE) - set(never)) | set(sorted(never)[:known])
    rows = []
    for number, example in enumerate(Arithmetic(5).examples()):
        row = {
            "task": example.task,
            "question": example.question,
            "operands": example.operands,
            "answer": example.answer,
            "completion": " 54.",
            "plain": " 54.",
            "read": "54",
            "fact_tokens": 0,
            "correct": example.fact in knows if example.fact else number % 4 == 0,
            "fact": example.fact.equation if example.fact else None,
            "asked": example.fact not in never if example.fact in TIMES_TABLE.hard else None,
        }
        if example.fact:
            row["choice_logprob"] = -0.1 if example.fact in knows else -math.log(36)
        rows.append(json.dumps(row) + "\n")
    write_bytes(folder / "samples.jsonl", "".join(rows).encode())
    documents = [{"set": "text", "name": "v:0", "bytes": 100, "bits": bits + seed, "rewritten": False, "lossy": False}]
    write_json(folder / "heldout_text.json", {"keeps_content": True, "documents": documents})


@pytest.fixture
def run_folder(tiny, tmp_path):
    """`run_folder(name, {arm: known by seed}, seeds)`: a run of which these arms are evaluated."""

    def make(name, knows, seeds=(1, 2, 3, 4, 5, 6), *overrides):
        listed = [f"seeds={[*seeds]}", "verdict.gate={asked: 0.6, never_asked: 0.4}", "verdict.smallest_effect=0.1"]
        trial = tiny(tmp_path / name, *listed, *overrides)
        dumped = yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False)
        write_bytes(trial.folder / "trial.yaml", dumped.encode())
        declare(trial)
        for arm, counts in knows.items():
            for seed, known in zip(seeds, counts, strict=True):
                write_cell(trial.folder / arm / f"seed{seed}" / "eval_pretrain", seed, known)
        return trial.folder

    return make


@pytest.fixture
def compared(tokentrial):
    """`compared(*words)`: the contrasts of `tokentrial compare ... --json`."""

    def run(*words):
        code, out, err = tokentrial("compare", *words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)["contrasts"]

    return run


@pytest.fixture
def one(compared):
    """The only contrast."""

    def run(*words):
        [contrast] = compared(*words)
        return contrast

    return run
