"""How often the rules of `statistics` are wrong, and how often right, on simulated trials whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/simulations.py [TRIALS]

First the composed rules: looks, primary contrast, a family of four secondary outcomes and the gate, as `decide` puts
them together. Then each rule alone. 100,000 trials know a rate of 5 % to 0.07 points. So many run as arrays; in every
setting the first CHECKED trials go through the package's own functions too, and each verdict must be the same. Prints
the tables of docs/science.md and, as the last line, one JSON object.
"""

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from tokentrial.report.tuning import best
from tokentrial.statistics.contrast import contrast
from tokentrial.statistics.decision import EQUIVALENT, HELPS, HURTS, decide, gate_failure
from tokentrial.statistics.paired import crossed_interval, paired_t, tost
from tokentrial.statistics.power import mde
from tokentrial.statistics.proportions import mcnemar_exact
from tokentrial.statistics.sequential import boundaries, current_look, level

ALPHA, BLOCK, CHECKED = 0.05, 10_000, 50
ITEMS = 36
Array = np.ndarray


class Plan(NamedTuple):
    most: int  # seeds
    looks: tuple[int, ...] | str | None = None
    spending: str = "obrien_fleming"

    def __str__(self) -> str:
        if self.looks is None:
            return f"{self.most} seeds"
        looks = self.looks if isinstance(self.looks, str) else ", ".join(map(str, self.looks))
        return f"{looks} of {self.most}" if self.looks == "blinded" else f"looks {looks}, {self.spending}"


LOOKS = Plan(12, (6, 12))
PLANS = (
    Plan(3),
    Plan(6),
    Plan(12),
    Plan(20),
    Plan(6, (3, 6)),
    LOOKS,
    Plan(12, (6, 9, 12)),
    Plan(12, (4, 8, 12)),
    Plan(20, (6, 12, 20)),
    Plan(12, (6, 12), "pocock"),
    Plan(12, "blinded"),
    Plan(20, "blinded"),
)
NOISE = ((0.0, "shared"), (0.3, "shared"), (0.3, "own"), (0.6, "shared"), (0.6, "own"))


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rates: dict[str, float] = {}
    print(f"{trials:,} trials, alpha {ALPHA:.0%}: {'no effect':>38}{'one on the primary alone':>44}")
    print(f"{'':42}{'primary':>8}{'family':>8}{'covers':>8}{'found':>10}{'family':>8}{'covers':>8}{'seeds':>8}")
    for kind in (gaussian, bimodal):
        for plan in PLANS:
            row = []
            for has_effect in (False, True):
                rng = np.random.default_rng(10)
                blocks = [summary(judge(kind(rng, size, plan, has_effect), plan)) for size in sizes(trials)]
                row += np.mean(np.concatenate(blocks), axis=0).tolist()
            name, row = f"{kind.__name__}, {plan}", row[:3] + row[4:]  # without effect all but all seeds are used
            print(f"{name:42}" + "".join(f"{x:8.1%}" for x in row[:3]), end="  ")
            print("".join(f"{x:8.1%}" for x in row[3:6]) + f"{row[6]:8.1f}")
            rates |= {f"{name}: {column}": round(x, 4) for column, x in zip(COLUMNS, row, strict=True)}
    show(rates, "\nfamily's false alarms, worst of 4 correlations x 3 effects", worst_family(trials))
    show(
        rates,
        "\n6 seeds, equal arms; what varies:",
        alone(trials),
        ("paired t", "sign-flip", "McNemar", "t covers"),
    )
    show(rates, "\nrates of what else is promised", others(trials))
    show(rates, "\nequal arms, each at its own best of five values, told apart: worst of 6 curves", tuned(trials))
    c = boundaries(LOOKS.looks, LOOKS.spending, ALPHA)[-1]
    required = {
        "false_alarms_primary": rates[f"gaussian, {LOOKS}: primary"],
        "false_alarms_family": rates[f"family, {LOOKS}"],
        "final_width_ratio": round(float(c / -special.stdtrit(LOOKS.most - 1, ALPHA / 2)), 4),
    }
    share, ratio = early_stops(trials)
    print(f"\nlooks at 6 and 12: last boundary {c:.3f}, {required['final_width_ratio']:.4f} of the fixed t")
    print(f"with the effect, {share:.1%} of trials stop at 6, at a mean difference of {ratio:.2f} times the true one")
    print(json.dumps({"trials": trials, **rates, "early_stop_ratio": round(ratio, 3), **required}))


COLUMNS = ("primary", "family", "covers", "found", "family beside an effect", "covers an effect", "seeds")


def sizes(trials: int) -> list[int]:
    """Blocks of trials, so that memory does not grow with their number; the first goes through the package too."""
    first = min(CHECKED, trials)
    return [first, *(min(BLOCK, trials - start) for start in range(first, trials, BLOCK))]


def show(
    rates: dict[str, float], title: str, rows: Iterator[tuple[str, str, list[float]]], columns: tuple[str, ...] = ()
) -> None:
    print(f"{title:62}" + "".join(f"{c:>10}" for c in columns))
    for name, promised, row in rows:
        print(f"{name:62}" + "".join(f"{x:10.1%}" for x in row) + (f"   promised: {promised}" if promised else ""))
        keys = [f"{name}: {column}" for column in columns] or [name]
        rates |= {key: round(float(x), 4) for key, x in zip(keys, row, strict=False)}


# Trials


class Trials(NamedTuple):
    arms: Array  # treatment and control, (2, trials, outcomes, seeds); outcome 0 is the primary, 1 the asked facts
    truth: float  # the primary's true difference
    margin: float
    floor: float | None


def gaussian(
    rng: np.random.Generator, trials: int, plan: Plan, has_effect: bool, rho: float = 0.5, effect: float | None = None
) -> Trials:
    """Differences with standard deviation 0.2; every two outcomes of a seed correlate by `rho`. The control is at the
    gate. The effect is what as many seeds, all looked at once, find with a chance of 80 %."""
    size = (trials, 5, plan.most)
    z = np.sqrt(rho) * rng.standard_normal((trials, 1, plan.most)) + np.sqrt(1 - rho) * rng.standard_normal(size)
    found = mde(0.2, plan.most) or 0.0
    truth = found * (has_effect if effect is None else effect)
    d = 0.2 * z
    d[:, 0] += truth
    control = 0.6 + 0.2 * rng.standard_normal(size)
    return Trials(np.stack([control + d, control]), truth, found, 1 / 12)


def bimodal(rng: np.random.Generator, trials: int, plan: Plan, has_effect: bool) -> Trials:
    """Seeds that learn (0.95 of the items right) or do not (0.10), half of them; with the effect 0.9 of the
    treatment's, as the primary sees it. Two secondary outcomes are of the models of the primary, two of others."""
    learns = rng.random((2, trials, 3, plan.most)) < 0.5
    primary = learns[:, :, 0].copy()
    if has_effect:
        primary[0] |= rng.random((trials, plan.most)) < 0.8
    states = np.stack([primary, *(learns[:, :, k] for k in (0, 0, 1, 1))], axis=2)
    right = rng.binomial(ITEMS, np.where(states, 0.95, 0.10)) / ITEMS
    return Trials(right, 0.4 * 0.85 * has_effect, 0.5, 1 / 12)


# The composed rules, as arrays


class Judged(NamedTuple):
    seeds: Array  # that counted, (trials,)
    found: Array  # helps or hurts, (trials, outcomes)
    equivalent: Array  # (trials, outcomes)
    covers: Array  # whether the primary's repeated interval holds the truth, (trials,)


def judge(sample: Trials, plan: Plan) -> Judged:
    d = sample.arms[0] - sample.arms[1]
    trials, outcomes, _ = d.shape
    seeds, going_on = np.zeros(trials, int), np.ones(trials, bool)
    found, equivalent, covers = np.zeros((trials, outcomes), bool), np.zeros((trials, outcomes), bool), going_on.copy()
    for n, alpha, wanted in stages(d[:, 0], plan, sample.margin):
        at = np.flatnonzero(going_on if wanted is None else wanted)
        p, error = t_test(d[at, :, :n])
        last = n == plan.most or wanted is not None
        stops = np.full(len(at), True) if last else p[:, 0] < alpha
        at, p, error, arms = at[stops], p[stops], error[stops], sample.arms[:, at[stops], :, :n]
        going_on[at], seeds[at] = False, n
        mean = arms[0].mean(-1) - arms[1].mean(-1)
        reach = -special.stdtrit(n - 1, alpha / 2) * error[:, 0]
        covers[at] = np.abs(mean[:, 0] - sample.truth) <= reach
        adjusted = np.column_stack([p[:, 0], holm_rows(p[:, 1:])])
        found[at] = adjusted < alpha
        if last:
            failed = (arms[1, :, 1].mean(-1) < 0.6 - 1e-9) | (arms[1, :, 0].mean(-1) < 0.4 - 1e-9)
            at_floor = arms.mean(-1).max(axis=0) <= sample.floor + sample.margin
            with np.errstate(divide="ignore"):
                too_far = special.stdtr(n - 1, -(sample.margin - np.abs(mean)) / error)
            too_far[at_floor | (error <= 0)] = 1
            too_far = np.column_stack([too_far[:, 0], holm_rows(too_far[:, 1:])])
            equivalent[at] = ~found[at] & (too_far < ALPHA) & ~failed[:, None]
    judged = Judged(seeds, found, equivalent, covers)
    if trials <= CHECKED:
        check(sample, plan, judged)
    return judged


def stages(primary: Array, plan: Plan, margin: float) -> Iterator[tuple[int, float, Array | None]]:
    """Seeds of a look, its level, and which trials end there whatever they show (None: those still going on)."""
    if plan.looks == "blinded":
        half, within = -(-plan.most // 2), np.array([mde(1.0, n) for n in range(2, plan.most)])
        spread = np.sqrt(np.square(primary[:, :half]).mean(-1))
        # the fewest seeds that find the margin with a chance of 80 %
        needed = 2 + np.searchsorted(-within, -margin / np.maximum(spread, 1e-300))
        final = np.where(spread == 0, half, np.clip(needed, half, plan.most))
        yield from ((n, ALPHA, final == n) for n in range(half, plan.most + 1))
    else:
        looks = plan.looks or (plan.most,)
        found = boundaries(looks, plan.spending, ALPHA)
        yield from ((n, level(c, n), None) for n, c in zip(looks, found, strict=True))


def t_test(d: Array) -> tuple[Array, Array]:
    """p of each row's paired t, of the sign-flip test where its seeds differ by the same amount; and the error."""
    n, mean, sd = d.shape[-1], d.mean(-1), d.std(-1, ddof=1)
    sd[sd <= 1e-9 * np.abs(d).max(-1)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(n - 1, -np.abs(mean) / (sd / np.sqrt(n)))
    return np.where(sd > 0, p, np.where(np.abs(mean) > 1e-12, 2.0 ** (1 - n), 1.0)), sd / np.sqrt(n)


def holm_rows(p: Array) -> Array:
    order, ranks = np.argsort(p, axis=-1), p.shape[-1] - np.arange(p.shape[-1])
    stepped = np.maximum.accumulate(np.minimum(1, np.take_along_axis(p, order, -1) * ranks), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


def check(sample: Trials, plan: Plan, judged: Judged) -> None:
    """The first trials again by the package's own functions, one by one."""
    for i in range(len(judged.seeds)):
        d = (sample.arms[0, i, 0] - sample.arms[1, i, 0]).tolist()
        look = current_look(d, plan.most, plan.looks, plan.spending, ALPHA, sample.margin)
        compared = [
            contrast(
                *sample.arms[:, i, k, : look.seeds],
                alpha=look.alpha,
                margin=sample.margin,
                equivalence_alpha=ALPHA,
                floor=sample.floor,
            )
            for k in range(sample.arms.shape[2])
        ]
        reason = gate_failure(sample.arms[1, i, 1, : look.seeds], sample.arms[1, i, 0, : look.seeds])
        primary, family = decide(compared[0], compared[1:], may_go_on=look.may_go_on, not_learnt=reason)
        verdicts = [c.verdict or "" for c in (primary, *family)]
        low, high = primary.interval or [primary.difference] * 2
        by_package = (look.seeds, [v in (HELPS, HURTS) for v in verdicts], [v.startswith(EQUIVALENT) for v in verdicts])
        by_arrays = (judged.seeds[i], judged.found[i].tolist(), judged.equivalent[i].tolist())
        assert by_package == by_arrays, f"{plan}, trial {i}: decide says {by_package}, the arrays {by_arrays}"
        assert (low <= sample.truth <= high) == judged.covers[i], f"{plan}, trial {i}: interval [{low}, {high}]"


def summary(judged: Judged) -> Array:
    """By trial: the primary found, any of the family found, covered, seeds."""
    return np.column_stack([judged.found[:, 0], judged.found[:, 1:].any(axis=1), judged.covers, judged.seeds])


def worst_family(trials: int) -> Iterator[tuple[str, str, list[float]]]:
    """None of the family has an effect; the primary, which decides when the trial stops, may have one."""
    for plan in (LOOKS, Plan(12, (6, 9, 12)), Plan(12, (6, 12), "pocock")):
        rng, found = np.random.default_rng(11), []
        for rho in (0, 0.3, 0.6, 0.9):
            for effect in (0, 1, 2):
                blocks = [judge(gaussian(rng, size, plan, True, rho, effect), plan) for size in sizes(trials)]
                found.append(float(np.mean(np.concatenate([b.found[:, 1:].any(axis=1) for b in blocks]))))
        levels = [level(c, n) for n, c in zip(plan.looks, boundaries(plan.looks, plan.spending, ALPHA), strict=True)]
        yield f"family, {plan}", f"at most {100 * sum(levels):.1f} %, the levels' sum", [max(found)]


def early_stops(trials: int) -> tuple[float, float]:
    """Share of trials that stop at the first look, and their mean difference, of the true one."""
    sample = gaussian(np.random.default_rng(12), trials, LOOKS, True)
    d = sample.arms[0, :, 0] - sample.arms[1, :, 0]
    stops = t_test(d[:, :6])[0] < level(boundaries(LOOKS.looks, LOOKS.spending, ALPHA)[0], 6)
    return float(stops.mean()), float(d[stops, :6].mean() / sample.truth)


# Each rule alone


def alone(trials: int, seeds: int = 6) -> Iterator[tuple[str, str, list[float]]]:
    """Equal arms over 36 items. The logit of a seed's chance at an item is the item's plus the seed's noise, shared by
    both arms or drawn for each; or seeds learn or do not. McNemar pools the items of all seeds."""
    arms = np.array([0.8, 0.0])[:, None, None, None]
    for sd, whose in NOISE:
        rng, rows = np.random.default_rng(1), []
        for size in sizes(trials):
            chance = chances(rng, (size, seeds), sd, whose, rng.normal(0, 1, (size, 1, ITEMS)))
            row = alarms(rng.random(chance.shape) < chance)
            items = rng.normal(0, 1, ITEMS)  # and of arms that differ, how often t's interval holds the difference
            truth = special.expit(items + rng.normal(0, sd, (1, 20_000, 1, 1)) + arms).mean((1, 2, 3))
            chance = chances(rng, (size, seeds), sd, whose, items + arms)
            a, b = (rng.random(chance.shape) < chance).mean(-1)
            error = t_test(a - b)[1]
            off = np.abs((a - b).mean(-1) - (truth[0] - truth[1]))
            rows.append(np.column_stack([row, off <= special.stdtrit(seeds - 1, 0.975) * error]))
        name = f"noise of seeds {sd:g}, {whose}" if sd else "items alone"
        yield name, "", np.concatenate(rows).mean(axis=0).tolist()
    for learnt in (0.5, 0.8, 0.95):
        rng, rows = np.random.default_rng(2), []
        for size in sizes(trials):
            chance = np.where(rng.random((2, size, seeds, 1)) < learnt, 0.95, 0.10)
            rows.append(alarms(rng.random((2, size, seeds, ITEMS)) < chance))
        yield f"whether a seed learns, {learnt:.0%} do", "", np.concatenate(rows).mean(axis=0).tolist()


def chances(rng: np.random.Generator, size: tuple[int, int], sd: float, whose: str, logits: Array) -> Array:
    """Of a right answer, (2 arms, trials, seeds, items)."""
    noise = rng.normal(0, sd, (2 if whose == "own" else 1, *size, 1))
    return np.broadcast_to(special.expit(logits + noise), (2, *size, ITEMS))


def alarms(right: Array) -> Array:
    """(trials, 3): false alarms of paired t, sign-flip and McNemar; `right` is (2, trials, seeds, items)."""
    only_a, only_b = ((right[i] & ~right[1 - i]).sum(axis=(1, 2)) for i in (0, 1))
    p_items = np.minimum(1, 2 * special.bdtr(np.minimum(only_a, only_b), only_a + only_b, 0.5))
    a, b = right.mean(-1)
    p_t, p_flip = t_test(a - b)[0], flip_rows(a - b)
    for i in range(len(a) if len(a) <= CHECKED else 0):
        ours, items = contrast(a[i], b[i]), mcnemar_exact(int(only_a[i]), int(only_b[i]))
        assert np.allclose([ours.p, ours.p_sign_flip, items], [p_t[i], p_flip[i], p_items[i]])
    return np.column_stack([p_t, p_flip, p_items]) < ALPHA


def flip_rows(d: Array) -> Array:
    n = d.shape[-1]
    signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return np.mean(np.abs(d @ signs.T) >= np.abs(d.sum(-1, keepdims=True)) - 1e-9, axis=-1)


def others(trials: int, seeds: int = 6) -> Iterator[tuple[str, str, list[float]]]:
    rng = np.random.default_rng(4)
    normal = rng.standard_normal((trials, 10))
    looked = [t_test(normal[:, :n])[0] < ALPHA for n in (6, 8, 10)]
    yield "false alarms of three looks at 6, 8, 10 seeds, each at 5 %", "9.6 %, so looks are declared", [rate(*looked)]
    p = t_test(rng.standard_normal((trials, 6, seeds)))[0]
    yield "any false alarm of 6 secondary outcomes, Holm", "at most 5 %", [rate((holm_rows(p) < ALPHA).any(-1))]
    yield "the same, not adjusted", "26 %", [rate((p < ALPHA).any(-1))]
    yield "sign-flip at 6 normal seeds", "at most 5 %", [rate(flip_rows(normal[:, :seeds]) < ALPHA)]
    found = t_test(rng.normal(mde(1.0, seeds) or 0, 1, (trials, seeds)))[0] < ALPHA
    yield "the minimum detectable effect is found", "80 %", [rate(found)]
    for name, promised, d, margin in (
        ("equal arms found equivalent at the margin in reach", "82 %", normal[:, :seeds], 1.43),
        ("a difference of the margin called equivalent", "5 %", normal[:, :seeds] * 0.1 + 1, 1.0),
    ):
        p = tost_rows(d, margin)
        assert np.allclose([tost(x, margin).p for x in d[:CHECKED]], p[:CHECKED])
        yield name, promised, [rate(p < ALPHA)]
    # the same true effect under two budgets, whose differences at a seed correlate by one half
    both = 1.0 + rng.standard_normal((1, trials, seeds)) + rng.standard_normal((2, trials, seeds))
    name = "equal effects under two budgets called different"
    yield name, "5 %", [rate(t_test(both[0] - both[1])[0] < ALPHA)]
    cells = [
        rng.standard_normal((seeds, 1)) + rng.standard_normal((1, 12)) + rng.standard_normal((seeds, 12))
        for _ in range(min(trials, 5000))
    ]
    for name, promised, ends in (
        ("interval over seeds and facts holds the mean", "94-97 %", [crossed_interval(x).interval for x in cells]),
        (
            "interval over seeds alone, for new facts",
            "56-92 %, so both are shown",
            [paired_t(x.mean(1)).ci95 for x in cells],
        ),
    ):
        yield name, promised, [float(np.mean([e is not None and e[0] <= 0 <= e[1] for e in ends]))]
    d = 1.0 + 0.1 * rng.standard_normal((trials, 4, seeds))
    p = tost_rows(d, 1.0)
    name = "any of 4 differences of the margin called equivalent, Holm"
    yield name, "at most 5 %", [rate((holm_rows(p) < ALPHA).any(-1))]
    yield "any of these, not adjusted", "19 %", [rate((p < ALPHA).any(-1))]
    elsewhere = np.arange(36) % 3 != np.arange(seeds)[:, None] % 3  # a seed has the facts of its fold
    holds = []
    for _ in range(min(trials, 5000)):
        x = rng.standard_normal((seeds, 1)) + rng.standard_normal((1, 36)) + rng.standard_normal((seeds, 36))
        low, high = crossed_interval(np.where(elsewhere, np.nan, x)).interval or (1, 0)
        holds.append(low <= 0 <= high)
    yield "interval over seeds and facts in folds holds the mean", "94-97 %", [rate(np.array(holds))]
    yield from unlucky(trials, seeds)


def unlucky(trials: int, seeds: int) -> Iterator[tuple[str, str, list[float]]]:
    """Two arms that differ by the margin, 0.1, as the treatment always learns, to 0.85, and the control fails, at 0.1,
    with one seed in eight: six seeds often show no failure, and then the arms look alike."""
    rng = np.random.default_rng(6)
    for questions in (12, 24, 81):
        learns = rng.random((trials, seeds)) > 0.1 / (0.85 - 0.1)
        control = rng.binomial(questions, np.where(learns, 0.85, 0.1))
        d = (rng.binomial(questions, 0.85, (trials, seeds)) - control) / questions
        d = d[d.std(-1) > 0]  # without spread, equivalence is not tested
        found = np.sum(tost_rows(d, 0.1) < ALPHA) / trials
        yield f"1 of 8 control seeds fails, {questions} questions: called equivalent", "5 % if normal", [found]


def tost_rows(d: Array, margin: float) -> Array:
    n = d.shape[-1]
    return special.stdtr(n - 1, -(margin - np.abs(d.mean(-1))) / (d.std(-1, ddof=1) / np.sqrt(n)))


def tuned(trials: int, seeds: int = 6) -> Iterator[tuple[str, str, list[float]]]:
    """The middle value is the best of both arms; those beside it are worse by so many sd of the paired differences,
    those at the edge by four times as much. What is chosen by noise differs, and is found to."""
    rng = np.random.default_rng(5)
    for count in (1, 2, 3, 6, 12):
        found = []
        for step in (0.1, 0.25, 0.5, 1, 2, 4):
            truth = -step * (np.arange(5) - 2.0) ** 2
            means = truth + rng.normal(0, np.sqrt(0.5 / count), (trials, 2, 5))  # the two arms' differ by sd 1
            chosen = means.argmax(-1)
            assert [best(row, 2, True) for row in means[:CHECKED, 0].tolist()] == chosen[:CHECKED, 0].tolist()
            difference = truth[chosen[:, 0]] - truth[chosen[:, 1]]
            found.append(rate(t_test(difference[:, None] + rng.standard_normal((trials, seeds)))[0] < ALPHA))
        yield f"tuned on {count} seeds of their own", "", [max(found)]


def rate(*alarms_of: Array) -> float:
    return float(np.mean(np.any(alarms_of, axis=0)))


if __name__ == "__main__":
    main()
