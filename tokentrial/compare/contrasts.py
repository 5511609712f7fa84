"""Which systems are held against which, and what all their contrasts together let one say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from tokentrial.compare.arms import compare_arms, from_report, reported
from tokentrial.compare.line import Line
from tokentrial.compare.models import ALPHA, compare_models
from tokentrial.compare.runs import declared
from tokentrial.compare.system import System
from tokentrial.errors import SettingsError
from tokentrial.statistics.paired import holm
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, NOT_LEARNT, gate

_ASKED, _NEVER_ASKED = (f"pretrain/mul_table/{subset}/accuracy" for subset in ("asked", "never_asked"))
_HELD_OUT = "heldout_text"

# how a contrast answers for the others that it was made with
_DECLARED = "its run has judged it, or it is exploratory there"
_ARMS = "arms of several runs: a verdict must survive Holm"
_MODELS = "models: described one by one, with a word on Holm"


@dataclass(frozen=True)
class Comparison:
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
    if len(a.models) == len(b.models) == 1:
        (of_a,), (of_b,) = a.models.values(), b.models.values()
        return [(compare_models(name, (a.name, b.name), of_a, of_b), _MODELS) for name in outcomes]
    if a.run and b.run and a.run.resolve() == b.run.resolve():
        report = reported(a.run)
        found = []
        for name in outcomes:
            line = from_report(report, name, a, b) if report else None
            found.append((line or compare_arms(name, a, b, None, declared=False), _DECLARED))
        return found
    alone = min(len(a.models), len(b.models)) == 1
    not_learnt, margin = _not_learnt(a, b), _margin(a, b)
    found = []
    for name in outcomes:
        line = compare_arms(name, a, b, margin, declared=True)
        if not_learnt and not alone:
            line = replace(line, verdict=NOT_LEARNT, note="; ".join(filter(None, [line.note, not_learnt])))
        found.append((line, _MODELS if alone else _ARMS))
    return found


def _not_learnt(a: System, b: System) -> str | None:
    """The gate of the control's run, where one of two runs' arms is its control."""
    for system in (b, a):
        settings = declared(system.run) if system.run and system.control else None
        if settings and settings.gate and _ASKED in system.outcomes:
            asked, never = (
                [m.value(name) for m in system.models.values()] if name in system.outcomes else None
                for name in (_ASKED, _NEVER_ASKED)
            )
            assert asked is not None
            return gate(asked, never, settings.gate.asked, settings.gate.never_asked)
    return None


def _margin(a: System, b: System) -> float | None:
    """The smallest effect that matters, where both runs declare the same."""
    declarations = [declared(system.run) if system.run else None for system in (a, b)]
    margins = {each.smallest_effect if each else None for each in declarations}
    return margins.pop() if len(margins) == 1 else None


def _together(made: Sequence[tuple[Line, str]]) -> list[Line]:
    lines = [line for line, _ in made]
    for kind in (_ARMS, _MODELS):
        family = [i for i, (_, of) in enumerate(made) if of == kind and made[i][0].p is not None]
        for i, p_holm in zip(family, holm([lines[i].p for i in family]), strict=True):
            lines[i] = _answering(lines[i], p_holm, len(family), kind)
    return lines


def _answering(line: Line, p_holm: float | None, family: int, kind: str) -> Line:
    """The line with its adjusted p, and what becomes of its verdict."""
    if p_holm is None or line.p is None:
        return line
    lost = line.p < ALPHA <= p_holm
    words = [line.note]
    verdict = line.verdict
    if kind == _ARMS:
        words.append(f"not declared before the runs: Holm over {family} contrasts")
        verdict = NO_DIFFERENCE if lost and verdict in (HELPS, HURTS) else verdict
    if lost:
        words.append(f"not significant among the {family} contrasts shown (Holm p = {p_holm:.3g})")
    return replace(line, p_holm=p_holm, verdict=verdict, note="; ".join(filter(None, words)))
