"""What a trial's variants show, from their own reports: each declared outcome against what is swept, and the primary
contrast run again. Both are exploratory: the declared verdict rests on neither, and they have none of their own."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

from tokentrial.store.files import read_json
from tokentrial.trial.load import parse
from tokentrial.trial.sweep import Variant, variants
from tokentrial.trial.trial import Trial

if TYPE_CHECKING:
    from tokentrial.report.analysis import Analysis

VariantReport = tuple[Variant, Mapping[str, Any] | None]
_PARTS = (
    *("arms", "control", "seeds", "facts", "tokenizer", "corpus", "pretrain", "budget"),
    *("sft", "grpo", "tasks", "evaluate", "stages"),
)


class Rerun(NamedTuple):
    """The primary contrast with other settings: a check of the primary's, without a verdict of its own."""

    name: str
    results: Mapping[str, Mapping[int, float]]  # of the primary outcome, by arm and seed; empty where not measured
    is_other_budget: bool  # whether it differs in `budget.match` alone


def variant_reports(trial: Trial, name: str, version: int) -> list[VariantReport]:
    """Each variant with its report, the file of this name; None where there is none of these settings and this version
    yet, or the variant is the trial itself."""
    every = variants(trial)
    return [(variant, None if variant.is_itself else _report(variant.trial, name, version)) for variant in every]


def _report(trial: Trial, name: str, version: int) -> Mapping[str, Any] | None:
    if not (path := trial.folder / name).exists():
        return None
    report: Mapping[str, Any] = read_json(path)
    if report.get("version") != version:
        return None  # it is made again with the trial's
    same = parse(report["settings"], str(path)).experiment(*_PARTS) == trial.experiment(*_PARTS)
    return report if same and not report["missing"] else None


def reruns(reports: Sequence[VariantReport], outcome: str) -> list[Rerun]:
    """The primary outcome of each robustness rerun, by arm and seed."""
    all_reruns = []
    for variant, report in reports:
        if variant.kind == "also":
            per_seed = report["outcomes"].get(outcome, {}).get("per_seed", {}) if report else {}
            values = {
                arm: {seed: v for seed, v in zip(report["seeds"], of_arm, strict=True) if v is not None}
                for arm, of_arm in per_seed.items()
                if report
            }
            all_reruns.append(Rerun(variant.name, values, list(variant.settings) == ["budget.match"]))
    return all_reruns


def swept(trial: Trial, reports: Sequence[VariantReport], own: "Analysis") -> dict[str, Any]:
    """Of each point of the sweep the declared outcomes: arms' means, and contrasts, with 95 % t intervals over the
    seeds that count. `own` is the trial's analysis, for the point that is the trial itself."""
    points = []
    for variant, report in reports:
        if variant.kind == "sweep":
            contrasts = own.contrasts if variant.is_itself else report["contrasts"] if report else []
            declared = [c for c in contrasts if c["role"] in ("primary", "secondary") and c["differences"]]
            outcomes: dict[str, Any] = {}
            for c in declared:
                outcome = (own.outcomes if not report else report["outcomes"])[c["outcome"]]
                counts = [s in c["seeds"] for s in (report["seeds"] if report else trial.seeds)]
                point = outcomes.setdefault(c["outcome"], _point(outcome, counts))
                point["contrasts"][f"{c['treatment']} - {c['control']}"] = {
                    "mean": c["difference"],
                    "ci95": mean_with_interval(c["differences"])["ci95"],
                    "n": len(c["seeds"]),
                }
            points.append({"settings": variant.settings, "outcomes": outcomes})
    return {"keys": trial.sweep, "points": points}


def _point(outcome: Mapping[str, Any], counts: Sequence[bool]) -> dict[str, Any]:
    per_seed = outcome["per_seed"]
    values = {arm: [v for v in compress(per_seed[arm], counts) if v is not None] for arm in per_seed}
    arms = {arm: mean_with_interval(measured) for arm, measured in values.items() if measured}
    return {"floor": outcome["floor"], "arms": arms, "contrasts": {}}


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds and its 95 % t interval."""
    from tokentrial.statistics.paired import paired_t

    t = paired_t(values)
    return {"mean": t.mean, "ci95": t.ci95, "n": t.n}
