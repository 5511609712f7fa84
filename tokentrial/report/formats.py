"""Figures and names in words, the same in every table, sentence and figure."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any


def one_line(text: str) -> str:
    """A trial's own words, such as the name of an outcome, in one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def format_mean_sd(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over the seeds that are there."""
    measured = [value for value in values if value is not None]
    if not measured:
        return "-"
    return format_spread(mean(measured), stdev(measured) if len(measured) > 1 else None)


def format_spread(center: float | None, sd: float | None) -> str:
    return "-" if center is None else f"{center:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")


def format_interval(ends: Sequence[float] | None) -> str:
    return "n/a" if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


def format_level(alpha: float) -> str:
    """The level of an interval: `95 %`, or `99.44 %` at a look."""
    return f"{round(100 * (1 - alpha), 2):g} %"


def format_number(value: float | None) -> str:
    """Three significant digits."""
    return "n/a" if value is None else f"{value:.3g}"


def format_estimate(estimate: Mapping[str, Any] | None, sign: str) -> str:
    """A mean with its interval."""
    return "-" if estimate is None else f"{estimate['mean']:{sign}.3f} {format_interval(estimate['ci95'])}"


def format_amount(value: float | None) -> str:
    """A quantity of any size, in few characters."""
    if value is None:
        return "-"
    return f"{value:.2e}" if value >= 1e9 else f"{value:,.2f}" if value < 10 and value % 1 else f"{value:,.0f}"
