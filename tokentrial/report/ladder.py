"""The ladder of sizes, from the reports of its rungs: every declared difference by size, its trend over compute, and
what each arm is worth in compute. A seed is a replicate of the whole ladder: only seeds that every size has count."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokentrial.report.outcomes import GROUPS, METRICS
from tokentrial.report.results import mean_of
from tokentrial.report.variants import VariantReport
from tokentrial.statistics.contrast import bound_of_both
from tokentrial.statistics.decision import decide_trends
from tokentrial.statistics.paired import paired_differences, paired_t, sign_flip
from tokentrial.statistics.scaling import Multiplier, multiplier, slopes, summarise
from tokentrial.trial.declaration import Declared
from tokentrial.trial.ladder import size_name
from tokentrial.trial.settings import Compared
from tokentrial.trial.trial import Trial

Report = Mapping[str, Any]
Size = tuple[str, Report]  # name, and the report of its trial
TEXT_BITS = "pretrain/heldout_text/untouched/bits_per_byte"  # asked of every ladder, declared or not


def ladder(trial: Trial, declared: Declared, reports: Sequence[VariantReport], own: Report) -> dict[str, Any] | None:
    """What the page and the tables show of the ladder; None where the trial has none. `own` is the trial's own report,
    of which `outcomes`, `consumed`, `curves`, `declared`, `declaration`, `settings` and `missing` are read: it is one
    of the sizes."""
    if trial.ladder is None:
        return None
    by_name = {variant.name: report for variant, report in reports if variant.kind == "ladder"}
    by_name[size_name(trial.pretrain)] = None if own["missing"] else own
    complete = [(name, report) for name, report in by_name.items() if report and declared.control in report["consumed"]]
    sizes = sorted(complete, key=lambda size: _flops(size[1], declared.control))
    measured = dict(complete)
    missing = [name for name in by_name if name not in measured]
    content: dict[str, Any] = {
        "sizes": [_size(name, report, declared.control) for name, report in sizes],
        "missing": missing,
        "departures": _departures(sizes, own),
        "trends": [],
        "multipliers": [],
    }
    if len(sizes) < 2:
        return content
    verdict = declared.verdict
    compared = [verdict.primary, *verdict.secondary]
    fewest = min([len(declared.seeds), *(rung.seeds for rung in trial.ladder.sizes if rung.seeds)])
    trends = [
        _trend(pair, verdict.margin(pair), sizes, declared.seeds[:fewest], content["departures"]) for pair in compared
    ]
    if missing:  # their slopes would be those of the others
        trends = [trend | {"slope": None, "ci95": None, "p": None} for trend in trends]
    content["trends"] = decide_trends(trends, verdict.alpha)
    outcomes = dict.fromkeys([*(pair.outcome for pair in compared), TEXT_BITS])
    for arms in dict.fromkeys(pair.arms for pair in compared):
        for outcome in outcomes:
            pair = Compared(outcome=outcome, contrast=" - ".join(arms))
            declared_pair = next((p for p in compared if (p.outcome, p.arms) == (outcome, arms)), pair)
            content["multipliers"] += _multipliers(declared_pair, verdict.margin(declared_pair), sizes)
        for group in GROUPS:
            content["multipliers"] += [_steps_to_60(group, arms, size) for size in sizes]
    content["multipliers"] = [record for record in content["multipliers"] if record["by_seed"]]
    return content


def _departures(sizes: Sequence[Size], own: Report) -> dict[str, str]:
    """By stage that is measured, why its trends are exploratory: a size of which it did not run as declared, or sizes
    that were not declared."""
    departures = {
        stage: f"{name}: {why}" for name, report in sizes for stage, why in report["declaration"]["withheld"].items()
    }
    if changed := [words for words in own["declaration"]["departures"] if words.startswith("ladder")]:
        departures |= {outcome.partition("/")[0]: changed[0] for outcome in own["outcomes"]}
    return departures


def _flops(report: Report, arm: str) -> float:
    """FLOPs of pretraining one cell of an arm, mean over seeds."""
    return float(report["consumed"][arm]["flops"])


def _size(name: str, report: Report, control: str) -> dict[str, Any]:
    consumed = report["consumed"][control]
    return {
        "name": name,
        "parameters": consumed["parameters"],
        "tokens": consumed["tokens"],
        "flops": consumed["flops"],
        "tokens_per_byte": {arm: total["tokens"] / total["bytes"] for arm, total in report["consumed"].items()},
        "lr": report["settings"]["pretrain"]["lr"],
        "seeds": report["declared"]["seeds"],
    }


def _by_seed(report: Report, outcome: str, arm: str) -> dict[int, float]:
    """An arm's values of the declared seeds; any that were added are exploratory, and in no trend."""
    per_seed = report["outcomes"].get(outcome, {}).get("per_seed", {}).get(arm, [])
    declared = report["declared"]["seeds"]
    values = zip(report["seeds"], per_seed, strict=False)
    return {seed: value for seed, value in values if value is not None and seed in declared}


def _common(sizes: Sequence[Size], pair: Compared) -> list[int]:
    """Seeds that have the outcome in both arms at every size."""
    seeds_of = [set(_by_seed(report, pair.outcome, arm)) for _, report in sizes for arm in pair.arms]
    return sorted(set.intersection(*seeds_of))


def _bound(report: Report, pair: Compared, margin: float | None) -> str | None:
    """`floor` or `ceiling` where both arms lie there; None where the outcome has no such end or was not measured."""
    values = [[*_by_seed(report, pair.outcome, arm).values()] for arm in pair.arms]
    if not all(values):
        return None
    ceiling = METRICS[pair.outcome.rsplit("/", 1)[1]].ceiling
    treatment_mean, control_mean = map(mean_of, values)
    return bound_of_both(treatment_mean, control_mean, report["outcomes"][pair.outcome]["floor"], ceiling, margin or 0)


def _trend(
    pair: Compared, margin: float | None, sizes: Sequence[Size], expected: Sequence[int], departures: Mapping[str, str]
) -> dict[str, Any]:
    """A declared contrast at each size, over the seeds of that size, and its trend over the seeds that every size has:
    as declared where these are the `expected` ones, since whoever leaves a seed out may have seen it."""
    scores = [tuple(_by_seed(report, pair.outcome, arm) for arm in pair.arms) for _, report in sizes]
    by_size = []
    for (name, report), (a, b) in zip(sizes, scores, strict=True):
        seeds = sorted(a.keys() & b.keys())
        t = paired_t(paired_differences([a[s] for s in seeds], [b[s] for s in seeds])) if seeds else None
        bound = _bound(report, pair, margin)
        by_size.append({"size": name, "mean": t and t.mean, "ci95": t and t.ci95, "n": len(seeds), "bound": bound})
    common = _common(sizes, pair)
    record: dict[str, Any] = {
        "outcome": pair.outcome,
        "contrast": pair.contrast,
        "higher_is_better": METRICS[pair.outcome.rsplit("/", 1)[1]].higher_is_better,
        "as_declared": pair.outcome.partition("/")[0] not in departures and common == sorted(expected),
        "by_size": by_size,
        "seeds": common,
        "lacks": sorted({*expected} - {*common}) if common else [],
        "slope": None,
        "ci95": None,
        "p": None,
    }
    if common:
        rows = [paired_differences([a[s] for a, _ in scores], [b[s] for _, b in scores]) for s in common]
        by_seed = slopes(rows, [_flops(report, pair.arms[1]) for _, report in sizes])
        t = paired_t(by_seed)
        # as of a contrast: where all slopes are equal, Student's t has no p
        p = sign_flip(by_seed, np.random.default_rng(0)) if t.sd == 0 else t.p
        record |= {"slope": t.mean, "ci95": t.ci95, "p": p}
    return record


def _multipliers(pair: Compared, margin: float | None, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """An arm's compute multiplier at each size, of an outcome that is a loss or, as log-probability, one with its sign
    turned; nothing of others."""
    metric, (treatment, control) = METRICS[pair.outcome.rsplit("/", 1)[1]], pair.arms
    sign = 1 if not metric.higher_is_better else -1 if metric.ceiling == 0.0 else 0
    seeds = _common(sizes, pair)
    if not sign or not seeds:
        return []
    compute = [_flops(report, control) for _, report in sizes]
    lines = [[sign * _by_seed(report, pair.outcome, control)[s] for _, report in sizes] for s in seeds]
    records = []
    for name, report in sizes:
        values = [sign * _by_seed(report, pair.outcome, treatment)[s] for s in seeds]
        worth = multiplier(lines, compute, values, _flops(report, treatment))
        records.append(_record(pair.outcome, pair.arms, name, seeds, worth, _bound(report, pair, margin)))
    return records


def _steps_to_60(group: str, arms: tuple[str, str], size: Size) -> dict[str, Any]:
    """At one size: steps after which the control has 60 % of the facts, over those of the treatment, by seed; of no
    seed where no fact is in the group, and of none whose arms were asked at another number of points."""
    name, report = size
    declared = report["declared"]["seeds"]
    steps = [
        {
            int(seed): (curve["steps_to_60"][group], len(curve["points"]))
            for seed, curve in report["curves"].get(arm, {}).items()
            if int(seed) in declared and any(group in point for point in curve["points"])
        }
        for arm in arms
    ]
    treatment, control = steps
    seeds = sorted(treatment.keys() & control.keys())
    ratios = [
        needed / taken if needed and taken and points == points_of_control else None
        for (taken, points), (needed, points_of_control) in ((treatment[s], control[s]) for s in seeds)
    ]
    return _record(f"pretrain/steps_to_60/{group}", arms, name, seeds, summarise(ratios), None)


def _record(
    outcome: str, arms: tuple[str, str], size: str, seeds: Sequence[int], worth: Multiplier, bound: str | None
) -> dict[str, Any]:
    record = {"outcome": outcome, "contrast": " - ".join(arms), "size": size, "seeds": seeds, "bound": bound}
    return record | worth._asdict()
