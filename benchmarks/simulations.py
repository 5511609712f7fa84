"""How often the rules of `statistics` are wrong, and how often right, on made-up trials whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/simulations.py [TRIALS]

A trial has 6 seeds and 36 items. An arm's seed answers an item with a chance whose logit is the item's plus the seed's
noise, of standard deviation 0, 0.3 or 0.6, shared by both arms or drawn for each; or its seeds learn or do not. Prints
the table of docs/science.md and, as the last line, one JSON object. 20,000 trials know a rate to 0.3 points.
"""

import json
import sys

import numpy as np
from scipy.special import expit

from tokentrial.statistics.paired import crossed_interval, holm, paired_t, sign_flip, tost
from tokentrial.statistics.power import mde
from tokentrial.statistics.proportions import mcnemar_exact
from tokentrial.statistics.verdict import HELPS, HURTS, contrast

SEEDS, ITEMS, EFFECT, ALPHA = 6, 36, 0.8, 0.05
NOISE = [(0.0, "shared"), (0.3, "shared"), (0.3, "own"), (0.6, "shared"), (0.6, "own")]
LEARNT = (0.5, 0.8, 0.95)
BLOCK = 2000  # trials at a time, so that memory does not grow with their number


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rates: dict[str, float] = {}
    print(f"{trials:,} trials of {SEEDS} seeds x {ITEMS} items, alpha {ALPHA:.0%}")
    print(f"\n{'equal arms, told apart by':44}{'paired t':>10}{'sign-flip':>11}{'McNemar':>9}{'  t covers':>11}")
    for sd, whose in NOISE:
        rng = np.random.default_rng(1)
        found = [equal_arms(rng, sd, whose == "own") for _ in range(trials // BLOCK)]
        row = [*np.mean(found, axis=0), np.mean([covered(rng, sd, whose == "own") for _ in range(trials // BLOCK)])]
        show(rates, f"seed noise {sd:g}, {whose}" if sd else "no seed noise", row)
    for learnt in LEARNT:
        rng = np.random.default_rng(2)
        show(
            rates,
            f"{learnt:.0%} of seeds learn",
            np.mean([bimodal(rng, learnt) for _ in range(trials // BLOCK)], axis=0),
        )
    rng = np.random.default_rng(3)
    both = (rng.random((2, trials, SEEDS)) < 0.5).astype(float)
    show(rates, "half of the seeds learn, all or nothing", [*alarms(*both)])

    print("\nrates of what else is promised")
    for name, promised, rate in others(trials):
        rates[name] = round(float(rate), 4)
        print(f"{name:62}{rate:8.1%}   promised: {promised}")
    print(json.dumps({"trials": trials, **rates}))


def show(rates: dict[str, float], name: str, row: list[float]) -> None:
    columns = ("paired t", "sign-flip", "McNemar", "t covers")
    print(f"{name:44}" + "".join(f"{value:>10.1%}" for value in row))
    rates |= {f"{name}: {column}": round(float(value), 4) for column, value in zip(columns, row, strict=False)}


def logits(rng: np.random.Generator, sd: float, own: bool, items: np.ndarray) -> np.ndarray:
    """Of shape (2 arms, trials, seeds, items)."""
    noise = rng.normal(0, sd, (2 if own else 1, BLOCK, SEEDS, 1))
    return np.broadcast_to(items + noise, (2, BLOCK, SEEDS, ITEMS))


def alarms(treatment: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    """Shares of trials in which `contrast`, and the sign-flip test, tell the arms apart; arrays are trials x seeds."""
    made = [contrast(a, b, margin=None, alpha=ALPHA, declared=True) for a, b in zip(treatment, control, strict=True)]
    return np.mean([c.verdict in (HELPS, HURTS) for c in made]), np.mean([c.p_sign_flip < ALPHA for c in made])


def equal_arms(rng: np.random.Generator, sd: float, own: bool) -> tuple[float, float, float]:
    chance = expit(logits(rng, sd, own, rng.normal(0, 1, (1, BLOCK, 1, ITEMS))))
    return tested(rng.random(chance.shape) < chance)


def bimodal(rng: np.random.Generator, learnt: float) -> tuple[float, float, float]:
    chance = np.where(rng.random((2, BLOCK, SEEDS, 1)) < learnt, 0.95, 0.10)
    return tested(rng.random((2, BLOCK, SEEDS, ITEMS)) < chance)


def tested(right: np.ndarray) -> tuple[float, float, float]:
    """False alarms of the paired t and the sign-flip over seeds, and of McNemar over the items of all seeds."""
    only_a, only_b = ((right[i] & ~right[1 - i]).sum(axis=(1, 2)) for i in (0, 1))
    pooled = [mcnemar_exact(int(a), int(b)) < ALPHA for a, b in zip(only_a, only_b, strict=True)]
    return *alarms(*right.mean(axis=-1)), float(np.mean(pooled))


def covered(rng: np.random.Generator, sd: float, own: bool) -> float:
    """How often the 95 % interval holds the true difference of arms EFFECT apart, over all seeds there could be."""
    items = rng.normal(0, 1, ITEMS)
    arms = np.array([EFFECT, 0.0])[:, None, None]
    truth = float(-np.diff(expit(items + rng.normal(0, sd, (20_000, 1)) + arms).mean(axis=(1, 2)))[0])
    chance = expit(logits(rng, sd, own, items) + arms[..., None])
    treatment, control = (rng.random(chance.shape) < chance).mean(axis=-1)
    intervals = [paired_t(d).ci95 for d in treatment - control]
    return float(np.mean([each is not None and each[0] <= truth <= each[1] for each in intervals]))


def others(trials: int) -> list[tuple[str, str, float]]:
    rng = np.random.default_rng(4)
    normal = rng.standard_normal((trials, 10))
    looks = [[(paired_t(d[:n]).p or 0) < ALPHA for n in (6, 8, 10)] for d in normal]
    families = [[paired_t(d).p for d in family] for family in rng.standard_normal((trials, 6, SEEDS))]
    shifted = rng.normal(mde(1.0, SEEDS) or 0, 1, (trials, SEEDS))
    needs = tost([1.0, -1.0] * 3, 1).margin_at_80_power or 0  # in units of s once divided by their s
    margin = needs / float(np.std([1.0, -1.0] * 3, ddof=1))
    crossed = [
        rng.standard_normal((SEEDS, 1)) + rng.standard_normal((1, 12)) + rng.standard_normal((SEEDS, 12))
        for _ in range(trials // 4)
    ]
    wide = [crossed_interval(cells).ci95 for cells in crossed]
    narrow = [paired_t(cells.mean(axis=1)).ci95 for cells in crossed]
    return [
        ("false alarms of one look at 6 seeds", "5 %", np.mean([p[0] for p in looks])),
        (
            "false alarms of looking at 6, 8 and 10 seeds",
            "9.6 %, so seeds are declared",
            np.mean([any(p) for p in looks]),
        ),
        ("any false alarm of 6 secondary outcomes, Holm", "at most 5 %", np.mean([_any(holm(p)) for p in families])),
        ("the same, not adjusted", "26 %", np.mean([_any(p) for p in families])),
        ("sign-flip at 6 normal seeds", "at most 5 %", np.mean([sign_flip(d[:SEEDS]) < ALPHA for d in normal])),
        ("the minimum detectable effect is found", "80 %", np.mean([(paired_t(d).p or 0) < ALPHA for d in shifted])),
        ("equal arms found equivalent at the margin in reach", "80 %", _equivalent(normal[:, :SEEDS], margin)),
        ("a difference of the margin called equivalent", "5 %", _equivalent(normal[:, :SEEDS] * 0.1 + 1, 1.0)),
        ("interval over seeds and facts holds the mean", "94-97 %", np.mean([_holds(each) for each in wide])),
        (
            "interval over seeds alone, for new facts",
            "56-92 %, so both are shown",
            np.mean([_holds(e) for e in narrow]),
        ),
    ]


def _any(p_values: list[float | None]) -> bool:
    return any(p is not None and p < ALPHA for p in p_values)


def _equivalent(differences: np.ndarray, margin: float) -> float:
    return float(np.mean([_any([tost(d, margin).p]) for d in differences]))


def _holds(ends: tuple[float, float] | None) -> bool:
    return ends is not None and ends[0] <= 0 <= ends[1]


if __name__ == "__main__":
    main()
