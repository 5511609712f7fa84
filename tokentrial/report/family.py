"""What a trial's variants show, from their own reports: each declared outcome against what is swept, and the primary
contrast run again. All of it is beside the declared verdict and has none of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.store import read_json
from tokentrial.sweep import Variant, variants
from tokentrial.trial import Trial, parse

_PARTS = ("arms", "control", "seeds", "tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate")

Report = Mapping[str, Any]


def reports(trial: Trial, name: str) -> list[tuple[Variant, Report | None]]:
    """Each variant with its report, the file of this name; None where there is none of these settings yet, or the
    variant is the trial itself."""
    return [(variant, _report(variant, name)) for variant in variants(trial)]


def _report(variant: Variant, name: str) -> Report | None:
    path = variant.trial.folder / name
    if variant.is_itself or not path.exists():
        return None
    made: Report = read_json(path)
    of = parse(made["settings"], str(path))
    same = of.experiment(*_PARTS) == variant.trial.experiment(*_PARTS)
    return made if same and not made["missing"] else None


def shown(
    trial: Trial,
    there: Sequence[tuple[Variant, Report | None]],
    declared: Sequence[tuple[str, str]],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """`sweep`: of each point the declared outcomes, arms' means and contrasts with 95 % t intervals; `also`: of each
    rerun the primary outcome. `own` are the trial's outcomes, for the point that is the trial itself."""
    names = list(dict.fromkeys(name for name, _ in declared))
    points, reruns = [], []
    for variant, made in there:
        outcomes = own if variant.is_itself else made["outcomes"] if made else {}
        if variant.kind == "also":
            reruns.append({"name": variant.name, "outcome": outcomes.get(names[0])})
        else:
            there_now = {name: _point(outcomes[name], declared, name) for name in names if name in outcomes}
            points.append({"settings": variant.settings, "outcomes": there_now})
    return {"sweep": {"keys": trial.sweep, "points": points}, "also": reruns}


def _point(outcome: Mapping[str, Any], declared: Sequence[tuple[str, str]], name: str) -> dict[str, Any]:
    from tokentrial.statistics.paired import paired_t

    arms = {}
    for arm, per_seed in outcome["per_seed"].items():
        if values := [value for value in per_seed if value is not None]:
            made = paired_t(values)
            arms[arm] = {"mean": made.mean, "ci95": made.ci95, "n": made.n}
    contrasts = {
        pair: {"mean": made["difference"], "ci95": made["ci95"], "n": made["n_seeds"]}
        for of, pair in declared
        if of == name and (made := outcome["contrasts"].get(pair))
    }
    return {"floor": outcome["floor"], "arms": arms, "contrasts": contrasts}
