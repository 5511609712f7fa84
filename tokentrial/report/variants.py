"""What a trial's variants show, from their own reports: each declared outcome against what is swept, and the primary
contrast run again. Both are exploratory: the declared verdict rests on neither, and they have none of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.store.files import read_json
from tokentrial.trial.load import parse
from tokentrial.trial.sweep import Variant, variants
from tokentrial.trial.trial import Trial

VariantReport = tuple[Variant, Mapping[str, Any] | None]
_PARTS = ("arms", "control", "seeds", "tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate")


def variant_reports(trial: Trial, name: str) -> list[VariantReport]:
    """Each variant with its report, the file of this name; None where there is none of these settings yet, or the
    variant is the trial itself."""
    return [(variant, None if variant.is_itself else _report(variant.trial, name)) for variant in variants(trial)]


def _report(trial: Trial, name: str) -> Mapping[str, Any] | None:
    if not (path := trial.folder / name).exists():
        return None
    report: Mapping[str, Any] = read_json(path)
    same = parse(report["settings"], str(path)).experiment(*_PARTS) == trial.experiment(*_PARTS)
    return report if same and not report["missing"] else None


def summarize_variants(
    trial: Trial,
    reports: Sequence[VariantReport],
    frozen: Mapping[str, Any],
    own_outcomes: Mapping[str, Any],
    verdict: str | None,
) -> dict[str, Any]:
    """`sweep`: of each point the declared outcomes, arms' means and contrasts with 95 % t intervals; `also`: of each
    rerun the primary outcome, and what its verdict and the trial's say together where they differ in the budget alone.
    `own_outcomes` are the trial's, for the point that is the trial itself."""
    declared: dict[str, list[str]] = {}  # contrasts by outcome
    for pair in (frozen["primary"], *frozen["secondary"]):
        declared.setdefault(pair["outcome"], []).append(pair["contrast"])
    points, reruns = [], []
    for variant, report in reports:
        outcomes = own_outcomes if variant.is_itself else report["outcomes"] if report else {}
        if variant.kind == "also":
            primary, combined = outcomes.get(frozen["primary"]["outcome"]), _over_budgets(variant, report, verdict)
            reruns.append({"name": variant.name, "outcome": primary, "over_budgets": combined})
        else:
            measured = {name: _point(outcomes[name], pairs) for name, pairs in declared.items() if name in outcomes}
            points.append({"settings": variant.settings, "outcomes": measured})
    return {"sweep": {"keys": trial.sweep, "points": points}, "also": reruns}


def _over_budgets(variant: Variant, report: Mapping[str, Any] | None, verdict: str | None) -> str | None:
    from tokentrial.statistics.verdict import combine_budgets

    if report is None or list(variant.settings) != ["budget.match"]:
        return None
    other = report["primary"]["verdict"]
    return combine_budgets(verdict, other) if verdict and other else None


def _point(outcome: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    from tokentrial.statistics.paired import paired_t

    values = {arm: [v for v in per_seed if v is not None] for arm, per_seed in outcome["per_seed"].items()}
    means = {arm: paired_t(measured) for arm, measured in values.items() if measured}
    contrasts = {pair: outcome["contrasts"][pair] for pair in pairs if pair in outcome["contrasts"]}
    return {
        "floor": outcome["floor"],
        "arms": {arm: {"mean": t.mean, "ci95": t.ci95, "n": t.n} for arm, t in means.items()},
        "contrasts": {
            pair: {"mean": stats["difference"], "ci95": stats["ci95"], "n": stats["n_seeds"]}
            for pair, stats in contrasts.items()
        },
    }
