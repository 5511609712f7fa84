"""What a trial's variants show, from their own reports: each declared outcome against what is swept, and the primary
contrast run again. All of it is beside the declared verdict and has none of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.store.files import read_json
from tokentrial.trial.load import parse
from tokentrial.trial.sweep import Variant, variants
from tokentrial.trial.trial import Trial

_PARTS = ("arms", "control", "seeds", "tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate")


def reports(trial: Trial, name: str) -> list[tuple[Variant, Mapping[str, Any] | None]]:
    """Each variant with its report, the file of this name; None where there is none of these settings yet, or the
    variant is the trial itself."""
    return [(variant, None if variant.is_itself else _report(variant.trial, name)) for variant in variants(trial)]


def _report(trial: Trial, name: str) -> Mapping[str, Any] | None:
    if not (path := trial.folder / name).exists():
        return None
    made: Mapping[str, Any] = read_json(path)
    same = parse(made["settings"], str(path)).experiment(*_PARTS) == trial.experiment(*_PARTS)
    return made if same and not made["missing"] else None


def shown(
    trial: Trial,
    there: Sequence[tuple[Variant, Mapping[str, Any] | None]],
    frozen: Mapping[str, Any],
    own: Mapping[str, Any],
    verdict: str | None,
) -> dict[str, Any]:
    """`sweep`: of each point the declared outcomes, arms' means and contrasts with 95 % t intervals; `also`: of each
    rerun the primary outcome, and what its verdict and the trial's say together where they differ in the budget alone.
    `own` are the trial's outcomes, for the point that is the trial itself."""
    declared: dict[str, list[str]] = {}  # contrasts by outcome
    for pair in (frozen["primary"], *frozen["secondary"]):
        declared.setdefault(pair["outcome"], []).append(pair["contrast"])
    points, reruns = [], []
    for variant, made in there:
        outcomes = own if variant.is_itself else made["outcomes"] if made else {}
        if variant.kind == "also":
            outcome, together = outcomes.get(frozen["primary"]["outcome"]), _over_budgets(variant, made, verdict)
            reruns.append({"name": variant.name, "outcome": outcome, "over_budgets": together})
        else:
            of = {name: _point(outcomes[name], pairs) for name, pairs in declared.items() if name in outcomes}
            points.append({"settings": variant.settings, "outcomes": of})
    return {"sweep": {"keys": trial.sweep, "points": points}, "also": reruns}


def _over_budgets(variant: Variant, made: Mapping[str, Any] | None, verdict: str | None) -> str | None:
    from tokentrial.statistics.verdict import combine_budgets

    if made is None or list(variant.settings) != ["budget.match"]:
        return None
    again = made["primary"]["verdict"]
    return combine_budgets(verdict, again) if verdict and again else None


def _point(outcome: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    from tokentrial.statistics.paired import paired_t

    there = {arm: [v for v in per_seed if v is not None] for arm, per_seed in outcome["per_seed"].items()}
    means = {arm: paired_t(values) for arm, values in there.items() if values}
    contrasts = {pair: outcome["contrasts"][pair] for pair in pairs if pair in outcome["contrasts"]}
    return {
        "floor": outcome["floor"],
        "arms": {arm: {"mean": made.mean, "ci95": made.ci95, "n": made.n} for arm, made in means.items()},
        "contrasts": {
            pair: {"mean": made["difference"], "ci95": made["ci95"], "n": made["n_seeds"]}
            for pair, made in contrasts.items()
        },
    }
