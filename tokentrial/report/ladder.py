"""The ladder of sizes, from the reports of its rungs: every declared difference by size, its trend over compute, and
what each arm is worth in compute. A seed is a replicate of the whole ladder: only seeds that every size has count."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.report.outcomes import GROUPS, METRICS
from tokentrial.report.variants import VariantReport
from tokentrial.statistics.decision import decide_trends
from tokentrial.statistics.paired import paired_differences, paired_t
from tokentrial.statistics.scaling import Multiplier, multiplier, summarise, trend
from tokentrial.trial.ladder import size_name
from tokentrial.trial.trial import Trial

Report = Mapping[str, Any]
TEXT_BITS = "pretrain/heldout_text/untouched/bits_per_byte"  # asked of every ladder, declared or not


def ladder(trial: Trial, reports: Sequence[VariantReport], own: Report) -> dict[str, Any] | None:
    """What the page and the tables show of the ladder; None where the trial has none. `own` is the trial's own report,
    of which `outcomes`, `consumed`, `curves`, `seeds`, `declaration`, `settings` and `missing` are read: it is one of
    the sizes."""
    if trial.ladder is None:
        return None
    of_ladder = [(variant.name, report) for variant, report in reports if variant.kind == "ladder"]
    missing = [name for name, report in of_ladder if report is None]
    missing += [size_name(trial.pretrain)] if own["missing"] else []
    sizes = [*((name, report) for name, report in of_ladder if report is not None), (size_name(trial.pretrain), own)]
    sizes.sort(key=lambda size: _flops(size[1], trial.control))
    compute = [_flops(report, trial.control) for _, report in sizes]
    content: dict[str, Any] = {
        "sizes": [_size(name, report, trial.control) for name, report in sizes],
        "missing": missing,
        "departures": [name for name, report in sizes if report["declaration"]["departures"]],
        "trends": [],
        "multipliers": [],
    }
    if len(sizes) < 2:
        return content
    whole = None if missing else compute
    trends = [_trend(pair.outcome, pair.arms, sizes, whole) for pair in trial.compared]
    content["trends"] = decide_trends(trends, trial.verdict.alpha, bool(content["departures"]))
    pairs = dict.fromkeys(pair.arms for pair in trial.compared)
    outcomes = dict.fromkeys([*(pair.outcome for pair in trial.compared), TEXT_BITS])
    for arms in pairs:
        for outcome in outcomes:
            content["multipliers"] += _multipliers(outcome, arms, sizes)
        for group in GROUPS:
            content["multipliers"] += [_steps_to_60(group, arms, size) for size in sizes]
    content["multipliers"] = [record for record in content["multipliers"] if record["by_seed"]]
    return content


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
        "seeds": report["seeds"],
    }


def _by_seed(report: Report, outcome: str, arm: str) -> dict[int, float]:
    per_seed = report["outcomes"].get(outcome, {}).get("per_seed", {}).get(arm, [])
    return {seed: value for seed, value in zip(report["seeds"], per_seed, strict=False) if value is not None}


def _common(sizes: Sequence[tuple[str, Report]], outcome: str, arms: Sequence[str]) -> list[int]:
    """Seeds that have the outcome in both arms at every size."""
    seeds_of = [set(_by_seed(report, outcome, arm)) for _, report in sizes for arm in arms]
    return sorted(set.intersection(*seeds_of))


def _trend(
    outcome: str, arms: tuple[str, str], sizes: Sequence[tuple[str, Report]], compute: Sequence[float] | None
) -> dict[str, Any]:
    """A declared contrast at each size, over the seeds of that size, and its trend over those of all sizes; without
    one where `compute` is None: a size is still missing."""
    treatment, control = arms
    by_size = []
    for name, report in sizes:
        a, b = _by_seed(report, outcome, treatment), _by_seed(report, outcome, control)
        seeds = sorted(a.keys() & b.keys())
        t = paired_t(paired_differences([a[s] for s in seeds], [b[s] for s in seeds])) if seeds else None
        by_size.append({"size": name, "mean": t and t.mean, "ci95": t and t.ci95, "n": len(seeds)})
    record: dict[str, Any] = {
        "outcome": outcome,
        "contrast": f"{treatment} - {control}",
        "higher_is_better": METRICS[outcome.rsplit("/", 1)[1]].higher_is_better,
        "by_size": by_size,
        "seeds": _common(sizes, outcome, arms),
        "slope": None,
        "ci95": None,
        "p": None,
    }
    if compute and record["seeds"]:
        of_arm = {arm: [_by_seed(report, outcome, arm) for _, report in sizes] for arm in arms}
        rows = [
            paired_differences([size[s] for size in of_arm[treatment]], [size[s] for size in of_arm[control]])
            for s in record["seeds"]
        ]
        t = trend(rows, compute).over_seeds
        record |= {"slope": t.mean, "ci95": t.ci95, "p": t.p}
    return record


def _multipliers(outcome: str, arms: tuple[str, str], sizes: Sequence[tuple[str, Report]]) -> list[dict[str, Any]]:
    """An arm's compute multiplier at each size, of an outcome that is a loss or, as log-probability, one with its sign
    turned; nothing of others."""
    metric, (treatment, control) = METRICS[outcome.rsplit("/", 1)[1]], arms
    sign = 1 if not metric.higher_is_better else -1 if metric.ceiling == 0.0 else 0
    seeds = _common(sizes, outcome, arms)
    if not sign or not seeds:
        return []
    compute = [_flops(report, control) for _, report in sizes]
    lines = [[sign * _by_seed(report, outcome, control)[s] for _, report in sizes] for s in seeds]
    records = []
    for name, report in sizes:
        values = [sign * _by_seed(report, outcome, treatment)[s] for s in seeds]
        worth = multiplier(lines, compute, values, _flops(report, treatment))
        records.append(_record(outcome, arms, name, seeds, worth))
    return records


def _steps_to_60(group: str, arms: tuple[str, str], size: tuple[str, Report]) -> dict[str, Any]:
    """At one size: steps after which the control has 60 % of the facts, over those of the treatment, by seed."""
    name, report = size
    steps = [{int(s): c["steps_to_60"][group] for s, c in report["curves"].get(arm, {}).items()} for arm in arms]
    treatment, control = steps
    seeds = sorted(treatment.keys() & control.keys())
    ratios = [control[s] / treatment[s] if control[s] and treatment[s] else None for s in seeds]
    return _record(f"pretrain/steps_to_60/{group}", arms, name, seeds, summarise(ratios))


def _record(outcome: str, arms: tuple[str, str], size: str, seeds: Sequence[int], worth: Multiplier) -> dict[str, Any]:
    return {"outcome": outcome, "contrast": " - ".join(arms), "size": size, "seeds": seeds} | worth._asdict()
