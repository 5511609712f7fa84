"""Curves over what was swept: dose and response, size, or whatever a trial's `sweep` names."""

from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokentrial.report.contrast_table import Report
from tokentrial.report.outcomes import outcome_label
from tokentrial.report.plot_style import INK, arm_style, draw_estimates, legend, new_figure


class SweepPanel(NamedTuple):
    """A panel: one key on the x axis, the others fixed, and the points that have this outcome."""

    key: str
    fixed: str
    values: list[Any]
    points: list[Mapping[str, Any]]


def swept_outcomes(report: Report) -> list[str]:
    """The declared outcomes that a curve can be drawn of, the primary first."""
    names = dict.fromkeys(name for point in report["sweep"]["points"] for name in point["outcomes"])
    return [name for name in names if sweep_panels(report, name)]


def sweep_panels(report: Report, name: str) -> list[SweepPanel]:
    """A panel for each key and each combination of the others' values, where at least two points are there."""
    keys, panels = report["sweep"]["keys"], []
    points = [point for point in report["sweep"]["points"] if name in point["outcomes"]]
    for key, values in keys.items():
        others = [other for other in keys if other != key]
        for combination in product(*(keys[other] for other in others)):
            fixed = dict(zip(others, combination, strict=True))
            settings = [fixed | {key: value} for value in values]
            line = [(s[key], p["outcomes"][name]) for s in settings for p in points if p["settings"] == s]
            if len(line) > 1:
                label = ", ".join(f"{other}={value}" for other, value in fixed.items())
                panels.append(SweepPanel(key, label, [x for x, _ in line], [point for _, point in line]))
    return panels


def sweep(report: Report, name: str) -> Figure:
    """Left each arm's mean, right the declared contrasts, with 95 % t intervals, a row a key and what is fixed."""
    panels = sweep_panels(report, name)
    figure, axes = new_figure(2.3 * len(panels) + 0.6, nrows=len(panels), ncols=2)
    for panel, (left, right) in zip(panels, axes, strict=True):
        for arm in report["arms"]:
            _curve(left, panel, [point["arms"].get(arm) for point in panel.points], arm_style(report, arm))
        for pair in dict.fromkeys(pair for point in panel.points for pair in point["contrasts"]):
            estimates = [point["contrasts"].get(pair) for point in panel.points]
            _curve(right, panel, estimates, arm_style(report, pair.split(" - ")[0]))
        right.axhline(0, color=INK, linewidth=1)
        left.set_title("\n".join(wrap(outcome_label(name), 44)))
        right.set_title("difference, declared contrasts")
        for axis in (left, right):
            axis.set_xlabel("\n".join(filter(None, [panel.key, panel.fixed])))
            axis.grid(axis="y")
    legend(figure, report)
    return figure


def _curve(
    axis: Axes, panel: SweepPanel, estimates: Sequence[Mapping[str, Any] | None], style: tuple[str, str]
) -> None:
    """Means with their intervals: on the scale of the values where they are numbers, else one after the other."""
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in panel.values)
    ticks: list[float] = panel.values if is_numeric else [*range(len(panel.values))]
    measured = sorted(((x, e) for x, e in zip(ticks, estimates, strict=True) if e), key=lambda point: point[0])
    draw_estimates(axis, measured, style)
    axis.set_xticks(ticks, [str(value) for value in panel.values])


def sweep_alt(report: Report, name: str) -> str:
    """The same in words; the figures stand in the table below."""
    keys = ", ".join(dict.fromkeys(panel.key for panel in sweep_panels(report, name)))
    return f"Curves of {outcome_label(name)} over {keys}, with 95 % t intervals; the table below has the values."
