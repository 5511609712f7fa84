"""Curves over what was swept: dose and response, size, or whatever a trial's `sweep` names."""

from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokentrial.report.canvas import INK, WIDE, legend, look, new_figure
from tokentrial.report.meaning import in_words
from tokentrial.report.tables import Report, estimate


class Panel(NamedTuple):
    """A panel: one key on the x axis, the others held, and the points that have this outcome."""

    key: str
    held: str
    values: list[Any]
    points: list[Mapping[str, Any]]


def swept_outcomes(report: Report) -> list[str]:
    """The declared outcomes that a curve can be drawn of, the primary first."""
    names = dict.fromkeys(name for point in report["sweep"]["points"] for name in point["outcomes"])
    return [name for name in names if _panels(report, name)]


def _panels(report: Report, name: str) -> list[Panel]:
    keys, panels = report["sweep"]["keys"], []
    for key, values in keys.items():
        others = [other for other in keys if other != key]
        for held in product(*(keys[other] for other in others)):
            fixed = dict(zip(others, held, strict=True))
            at = [
                (value, point["outcomes"][name])
                for value in values
                for point in report["sweep"]["points"]
                if point["settings"] == fixed | {key: value} and name in point["outcomes"]
            ]
            if len(at) > 1:
                words = ", ".join(f"{other}={value}" for other, value in fixed.items())
                panels.append(Panel(key, words, [value for value, _ in at], [point for _, point in at]))
    return panels


def sweep(report: Report, width: float, name: str) -> Figure:
    """Left each arm's mean, right the declared contrasts, with 95 % t intervals, a row a key and what is held."""
    panels, wide = _panels(report, name), width == WIDE
    rows = len(panels) if wide else 2 * len(panels)
    figure, axes = new_figure(width, 2.3 * rows + 0.6, nrows=rows, ncols=2 if wide else 1)
    for panel, (left, right) in zip(panels, axes.reshape(-1, 2), strict=True):
        for arm in report["arms"]:
            _curve(left, panel, [point["arms"].get(arm) for point in panel.points], *look(report, arm))
        for pair in dict.fromkeys(pair for point in panel.points for pair in point["contrasts"]):
            made = [point["contrasts"].get(pair) for point in panel.points]
            _curve(right, panel, made, *look(report, pair.split(" - ")[0]))
        right.axhline(0, color=INK, linewidth=1)
        left.set_title("\n".join(wrap(in_words(name), 44)))
        right.set_title("difference, the declared contrasts")
        for axis in (left, right):
            axis.set_xlabel("\n".join(filter(None, [panel.key, panel.held])))
            axis.grid(axis="y")
    legend(figure, report, width)
    return figure


def _curve(axis: Axes, panel: Panel, made: Sequence[Mapping[str, Any] | None], colour: str, marker: str) -> None:
    """Means with their intervals: on the scale of the values where they are numbers, else one after the other."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in panel.values)
    places: list[float] = panel.values if numbers else [*range(len(panel.values))]
    there = sorted(((x, each) for x, each in zip(places, made, strict=True) if each), key=lambda point: point[0])
    means = np.array([each["mean"] for _, each in there])
    ends = np.array([each["ci95"] or (each["mean"],) * 2 for _, each in there])
    axis.errorbar([x for x, _ in there], means, abs(ends.T - means), color=colour, marker=marker, markersize=5,
                  linewidth=1.6, elinewidth=1.1, capsize=3)  # fmt: skip
    axis.set_xticks(places, [str(value) for value in panel.values])


def sweep_alt(report: Report, name: str) -> str:
    """The same in words."""
    said = [
        f"{panel.key}={value}{f', {panel.held}' if panel.held else ''}: "
        + ", ".join(f"{arm} {estimate(each, '')}" for arm, each in point["arms"].items())
        for panel in _panels(report, name)
        for value, point in zip(panel.values, panel.points, strict=True)
    ]
    return f"Curves of {in_words(name)} over what was swept. {'; '.join(said)}."
