"""How many seeds a trial needs, from the noise that a pilot showed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokentrial.statistics.paired import Interval
from tokentrial.statistics.power import PLANNING_FACTOR, mde, sd_interval, seeds_needed

POWERS = (0.5, 0.8, 0.9, 0.95)
SIZES = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30)


@dataclass(frozen=True)
class Effect:
    """Seeds that one effect needs; None where more than 1,000 do not show it."""

    effect: float
    seeds: Mapping[str, int | None]  # by power in per cent, at the planning sd
    seeds80_as_measured: int | None  # were the pilot's sd the true one


@dataclass(frozen=True)
class SeedPlan:
    """Its fields are the keys of `tokentrial power --json`. Effects and sds share the outcome's unit."""

    sd: float  # of the pilot's paired differences
    n: int | None  # the pilot's seeds
    sd_ci95: Interval | None  # of the true sd
    planning_sd: float  # 1.46 sd: the true one is not above it with 80 % confidence, at six seeds
    alpha: float
    effects: list[Effect]
    mde80: Mapping[str, float | None]  # by seeds, at the planning sd


def plan_seeds(sd: float, effects: Sequence[float], n: int | None = None, alpha: float = 0.05) -> SeedPlan:
    """Seeds for each effect, and what so many seeds detect, planned with 1.46 times the pilot's sd.

    A pilot's own sd is too small more often than not, and a trial planned with it has too few seeds (Browne 1995,
    Stat. Med. 14:1933, who plans with an upper bound of it). An effect of 0 needs no number of seeds: ValueError.
    """
    if any(not 0 < abs(effect) < float("inf") for effect in effects):
        raise ValueError(f"effects: found {list(effects)}, expected finite numbers other than 0")
    planning = PLANNING_FACTOR * sd
    return SeedPlan(
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
            for effect in effects
        ],
        mde80={str(size): mde(planning, size, alpha) for size in SIZES},
    )
