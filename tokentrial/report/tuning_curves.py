"""The figure of the tuning: each arm over the values that were tried, through its own best."""

from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure

from tokentrial.report.contrast_table import Report
from tokentrial.report.outcomes import outcome_label
from tokentrial.report.plot_style import DASHED, MUTED, arm_style, draw_estimates, legend, new_figure


def tuned(report: Report) -> Figure:
    """A panel a setting, the others at the arm's own best; the best ringed, the trial's own value dashed."""
    content = report["tuning"]
    figure, axes = new_figure(2.9, ncols=len(content["grid"]), sharey=True)
    for axis, (name, values) in zip(axes.flat, content["grid"].items(), strict=True):
        for arm in (arm for arm in report["arms"] if arm in content["chosen"]):  # one may have been left out since
            line, style = _line(content, name, arm), arm_style(report, arm)
            draw_estimates(axis, line, style)
            best = next((x, estimate["mean"]) for x, estimate in line if x == content["chosen"][arm][name])
            axis.plot(*best, color=style[0], marker="o", markersize=11, fillstyle="none")
        axis.axvline(content["own"][name], color=MUTED, linewidth=0.9, linestyle=DASHED)
        if min(values) > 0:  # rates are tried as multiples
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.grid(axis="y")
    axes[0, 0].set_title("\n".join(wrap(outcome_label(content["outcome"]), 60)))
    legend(figure, report)
    return figure


def _line(content: Any, name: str, arm: str) -> list[tuple[float, Any]]:
    """Value of a setting, and what the arm came to, in ascending order, the other settings at its best."""
    others = {key: value for key, value in content["chosen"][arm].items() if key != name}
    on_line = [point for point in content["points"] if others.items() <= point["settings"].items()]
    return sorted(((point["settings"][name], point["arms"][arm]) for point in on_line), key=lambda point: point[0])


def tuned_alt(report: Report) -> str:
    """The same in words; nothing before the tuning has come to its end."""
    if not report["tuning"] or not report["tuning"]["chosen"]:
        return ""
    names = ", ".join(report["tuning"]["grid"])
    label = outcome_label(report["tuning"]["outcome"])
    return f"Curves of {label} over {names} by arm, on the tuning seeds; the table below has the values."
