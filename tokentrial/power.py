"""`tokentrial power`: a pilot's noise read from its report, and the seeds that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich.box
from pydantic import Field
from rich.console import Console
from rich.table import Table

from tokentrial.compare.files import Fields, checked, json_file, refuse
from tokentrial.errors import SettingsError
from tokentrial.report.comparison import REPORT
from tokentrial.report.tables import one_line
from tokentrial.statistics.planning import POWERS, SeedPlan, plan_seeds
from tokentrial.statistics.power import PLANNING_FACTOR

_IN_SDS = (0.5, 1.0, 2.0)  # effects asked about where the trial declares none for the outcome


class Primary(Fields):
    outcome: str
    contrast: str


class Settings(Fields):
    smallest_effect: float | None = Field(default=None, gt=0, le=1e9)
    alpha: float = Field(gt=0, lt=0.5)


class Outcome(Fields):
    per_seed: dict[str, list[float | None]]


class Pilot(Fields):
    primary: Primary
    declared: Settings
    outcomes: dict[str, Outcome]


@dataclass(frozen=True)
class Planned:
    """A plan and what it is of."""

    title: str
    plan: SeedPlan


def from_run(folder: Path, outcome: str | None, contrast: str | None, effects: Sequence[float]) -> Planned:
    """The plan from the differences of a run's seeds, on its primary outcome and contrast unless others are named."""
    path = folder / REPORT
    if not path.is_file():
        raise SettingsError(f"{folder}: no {REPORT} there; run `tokentrial report {folder}` first, or give --sd")
    pilot = checked(path, Pilot, json_file(path))
    name, pair = outcome or pilot.primary.outcome, contrast or pilot.primary.contrast
    if name not in pilot.outcomes:
        raise SettingsError(one_line(f"--outcome {name}: no such outcome; there are {', '.join(pilot.outcomes)}"))
    arms = pilot.outcomes[name].per_seed
    treatment, _, control = pair.partition(" - ")
    if treatment not in arms or control not in arms:
        raise SettingsError(one_line(f"--contrast {pair!r}: expected 'a - b' of the arms {', '.join(arms)}"))
    both = [(a, b) for a, b in zip(arms[treatment], arms[control], strict=False) if a is not None and b is not None]
    if len(both) < 2:
        raise refuse(path, f"{name}: found {len(both)} seeds with both arms, expected two or more to tell their noise")
    sd = float(np.std([a - b for a, b in both], ddof=1))
    least = pilot.declared.smallest_effect if name.endswith("/accuracy") else None
    asked = list(effects) or ([least / 2, least, 2 * least] if least else [times * sd for times in _IN_SDS if sd])
    plan = _plan(sd, asked, len(both), pilot.declared.alpha)
    return Planned(one_line(f"{pair} on {name}, {len(both)} seeds"), plan)


def from_sd(sd: float, effects: Sequence[float]) -> Planned:
    """The plan from a standard deviation of paired differences."""
    return Planned("a pilot with this noise", _plan(sd, list(effects) or [times * sd for times in _IN_SDS], None, 0.05))


def _plan(sd: float, effects: list[float], n: int | None, alpha: float) -> SeedPlan:
    try:
        return plan_seeds(sd, effects, n, alpha)
    except ValueError as error:
        raise SettingsError(f"power: {error}") from None


def print_plan(planned: Planned, console: Console) -> None:
    """Seeds by effect and power, then what so many seeds detect."""
    plan = planned.plan
    of_sd = f", its 95 % interval {plan.sd_ci95[0]:.3g} to {plan.sd_ci95[1]:.3g}" if plan.sd_ci95 else ""
    lines = [
        f"{planned.title}: the paired differences have sd {plan.sd:.3g}{of_sd}.",
        f"Planned with {PLANNING_FACTOR:g} times it, {plan.planning_sd:.3g}: a pilot's sd is too small more often than "
        "not.",
    ]
    if plan.sd == 0:
        lines.append("No spread between the seeds: their number cannot be planned from it.")
    for line in lines:
        console.print(line, highlight=False, markup=False)
    by_effect = Table(box=rich.box.SIMPLE_HEAD, title=f"seeds needed, alpha {plan.alpha:g}")
    for column in ("effect", *(f"{100 * power:g} % power" for power in POWERS), "80 %, were the sd as measured"):
        by_effect.add_column(column, justify="right")
    for row in plan.effects:
        seeds = [*row.seeds.values(), row.seeds80_as_measured]
        by_effect.add_row(f"{row.effect:.3g}", *(_seeds(each, plan.sd) for each in seeds))
    detectable = Table(box=rich.box.SIMPLE_HEAD, title="smallest effect found with 80 % power")
    detectable.add_column("seeds", justify="right")
    detectable.add_column("effect", justify="right")
    for size, effect in plan.mde80.items():
        detectable.add_row(size, "n/a" if effect is None else f"{effect:.3g}")
    console.print(by_effect, detectable)


def _seeds(needed: int | None, sd: float) -> str:
    return "n/a" if sd == 0 else "over 1000" if needed is None else str(needed)
