"""`tokentrial power`: how many seeds an effect needs, from the noise that a pilot's report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from pydantic import Field

from tokentrial.compare.files import ExternalRecord, file_error, load_json, validate
from tokentrial.compare.runs import RunReport
from tokentrial.errors import SettingsError
from tokentrial.report.comparison import REPORT
from tokentrial.report.tables import one_line
from tokentrial.statistics.paired import Interval
from tokentrial.statistics.power import PLANNING_FACTOR, mde, sd_interval, seeds_needed

POWERS = (0.5, 0.8, 0.9, 0.95)
SIZES = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30)
_IN_SDS = (0.5, 1.0, 2.0)  # effects asked about where the trial declares none for the outcome


@dataclass(frozen=True)
class Effect:
    """Seeds that one effect needs; None where more than 1,000 do not show it."""

    effect: float
    seeds: Mapping[str, int | None]  # by power in per cent, at the planning sd
    seeds80_as_measured: int | None  # were the pilot's sd the true one


@dataclass(frozen=True)
class SeedPlan:
    """Its fields are the keys of `tokentrial power --json`. Effects and sds share the outcome's unit."""

    of: str
    sd: float  # of the pilot's paired differences
    n: int | None  # the pilot's seeds
    sd_ci95: Interval | None  # of the true sd
    planning_sd: float  # 1.46 sd: the true one is not above it with 80 % confidence, at six seeds
    alpha: float
    effects: list[Effect]
    mde80: Mapping[str, float | None]  # by seeds, at the planning sd


class Primary(ExternalRecord):
    outcome: str
    contrast: str


class Settings(ExternalRecord):
    smallest_effect: float | None = Field(default=None, gt=0, le=1e9)
    alpha: float = Field(gt=0, lt=0.5)


class Pilot(RunReport):
    primary: Primary
    declared: Settings


class Noise(NamedTuple):
    """What a run shows of the noise between its seeds: sd of the paired differences, of so many seeds."""

    outcome: str
    contrast: str
    sd: float
    n: int
    declared: Settings


def noise_of(folder: Path, outcome: str | None, contrast: str | None) -> Noise:
    """The noise of a run with a report, in its primary outcome and contrast unless others are named."""
    path = folder / REPORT
    if not path.is_file():
        way = f"run `tokentrial report {folder}` first, or give --sd (plan: --noise)"
        raise SettingsError(f"{folder}: no {REPORT} there; {way}")
    pilot = validate(path, Pilot, load_json(path))
    name, pair = outcome or pilot.primary.outcome, contrast or pilot.primary.contrast
    if name not in pilot.outcomes:
        raise SettingsError(one_line(f"{path}: it has no outcome {name}; there are {', '.join(pilot.outcomes)}"))
    arms = pilot.outcomes[name].per_seed
    treatment, _, control = pair.partition(" - ")
    if treatment not in arms or control not in arms:
        raise SettingsError(one_line(f"{path}: found no {pair!r}, expected 'a - b' of the arms {', '.join(arms)}"))
    both = zip(arms[treatment], arms[control], strict=False)
    d = [a - b for a, b in both if a is not None and b is not None]
    if len(d) < 2:
        raise file_error(path, f"{name}: found {len(d)} seeds with both arms, expected two or more to tell their noise")
    return Noise(name, pair, stdev(d), len(d), pilot.declared)


def from_run(folder: Path, outcome: str | None, contrast: str | None, effects: Sequence[float]) -> SeedPlan:
    """The plan from the noise of a run, for the effects given, else about the smallest that it declared."""
    noise = noise_of(folder, outcome, contrast)
    least = noise.declared.smallest_effect if noise.outcome.endswith("/accuracy") else None
    asked = effects or ([least / 2, least, 2 * least] if least else ())
    of = one_line(f"{noise.contrast} on {noise.outcome}, {noise.n} seeds")
    return plan_seeds(of, noise.sd, asked, noise.n, noise.declared.alpha)


def plan_seeds(of: str, sd: float, effects: Sequence[float], n: int | None = None, alpha: float = 0.05) -> SeedPlan:
    """Seeds for each effect, or for some sds, and what so many seeds detect, planned with 1.46 times the pilot's sd.

    A pilot's own sd is too small more often than not, and a trial planned with it has too few seeds (Browne 1995,
    Stat. Med. 14:1933, who plans with an upper bound of it).
    """
    if any(not 0 < abs(effect) < float("inf") for effect in effects):
        raise SettingsError(f"power: effects: found {list(effects)}, expected finite numbers other than 0")
    if not 0 <= sd < float("inf"):
        raise SettingsError(f"power: sd: found {sd}, expected a finite number, 0 or more")
    planning = PLANNING_FACTOR * sd
    return SeedPlan(
        of=of,
        sd=sd,
        n=n,
        sd_ci95=sd_interval(sd, n) if n else None,
        planning_sd=planning,
        alpha=alpha,
        effects=[
            Effect(
                abs(effect),
                {f"{100 * power:g}": seeds_needed(effect, planning, alpha, power) for power in POWERS},
                seeds_needed(effect, sd, alpha),
            )
            for effect in effects or [times * sd for times in _IN_SDS if sd]
        ],
        mde80={str(size): mde(planning, size, alpha) for size in SIZES},
    )
