"""Whether an effect grows with compute, and what it is worth in compute: one seed's line over the sizes at a time.

Sizes are run with the same seeds, so a seed is a replicate of the whole ladder: of each seed comes one slope and one
multiplier a size, and their spread over seeds is what intervals rest on. Nothing is extrapolated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tokentrial.statistics.paired import ROUND_OFF, Floats, Values, finite_vector, paired_t


class Multiplier(NamedTuple):
    """FLOPs that the control needs for the treatment's outcome, over the treatment's own. 2: half of them suffice."""

    by_seed: list[float | None]  # None: the control's line does not pass through that outcome within what was run
    mean: float | None  # geometric
    ci95: tuple[float, float] | None  # by t on the logarithm; None where a seed has no value, which would select seeds


def slopes(differences: Sequence[Values], compute: Values) -> list[float]:
    """Change of each seed's difference for ten times the compute: the slope of the differences, shape (seeds, sizes),
    on log10 of the compute of each size, by least squares. Raises ValueError for fewer than two sizes of different
    compute."""
    x = np.log10(_positive(compute, "compute"))
    centred = x - x.mean()
    if len(x) < 2 or not centred.any():
        raise ValueError(f"compute: found {list(compute)}, expected at least two sizes of different compute")
    rows = [finite_vector(row, "differences") for row in differences]
    if any(len(row) != len(x) for row in rows):
        raise ValueError(f"differences: found {[len(row) for row in rows]} sizes by seed, expected {len(x)}")
    # of equal differences exactly 0: slopes of round-off alone would agree in sign, and look significant
    changes = [row - row.mean() if np.ptp(row) > ROUND_OFF * np.abs(row).max() else np.zeros(len(row)) for row in rows]
    return [float(centred @ change / (centred @ centred)) for change in changes]


def multiplier(
    control: Sequence[Values], control_compute: Values, treatment: Values, treatment_compute: float
) -> Multiplier:
    """The compute multiplier of an arm at one size.

    `control` holds the control's outcomes, shape (seeds, sizes), at `control_compute`, `treatment` the arm's outcomes
    by seed at `treatment_compute`. All are losses, such as bits per byte, or nats of the right answer; the control's
    line is straight between neighbouring sizes in log compute and log outcome, as power laws are (Kaplan et al. 2020).
    """
    values = [_equal_outcome(line, control_compute, outcome) for line, outcome in zip(control, treatment, strict=True)]
    return summarise([None if needed is None else needed / treatment_compute for needed in values])


def summarise(by_seed: Sequence[float | None]) -> Multiplier:
    """Ratios by seed, to their geometric mean with its interval; without one where a seed has none."""
    if not by_seed or any(value is None for value in by_seed):
        return Multiplier(list(by_seed), None, None)
    t = paired_t(np.log(_positive([value for value in by_seed if value is not None], "multipliers")))
    ci95 = (float(np.exp(t.ci95[0])), float(np.exp(t.ci95[1]))) if t.ci95 else None
    return Multiplier(list(by_seed), float(np.exp(t.mean)), ci95)


def _equal_outcome(line: Values, compute: Values, outcome: float) -> float | None:
    """The compute at which a line passes through an outcome; None where it never does, or more than once, and where a
    loss is 0: it has no logarithm."""
    if outcome <= 0 or min(line) <= 0:
        return None
    x, y = np.log(_positive(compute, "compute")), np.log(_positive(line, "outcomes"))
    order = np.argsort(x, kind="stable")
    x, y, target = x[order], y[order], float(np.log(_positive([outcome], "outcome")[0]))
    crossings = []
    for i in range(len(x) - 1):
        low, high = y[i], y[i + 1]
        # an end belongs to the stretch that begins there, but for the last: no crossing counts twice
        last = i == len(x) - 2
        if low != high and (min(low, high) <= target <= max(low, high)) and (target != high or last):
            crossings.append(x[i] + (target - low) / (high - low) * (x[i + 1] - x[i]))
    return float(np.exp(crossings[0])) if len(crossings) == 1 else None


def _positive(values: Values, name: str) -> Floats:
    vector = finite_vector(values, name)
    if (vector <= 0).any():
        raise ValueError(f"{name}: found {vector.min()}, expected numbers above 0")
    return vector
