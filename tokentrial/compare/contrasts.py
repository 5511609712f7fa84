"""Which systems are compared with which, on what. No contrast depends on which others are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

from tokentrial.compare.contrast_tests import compare_arms, compare_models
from tokentrial.compare.run_report import Reported, read_report
from tokentrial.compare.system import System, SystemContrast
from tokentrial.errors import SettingsError
from tokentrial.trial.declaration import EXPERIMENT, differences
from tokentrial.trial.trial import Trial

_HELD_OUT = "heldout_text"


class Comparison(NamedTuple):
    contrasts: list[SystemContrast]
    notes: list[str]
    declared: frozenset[str]  # outcomes that a verdict of one of the runs goes by


def compare_systems(groups: Sequence[Sequence[System]], wanted: Sequence[str] = ()) -> Comparison:
    """Contrasts a - b of the pairs of systems on every outcome that both have, or on the `wanted` ones."""
    systems = [system for group in groups for system in group]
    if not systems:
        raise SettingsError("compare: no path; give run folders, cells or files of answers")
    reports = {run: read_report(run) if run else {} for run in dict.fromkeys(system.run for system in systems)}
    pairs = list(_pairs(groups, reports[systems[0].run]))
    if not pairs:
        raise SettingsError("compare: one system alone; give a second path, or a run folder with several arms")
    for a, b in pairs:
        if a.arm_folder is not None and a.arm_folder == b.arm_folder:
            raise SettingsError(
                f"compare: {a.name} and {b.name} are both of the arm {a.arm_folder}, found one sample beside a part of "
                "it, expected two samples; give two arms, or cells of two arms"
            )
    notes = [f"{system.name}: {note}" for system in systems for note in system.notes]
    trials = {system.run: system.trial for system in systems if system.run and system.trial}
    notes += [_what_differs(*first, *second) for first, second in combinations(trials.items(), 2)]
    contrasts: list[SystemContrast] = []
    for a, b in pairs:
        outcomes = [name for name in a.outcomes if name in b.outcomes and (not wanted or name in wanted)]
        texts = {model.heldout_texts for system in (a, b) for model in system.models.values()}
        if len(texts) > 1 and any(_HELD_OUT in name for name in outcomes):
            outcomes = [name for name in outcomes if _HELD_OUT not in name]
            notes.append(f"{a.name}, {b.name}: their held-out documents differ, so bits per byte are left out")
        own = reports[a.run] if a.run == b.run else {}
        contrasts += [_compare(name, a, b, own) for name in outcomes]
    if not contrasts:
        both = sorted({name for a, b in pairs for name in a.outcomes if name in b.outcomes})
        option = f"--outcome {', '.join(wanted)}" if wanted else "compare"
        raise SettingsError(f"{option}: not an outcome of both sides, which share {', '.join(both) or 'none'}")
    verdicts = [trial.verdict for trial in trials.values()]
    declared = {compared.outcome for verdict in verdicts for compared in (verdict.primary, *verdict.secondary)}
    return Comparison(contrasts, notes, frozenset(declared))


def _what_differs(a: Path, of_a: Trial, b: Path, of_b: Trial) -> str:
    names = ", ".join(dict.fromkeys(name for name, _ in differences(_settings(of_a), _settings(of_b))))
    words = names or "none, of files their names compared"
    return f"settings that differ between {a.name} and {b.name}: {words}"


def _settings(trial: Trial) -> dict[str, Any]:
    """What a difference between two runs may come from; files by name, as their contents are not here."""
    files = {"pretrain.from_checkpoint": trial.pretrain.from_checkpoint, "tasks.gsm8k": trial.tasks.gsm8k}
    return (
        trial.experiment("arms", "control", "seeds", "tune", *EXPERIMENT)
        | files
        | {"corpus.source": trial.corpus.source}
    )


def _pairs(groups: Sequence[Sequence[System]], reported: Reported) -> Iterator[tuple[System, System]]:
    """Of one run its arms against the control and what else its report compares; of another path all its systems; of
    several paths arms of one name, or all."""
    if len(groups) == 1:
        in_report = {arms for _, arms in reported}
        no_control = not any(system.control for system in groups[0])
        for a, b in combinations(groups[0], 2):
            if no_control or a.control or b.control or {a.arm, b.arm} in in_report:
                yield (b, a) if a.control else (a, b)
    for left, right in combinations(groups, 2):
        same_arm = [(a, b) for a, b in product(left, right) if a.arm is not None and a.arm == b.arm]
        yield from same_arm if same_arm and min(len(left), len(right)) > 1 else product(left, right)


def _compare(outcome: str, a: System, b: System, reported: Reported) -> SystemContrast:
    if len(a.models) == len(b.models) == 1:  # of one seed a report can say nothing
        return compare_models(outcome, a, b)
    if own := reported.get((outcome, frozenset(filter(None, (a.arm, b.arm))))):
        treatment, control = (a, b) if own.a == a.arm else (b, a)
        return replace(own, a=treatment.name, b=control.name)
    return compare_arms(outcome, a, b)
