"""How the results of a run folder stand against what was declared: what departs from it, and which stages get no
verdict for that. What was made otherwise than declared is exploratory for good.
"""

from collections.abc import Mapping
from typing import Any

from tokentrial import __version__
from tokentrial.run.declaration import AGAIN, declaration, differences_from, read_declared, settings_of, why_broken
from tokentrial.steps.stage import stage_names, stages
from tokentrial.trial.declaration import Declared, Standing, differences
from tokentrial.trial.settings import Verdict
from tokentrial.trial.trial import Trial

# settings whose declared values are used in any case: a change of them touches no result
_ANALYSIS = ("trial", "arms", "seeds", "control", "verdict", "sweep", "robustness_reruns", "ladder")


def standing(trial: Trial) -> Standing:
    """How the run folder's results stand against what was declared."""
    before = read_declared(trial.folder)
    measured = {stage.measures: _chain(trial, stage.name) for stage in stages(trial) if stage.measures}
    if before is None or "declaration" not in before:
        return _without_settings(trial, before, list(measured))
    withheld: dict[str, str] = {}
    departures = []
    if broken := why_broken(trial):
        departures.append(broken)
        withheld = dict.fromkeys(measured, broken)
    changes = [
        (f"{name}: {change}", "now") for name, change in differences_from(before["declaration"], declaration(trial))
    ]
    if before["tokentrial"] != __version__:  # reading what another release made changes nothing in it
        changes = [(c, since) for c, since in changes if _is_known(c.split(": ")[0], before["declaration"])]
    # also one that was taken back: its results may have been seen
    of_amendments = [
        (change, f"since {amendment['time']}") for amendment in before["amendments"] for change in amendment["changes"]
    ]
    for change, since in {**dict(changes), **dict(reversed(of_amendments))}.items():
        name = change.split(": ")[0]
        words = f"{change}, {since}"
        is_of_analysis = _of_analysis(name, before["declaration"])
        departures.append(f"{words}; " + ("what was declared counts" if is_of_analysis else "exploratory"))
        for stage, chain in measured.items():
            if not is_of_analysis and _stage_of(trial, name) in (*chain, None):
                withheld.setdefault(stage, words)
    for amendment in before["amendments"]:
        for stage, chain in measured.items():
            if again := [name for name in amendment["replaced"] if name in chain]:
                words = f"{AGAIN}, on {amendment['time']}: {', '.join(again)} made again"
                departures.append(f"{stage}: {words}")
                withheld.setdefault(stage, words)
    frozen = before["declaration"]
    return Standing(_declared(frozen), before["sha256"], before["time"], frozen["settings"], departures, withheld)


def _without_settings(trial: Trial, before: Mapping[str, Any] | None, measured: list[str]) -> Standing:
    """Of a trial that is not declared yet, or was by 0.1, whose declaration held seeds and outcomes alone."""
    own = settings_of(trial)
    if lost := why_broken(trial):
        return Standing(_declared(own), None, None, own["settings"], [lost], dict.fromkeys(measured, lost))
    if before is None:
        return Standing(_declared(own), None, None, own["settings"], [], {})
    verdict = {name: before[name] for name in Verdict.model_fields if name in before}
    old = {"seeds": before["seeds"], "control": before["control"], "verdict": verdict}
    held = {"seeds": own["seeds"], "control": own["control"], "verdict": {k: own["verdict"][k] for k in verdict}}
    # comparisons of 0.1 had no smallest effect of their own
    for pair in (held["verdict"].get("primary", {}), *held["verdict"].get("secondary", ())):
        if pair.get("smallest_effect") is None:
            pair.pop("smallest_effect", None)
    departures = [f"{name}: {change}; what was declared counts" for name, change in differences(old, held)]
    note = "declared by an earlier release, whose declaration did not cover the settings"
    return Standing(_declared(old | {"arms": trial.arms}), None, None, own["settings"], [note, *departures], {})


def _declared(declaration: Mapping[str, Any]) -> Declared:
    verdict = Verdict.model_validate(declaration["verdict"])
    return Declared(declaration["arms"], declaration["seeds"], declaration["control"], verdict)


def _chain(trial: Trial, name: str) -> list[str]:
    """A stage and those that it was made from."""
    reads = {stage.name: stage.reads for stage in stages(trial)}
    chain = [name]
    while before := reads[chain[-1]]:
        chain.append(before)
    return [*chain, "corpus"]


def _of_analysis(name: str, declared: Mapping[str, Any]) -> bool:
    if name == "control" and declared["settings"]["budget"]["match"] == "bytes":
        return False  # every arm reads as many bytes as the control
    return name.split(".")[0] in _ANALYSIS


def _is_known(name: str, declared: Mapping[str, Any]) -> bool:
    """Whether a declaration of another release says anything of this setting; of versions this one knows nothing.
    A declaration without `ladder` or `tune` says that there is none."""
    if (part := name.split(".")[0]) in ("ladder", "tune") and part not in declared:
        return True
    value: Any = declared
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return not name.startswith("versions.")


def _stage_of(trial: Trial, name: str) -> str | None:
    """The only stage that a setting affects; None if it may affect all."""
    part, _, rest = name.partition(".")
    if part == "versions":
        return None if rest.startswith("arm ") else rest
    if rest.startswith("stages."):
        stage = rest.split(".")[1]
        return stage if stage in stage_names(trial) else None
    return first if (first := rest.split(".")[0]) in ("sft", "grpo") else None
