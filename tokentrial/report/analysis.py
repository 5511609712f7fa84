"""The analysis: every contrast of a trial's arms, and what was declared judged. One function goes through the declared
list, and what it returns is what terminal, Markdown, page and LaTeX show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from tokentrial.report.outcomes import GROUPS, METRICS
from tokentrial.report.results import CellResults, mean_of
from tokentrial.report.variants import Rerun
from tokentrial.statistics.contrast import Contrast, contrast
from tokentrial.statistics.decision import decide, gate_failure
from tokentrial.statistics.paired import paired_differences
from tokentrial.statistics.sequential import Look, current_look
from tokentrial.trial.declaration import Declared
from tokentrial.trial.settings import Compared

Results = Mapping[tuple[str, int], CellResults]  # by arm and seed


class Analysis(NamedTuple):
    contrasts: list[dict[str, Any]]  # primary, its reruns, secondary, exploratory
    added: list[dict[str, Any]]  # the declared ones once more, over the seeds that were added as well
    look: Look
    gate: dict[str, Any] | None
    outcomes: dict[str, dict[str, Any]]
    budgets: dict[str, Any] | None  # the primary difference under one budget less that under the other


def analyse(
    results: Results,
    declared: Declared,
    *,
    table: str,
    choice_floor: float,
    arms: Sequence[str],
    seeds: Sequence[int],
    reruns: Sequence[Rerun] = (),
    withheld: Mapping[str, str] | None = None,
) -> Analysis:
    """Go through the declared contrasts, then every other outcome against the control.

    `arms` and `seeds` are those of the run, of which only the declared ones count. `withheld` says, by stage, why what
    was measured after it is not what was declared: its outcomes are exploratory.
    """
    verdict, withheld = declared.verdict, withheld or {}
    outcomes = list(dict.fromkeys(name for cell in results.values() for name in cell.values))
    look = look_of(results, declared)
    counted = [s for s in declared.seeds[: look.seeds] if all((arm, s) in results for arm in declared.arms)]
    # a floor decides whether equivalence is tested: no seed or arm that is added may move it
    cells = [cell for (arm, s), cell in results.items() if arm in declared.arms and s in counted] or [*results.values()]
    floors = {name: _floor(cells, name, choice_floor) for name in outcomes}

    def compare(name: str, pair: Compared | str, role: str, added: Sequence[int] = ()) -> Contrast | None:
        margin = verdict.margin(pair if isinstance(pair, Compared) else Compared(outcome=name, contrast=pair))
        arms = pair.arms if isinstance(pair, Compared) else tuple(pair.split(" - "))
        over, alpha = [*counted, *added], verdict.alpha if added else look.alpha
        return _contrast(results, name, arms, over, role, margin, alpha, verdict.alpha, floors.get(name))

    primary = compare(verdict.primary.outcome, verdict.primary, "primary")
    family = [compare(pair.outcome, pair, "secondary") for pair in verdict.secondary]
    gate = _gate(results, table, counted, declared)
    primary, family = _judged(primary, family, declared, look, gate, counted, withheld)
    records = [_record(primary, verdict.primary, "primary")]
    records += [asdict(again) for rerun in reruns if (again := _rerun(rerun, declared, counted, look))]
    records += [_record(c, pair, "secondary") for c, pair in zip(family, verdict.secondary, strict=True)]
    compared = (verdict.primary, *verdict.secondary)
    done = {(pair.outcome, frozenset(pair.arms)) for pair in compared}
    against_control = [(arm, declared.control) for arm in arms if arm != declared.control]
    # a pair of arms once, the way round that was declared
    pairs = {frozenset(of_pair): of_pair for of_pair in (*against_control, *(pair.arms for pair in compared))}
    for name in outcomes:
        for pair, of_pair in pairs.items():
            if (name, pair) not in done and (explored := compare(name, " - ".join(of_pair), "exploratory")):
                records.append(asdict(explored))
    over_all, added = list[Contrast | None](), [s for s in seeds if s not in declared.seeds]
    for declared_pair in compared if len(counted) == look.seeds else ():
        name = declared_pair.outcome
        more = [s for s in added if all(name in _values(results, arm, s) for arm in declared_pair.arms)]
        over_all += [compare(name, declared_pair, "exploratory", more)] if more else []
    return Analysis(
        records,
        [asdict(c) for c in over_all if c],
        look,
        gate,
        {name: _outcome(results, name, arms, seeds, declared.control, floors[name]) for name in outcomes},
        _budgets(primary, [rerun for rerun in reruns if rerun.is_other_budget]),
    )


def _values(results: Results, arm: str, seed: int) -> Mapping[str, float]:
    """What a cell scored, by outcome; nothing where it is not there."""
    return results.get((arm, seed), CellResults()).values


def look_of(results: Results, declared: Declared) -> Look:
    """Which of the declared seeds count now, from the primary differences of those that are whole."""
    verdict, name, whole = declared.verdict, declared.verdict.primary.outcome, list[tuple[float, float]]()
    for seed in declared.seeds:
        cells = [_values(results, arm, seed) for arm in declared.arms]
        a, b = (_values(results, arm, seed).get(name) for arm in verdict.primary.arms)
        if a is None or b is None or not all(cells):
            break
        whole.append((a, b))
    differences = paired_differences(*zip(*whole, strict=True)).tolist() if whole else []
    margin = verdict.margin(verdict.primary)
    return current_look(differences, len(declared.seeds), verdict.looks, verdict.spending, verdict.alpha, margin)


def _contrast(
    results: Results,
    name: str,
    arms: tuple[str, ...],
    seeds: Sequence[int],
    role: str,
    margin: float | None,
    alpha: float,
    equivalence_alpha: float,
    floor: float | None,
) -> Contrast | None:
    """A pair of arms on an outcome; None where a seed lacks one, such as of an arm left out after a look."""
    treatment, control = ([results.get((arm, s), CellResults()) for s in seeds] for arm in arms)
    if not seeds or any(name not in cell.values for cell in (*treatment, *control)):
        return None
    facts_a, facts_b = ([cell.facts.get(name, {}) for cell in cells] for cells in (treatment, control))
    facts = sorted({fact for by_fact in facts_a for fact in by_fact})
    differences_by_fact = [  # (seeds, facts)
        [a[fact] - b[fact] if fact in a else math.nan for fact in facts] for a, b in zip(facts_a, facts_b, strict=True)
    ]
    metric = METRICS[name.rsplit("/", 1)[1]]
    return contrast(
        [cell.values[name] for cell in treatment],
        [cell.values[name] for cell in control],
        role=role,
        outcome=name,
        arms=(arms[0], arms[1]),
        seeds=seeds,
        alpha=alpha,
        equivalence_alpha=equivalence_alpha,
        margin=margin,
        floor=floor,
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=differences_by_fact if facts and len(seeds) > 1 else None,
        rng=np.random.default_rng(0),
    )


def _judged(
    primary: Contrast | None,
    family: Sequence[Contrast | None],
    declared: Declared,
    look: Look,
    gate: Mapping[str, Any] | None,
    counted: Sequence[int],
    withheld: Mapping[str, str],
) -> tuple[Contrast | None, list[Contrast | None]]:
    """The declared contrasts with their verdicts; what is not as it was declared counts as not measured."""
    verdict, missing = declared.verdict, [s for s in declared.seeds[: look.seeds] if s not in counted]
    reason = None
    if missing:
        # a verdict on the seeds that happen to be done would be a look that nobody declared
        reason = f"no verdict yet: the declared seeds {missing} are missing"
    elif gate is None and verdict.gate:
        reason = "no verdict yet: the gate is not measured"
    if reason:
        return _noted(primary, reason), [_noted(c, reason) for c in family]

    def as_declared(c: Contrast | None) -> Contrast | None:
        return None if c is None or c.outcome.split("/")[0] in withheld else c

    judged, of_family = decide(
        as_declared(primary),
        [as_declared(c) for c in family],
        equivalence_alpha=verdict.alpha,
        may_go_on=look.may_go_on,
        not_learnt=gate["failed"] if gate else None,
    )
    both = zip((judged, *of_family), (primary, *family), strict=True)
    first, *others = [
        result or _noted(c, f"exploratory: {withheld[c.outcome.split('/')[0]]}" if c else "") for result, c in both
    ]
    return first, others


def _noted(c: Contrast | None, note: str) -> Contrast | None:
    return c and replace(c, note="; ".join(filter(None, [c.note, note])))


def _record(c: Contrast | None, pair: Compared, role: str) -> dict[str, Any]:
    """A declared contrast as JSON holds it, also where it was not measured."""
    if c is not None:
        return asdict(c)
    treatment, control = pair.arms
    record: dict[str, Any] = dict.fromkeys(Contrast.__dataclass_fields__)
    record |= {"role": role, "outcome": pair.outcome, "treatment": treatment, "control": control}
    return record | {"seeds": [], "differences": [], "note": "not measured"}


def _rerun(rerun: Rerun, declared: Declared, counted: Sequence[int], look: Look) -> Contrast | None:
    """The primary contrast of a rerun on the seeds that count and it has; None where it has none."""
    treatment, control = (rerun.results.get(arm, {}) for arm in declared.verdict.primary.arms)
    seeds = [seed for seed in counted if seed in treatment and seed in control]
    if not seeds:
        return None
    outcome = declared.verdict.primary.outcome
    return contrast(
        [treatment[seed] for seed in seeds],
        [control[seed] for seed in seeds],
        role=f"again with {rerun.name}",
        outcome=outcome,
        arms=declared.verdict.primary.arms,
        seeds=seeds,
        alpha=look.alpha,
        higher_is_better=METRICS[outcome.rsplit("/", 1)[1]].higher_is_better,
        rng=np.random.default_rng(0),
    )


def _budgets(primary: Contrast | None, reruns: Sequence[Rerun]) -> dict[str, Any] | None:
    """Whether the primary difference depends on the budget rule: the difference of the two differences, seed by seed.
    One that is significant under one rule and not under the other shows nothing of the kind."""
    if primary is None or not reruns:
        return None
    [rerun, *_] = reruns
    treatment, control = (rerun.results.get(arm, {}) for arm in (primary.treatment, primary.control))
    seeds = [seed for seed in primary.seeds if seed in treatment and seed in control]
    if not seeds:
        return None
    own = dict(zip(primary.seeds, primary.differences, strict=True))
    between = contrast(
        [own[seed] for seed in seeds],
        [treatment[seed] - control[seed] for seed in seeds],
        alpha=primary.alpha,
        seeds=seeds,
        rng=np.random.default_rng(0),
    )
    names = ("difference", "interval", "p", "test", "seeds", "alpha")
    return {"rerun": rerun.name} | {name: getattr(between, name) for name in names}


def _gate(results: Results, table: str, seeds: Sequence[int], declared: Declared) -> dict[str, Any] | None:
    """The declared control's accuracies against the gate; None where there is no gate or nothing to hold against it."""
    control, needed = declared.control, declared.verdict.gate
    if needed is None or not seeds or (control, seeds[0]) not in results:
        return None
    cells = [results[control, seed].values for seed in seeds]
    names = [f"pretrain/{table}/{group}/accuracy" for group in GROUPS]
    asked, never = ([values[name] for values in cells if name in values] for name in names)
    if len(asked) < len(seeds):
        return None  # evaluated after later stages alone
    never_asked = never if len(never) == len(seeds) else None
    return {
        "asked": mean_of(asked),
        "never_asked": None if never_asked is None else mean_of(never_asked),
        "needed": needed.model_dump(),
        "failed": gate_failure(asked, never_asked, needed.asked, needed.never_asked),
    }


def _outcome(
    results: Results, name: str, arms: Sequence[str], seeds: Sequence[int], control: str, floor: float | None
) -> dict[str, Any]:
    """What arms and seeds came to, with the floors."""
    return {
        "floor": floor,
        "floors": dict(_floors_by_policy(results, name, control)),
        "per_seed": {arm: [_values(results, arm, s).get(name) for s in seeds] for arm in arms},
    }


def _floors_by_policy(results: Results, name: str, control: str) -> Iterator[tuple[str, float]]:
    """Each floor's mean over the control's seeds; the items are the same in every arm."""
    floors = [cell.floors[name] for (arm, _), cell in results.items() if arm == control and name in cell.floors]
    for policy in floors[0] if floors else ():
        yield policy, mean_of([by_policy[policy] for by_policy in floors if policy in by_policy])


def _floor(cells: Sequence[CellResults], name: str, choice_floor: float) -> float | None:
    """The mean over cells of the best policy's accuracy."""
    if name.endswith("/choice_logprob"):
        return choice_floor
    highest = [max(cell.floors[name].values()) for cell in cells if name in cell.floors]
    return mean_of(highest) if highest else None
