"""Which systems are held against which, and what all their contrasts together let one say."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

from tokentrial.compare.lines import ALPHA, Line, compare_arms, compare_models, from_report
from tokentrial.compare.runs import declared, reported
from tokentrial.compare.system import System
from tokentrial.errors import SettingsError
from tokentrial.statistics.paired import holm
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, NOT_LEARNT, gate

_HELD_OUT = "heldout_text"
_GATED = re.compile(r"pretrain/\w+_table/asked/accuracy")  # of whatever facts the trial is about

# how a contrast answers for the others that it was made with
_DECLARED = "its run has judged it, or it is exploratory there"
_ARMS = "arms of several runs: a verdict must survive Holm"
_MODELS = "models: described one by one, with a word on Holm"


class Comparison(NamedTuple):
    contrasts: list[Line]
    notes: list[str]


def compare(groups: Sequence[Sequence[System]], wanted: Sequence[str] = ()) -> Comparison:
    """Contrasts a - b of the pairs of systems on every outcome that both have, or on the `wanted` ones.

    Two arms of one run get what their run's report says. Of two runs nothing was declared beforehand, so a verdict
    must survive Holm's correction over all contrasts of arms that are made here.
    """
    pairs = list(_pairs(groups))
    if not pairs:
        raise SettingsError("compare: one system alone; give a second path, or a run folder with several arms")
    notes = [f"{system.name}: {note}" for group in groups for system in group for note in system.notes]
    made: list[tuple[Line, str]] = []
    for a, b in pairs:
        outcomes = [name for name in a.outcomes if name in b.outcomes and (not wanted or name in wanted)]
        texts = {model.held_out for system in (a, b) for model in system.models.values()}
        if len(texts) > 1 and any(_HELD_OUT in name for name in outcomes):
            outcomes = [name for name in outcomes if _HELD_OUT not in name]
            notes.append(f"{a.name}, {b.name}: their held-out documents differ, so bits per byte are left out")
        made += _made(a, b, outcomes)
    if not made:
        known = sorted({name for pair in pairs for system in pair for name in system.outcomes})
        asked = f"--outcome {', '.join(wanted)}: " if wanted else "compare: "
        raise SettingsError(f"{asked}no outcome that both sides have; there are {', '.join(known)}")
    return Comparison(_together(made), notes)


def _pairs(groups: Sequence[Sequence[System]]) -> Iterator[tuple[System, System]]:
    """Of one path its arms against the control, or all its systems; of several, arms of one name, or all."""
    if len(groups) == 1:
        control = next((system for system in groups[0] if system.control), None)
        if control is None:
            yield from combinations(groups[0], 2)
        else:
            yield from ((system, control) for system in groups[0] if system is not control)
    for left, right in combinations(groups, 2):
        same = [(a, b) for a, b in product(left, right) if a.arm is not None and a.arm == b.arm]
        yield from same if same and min(len(left), len(right)) > 1 else product(left, right)


def _made(a: System, b: System, outcomes: Sequence[str]) -> list[tuple[Line, str]]:
    """The contrasts of one pair, each with how it answers for the others."""
    seeds = sorted((len(a.models), len(b.models)))
    if seeds == [1, 1]:
        return [(compare_models(name, a, b), _MODELS) for name in outcomes]
    if a.run and b.run and a.run.resolve() == b.run.resolve():
        report = reported(a.run)
        found = []
        for name in outcomes:
            line = from_report(report, name, a, b) if report else None
            found.append((line or compare_arms(name, a, b, None, declared=False), _DECLARED))
        return found
    margin = _margin(a, b)
    lines = [compare_arms(name, a, b, margin, declared=True) for name in outcomes]
    if seeds[0] == 1:
        return [(line, _MODELS) for line in lines]
    if not_learnt := _not_learnt(a, b):
        lines = [replace(each, verdict=NOT_LEARNT, note=_notes(each.note, not_learnt)) for each in lines]
    return [(line, _ARMS) for line in lines]


def _not_learnt(a: System, b: System) -> str | None:
    """The gate of the control's run, where one of two runs' arms is its control."""
    for system in (b, a):
        settings = declared(system.run) if system.run and system.control else None
        name = next(filter(_GATED.fullmatch, system.outcomes), None)
        if settings and settings.gate and name:
            unasked = name.replace("/asked/", "/never_asked/")
            asked = [model.value(name) for model in system.models.values()]
            never = [model.value(unasked) for model in system.models.values() if unasked in system.outcomes]
            return gate(asked, never or None, settings.gate.asked, settings.gate.never_asked)
    return None


def _margin(a: System, b: System) -> float | None:
    """The smallest effect that matters, where both runs declare the same."""
    declarations = [declared(system.run) if system.run else None for system in (a, b)]
    margins = {each.smallest_effect if each else None for each in declarations}
    return margins.pop() if len(margins) == 1 else None


def _together(made: Sequence[tuple[Line, str]]) -> list[Line]:
    """The lines with p adjusted over those that answer together, and what becomes of their verdicts."""
    lines = [line for line, _ in made]
    for kind in (_ARMS, _MODELS):
        family = {i: line.p for i, (line, of) in enumerate(made) if of == kind and line.p is not None}
        for (i, p), p_holm in zip(family.items(), holm([*family.values()]), strict=True):
            assert p_holm is not None
            line, lost = lines[i], p < ALPHA <= p_holm
            notes, verdict = [line.note], line.verdict
            if kind == _ARMS:
                notes.append(f"not declared before the runs: Holm over {len(family)} contrasts")
                verdict = NO_DIFFERENCE if lost and verdict in (HELPS, HURTS) else verdict
            if lost:
                notes.append(f"not significant among the {len(family)} contrasts shown (Holm p = {p_holm:.3g})")
            lines[i] = replace(line, p_holm=p_holm, verdict=verdict, note=_notes(*notes))
    return lines


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))
