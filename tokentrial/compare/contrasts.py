"""Which systems are compared with which, and what all their contrasts together let one say."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

from tokentrial.compare.runs import read_declaration, read_report
from tokentrial.compare.system import System
from tokentrial.compare.system_contrast import (
    ALPHA,
    SystemContrast,
    compare_arms,
    compare_models,
    from_report,
    join_notes,
)
from tokentrial.errors import SettingsError
from tokentrial.statistics.paired import holm
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, NOT_LEARNT, gate_failure

_HELD_OUT = "heldout_text"
_GATED = re.compile(r"pretrain/\w+_table/asked/accuracy")  # of whatever facts the trial is about

# which contrasts are corrected together for their number
_DECLARED = "its run has judged it, or it is exploratory there"
_ARMS = "arms of several runs: a verdict must survive Holm"
_MODELS = "models: described one by one, with a word on Holm"
InFamily = tuple[SystemContrast, str]


class Comparison(NamedTuple):
    contrasts: list[SystemContrast]
    notes: list[str]


def compare_systems(groups: Sequence[Sequence[System]], wanted: Sequence[str] = ()) -> Comparison:
    """Contrasts a - b of the pairs of systems on every outcome that both have, or on the `wanted` ones.

    Two arms of one run get what their run's report says. Of two runs nothing was declared beforehand, so a verdict
    must survive Holm's correction over all contrasts of arms that are made here.
    """
    pairs = list(_pairs(groups))
    if not pairs:
        raise SettingsError("compare: one system alone; give a second path, or a run folder with several arms")
    notes = [f"{system.name}: {note}" for group in groups for system in group for note in system.notes]
    contrasts: list[InFamily] = []
    for a, b in pairs:
        outcomes = [name for name in a.outcomes if name in b.outcomes and (not wanted or name in wanted)]
        texts = {model.heldout_fingerprint for system in (a, b) for model in system.models.values()}
        if len(texts) > 1 and any(_HELD_OUT in name for name in outcomes):
            outcomes = [name for name in outcomes if _HELD_OUT not in name]
            notes.append(f"{a.name}, {b.name}: their held-out documents differ, so bits per byte are left out")
        contrasts += _compare_pair(a, b, outcomes)
    if not contrasts:
        known = sorted({name for pair in pairs for system in pair for name in system.outcomes})
        option = f"--outcome {', '.join(wanted)}: " if wanted else "compare: "
        raise SettingsError(f"{option}no outcome that both sides have; there are {', '.join(known)}")
    return Comparison(_correct_for_number(contrasts), notes)


def _pairs(groups: Sequence[Sequence[System]]) -> Iterator[tuple[System, System]]:
    """Of one path its arms against the control, or all its systems; of several, arms of one name, or all."""
    if len(groups) == 1:
        control = next((system for system in groups[0] if system.control), None)
        if control is None:
            yield from combinations(groups[0], 2)
        else:
            yield from ((system, control) for system in groups[0] if system is not control)
    for left, right in combinations(groups, 2):
        same_arm = [(a, b) for a, b in product(left, right) if a.arm is not None and a.arm == b.arm]
        yield from same_arm if same_arm and min(len(left), len(right)) > 1 else product(left, right)


def _compare_pair(a: System, b: System, outcomes: Sequence[str]) -> list[InFamily]:
    """The contrasts of one pair, each with the family that it is corrected in."""
    fewer, more = sorted((len(a.models), len(b.models)))
    if more == 1:
        return [(compare_models(name, a, b), _MODELS) for name in outcomes]
    if a.run and b.run and a.run.resolve() == b.run.resolve():
        report = read_report(a.run)
        reported = {name: from_report(report, name, a, b) if report else None for name in outcomes}
        return [
            (contrast or compare_arms(name, a, b, None, declared=False), _DECLARED)
            for name, contrast in reported.items()
        ]
    declarations = [read_declaration(system.run) if system.run else None for system in (a, b)]
    margins = {declaration.smallest_effect if declaration else None for declaration in declarations}
    margin = margins.pop() if len(margins) == 1 else None  # equivalence needs one that both runs declare
    contrasts = [compare_arms(name, a, b, margin, declared=True) for name in outcomes]
    if fewer == 1:
        return [(contrast, _MODELS) for contrast in contrasts]
    if failure := _gate_failure(a, b):
        contrasts = [replace(c, verdict=NOT_LEARNT, note=join_notes(c.note, failure)) for c in contrasts]
    return [(contrast, _ARMS) for contrast in contrasts]


def _gate_failure(a: System, b: System) -> str | None:
    """The gate of the control's run, where one of two runs' arms is its control."""
    for system in (b, a):
        declaration = read_declaration(system.run) if system.run and system.control else None
        asked = next(filter(_GATED.fullmatch, system.outcomes), None)
        if declaration and declaration.gate and asked:
            never_asked = asked.replace("/asked/", "/never_asked/")
            models, gate = system.models.values(), declaration.gate
            never = [model.value(never_asked) for model in models] if never_asked in system.outcomes else None
            return gate_failure([model.value(asked) for model in models], never, gate.asked, gate.never_asked)
    return None


def _correct_for_number(in_families: Sequence[InFamily]) -> list[SystemContrast]:
    """The contrasts with p adjusted over each family, and what becomes of their verdicts."""
    contrasts = [contrast for contrast, _ in in_families]
    for family in (_ARMS, _MODELS):
        p_values = {i: c.p for i, (c, of) in enumerate(in_families) if of == family and c.p is not None}
        for (i, p), p_holm in zip(p_values.items(), holm([*p_values.values()]), strict=True):
            assert p_holm is not None
            lost = p < ALPHA <= p_holm
            notes, verdict = [contrasts[i].note], contrasts[i].verdict
            if family == _ARMS:
                notes.append(f"not declared before the runs: Holm over {len(p_values)} contrasts")
                verdict = NO_DIFFERENCE if lost and verdict in (HELPS, HURTS) else verdict
            if lost:
                notes.append(f"not significant among the {len(p_values)} contrasts shown (Holm p = {p_holm:.3g})")
            contrasts[i] = replace(contrasts[i], p_holm=p_holm, verdict=verdict, note=join_notes(*notes))
    return contrasts
