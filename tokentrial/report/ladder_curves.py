"""Figures of the ladder of sizes: each declared difference over compute, and what an arm is worth in compute."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from tokentrial.report.contrast_table import Report
from tokentrial.report.outcomes import outcome_label
from tokentrial.report.plot_style import GROUP_LABELS, INK, arm_style, draw_estimates, legend, new_figure


def trends(report: Report) -> Figure:
    """A panel an outcome: its declared differences by size, with 95 % t intervals."""
    return _figure(report, report["ladder"]["trends"], "difference", 0)


def trends_alt(report: Report) -> str:
    """The same in words; nothing where there are not two sizes. The figures stand in the table below."""
    if not report["ladder"] or not report["ladder"]["trends"]:
        return ""
    return "The declared differences against compute, with 95 % t intervals; the table below has the values."


def multipliers(report: Report) -> Figure:
    """A panel an outcome: each arm's compute multiplier by size, on a log scale; sizes without one are left out."""
    return _figure(report, _known(report), "compute multiplier", 1)


def multipliers_alt(report: Report) -> str:
    """The same in words; nothing where no multiplier is within what was run."""
    if not report["ladder"] or not _known(report):
        return ""
    return "Compute multipliers of the arms by size, with 95 % intervals; the table below has the values."


def _known(report: Report) -> list[Mapping[str, Any]]:
    return [record for record in report["ladder"]["multipliers"] if record["mean"] is not None]


def _figure(report: Report, records: Sequence[Mapping[str, Any]], what: str, neutral: float) -> Figure:
    """Panels are outcomes, lines are contrasts, with a line at no effect; ratios on a log scale."""
    outcomes = list(dict.fromkeys(record["outcome"] for record in records))
    rows = -(-len(outcomes) // 2)
    figure, axes = new_figure(2.3 * rows + 0.6, nrows=rows, ncols=2)
    for axis, outcome in zip(axes.flat, outcomes, strict=False):
        of_outcome = [record for record in records if record["outcome"] == outcome]
        for contrast in dict.fromkeys(record["contrast"] for record in of_outcome):
            of_contrast = [record for record in of_outcome if record["contrast"] == contrast]
            _line(axis, report, contrast, [p for record in of_contrast for p in record.get("by_size", [record])])
        if neutral:
            _ratio_scale(axis)
        _finish(axis, report, outcome, what)
        axis.axhline(neutral, color=INK, linewidth=1)
    for axis in axes.flat[len(outcomes) :]:
        axis.set_visible(False)
    legend(figure, report)
    return figure


def _line(axis: Axes, report: Report, contrast: str, points: Sequence[Mapping[str, Any]]) -> None:
    flops = {size["name"]: size["flops"] for size in report["ladder"]["sizes"]}  # by compute, as the points are
    measured = [(flops[point["size"]], point) for point in points if point["mean"] is not None]
    draw_estimates(axis, measured, arm_style(report, contrast.split(" - ")[0]))


def _ratio_scale(axis: Axes) -> None:
    """A log scale whose ticks are plain numbers, several of them within a decade too."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(5))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.minorticks_off()


def _finish(axis: Axes, report: Report, outcome: str, what: str) -> None:
    sizes = report["ladder"]["sizes"]
    axis.set_xscale("log")
    axis.set_xticks([size["flops"] for size in sizes], [f"{size['name']}\n{size['flops']:.1e}" for size in sizes])
    axis.xaxis.minorticks_off()
    group = GROUP_LABELS.get(outcome.removeprefix("pretrain/steps_to_60/"))
    label = f"steps to 60 % of {group}" if group else outcome_label(outcome)
    axis.set_title("\n".join(wrap(label, 44)))
    axis.set_xlabel("size, and FLOPs per cell of the control")
    axis.set_ylabel(what)
    axis.grid(axis="y")
