"""The forest plot: every declared contrast, seed by seed."""

from collections.abc import Sequence
from statistics import mean
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokentrial.report.canvas import INK, MUTED, NARROW, PAPER, WIDE, look, new_figure
from tokentrial.report.meaning import in_words, metric_words
from tokentrial.report.outcomes import METRICS
from tokentrial.report.tables import Line, Report, declared, interval

_LETTERS = 124  # as many stand side by side on the wide figure


def _lines(report: Report) -> list[Line]:
    """What was declared and is measured."""
    return [line for line in declared(report) if line.made]


def forest(report: Report, width: float) -> Figure:
    """Each declared contrast: seeds as dots, mean and interval as a diamond on a line. One panel for each unit."""
    panels: dict[str, list[Line]] = {}
    for line in _lines(report):
        panels.setdefault(line.name.rsplit("/", 1)[1], []).append(line)
    rows = [len(panel) for panel in panels.values()]
    figure, axes = new_figure(
        width,
        sum(rows) * (0.62 if width == WIDE else 1.0) + 0.8 * len(rows),
        nrows=len(rows),
        height_ratios=[r + 0.5 for r in rows],
    )
    for axis, (metric, panel) in zip(axes[:, 0], panels.items(), strict=True):
        _forest_panel(axis, report, metric, panel, width)
    return figure


def _forest_panel(axis: Axes, report: Report, metric: str, panel: Sequence[Line], width: float) -> None:
    smallest, floored = report["declared"]["smallest_effect"], False
    for number, line in enumerate(panel):
        y, made, outcome, seeds = -number, line.made, line.outcome, line.differences
        colour, _ = look(report, line.arms[0])
        if metric == "accuracy" and outcome["floor"] is not None:
            at = outcome["floor"] - mean([b for b in outcome["per_seed"][line.arms[1]] if b is not None])
            axis.plot([at, at], [y - 0.26, y + 0.1], color=MUTED, linewidth=1.2, linestyle=(0, (1, 1)))
            floored = True
        axis.plot(seeds, [y - 0.16] * len(seeds), "o", color=colour, alpha=0.5, markersize=4.5, markeredgewidth=0)
        low, high = made["ci95"] or (made["difference"],) * 2
        axis.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        axis.plot([made["difference"]], [y], "D", color=PAPER if line.again else colour, markersize=7,
                  markeredgecolor=colour if line.again else PAPER, markeredgewidth=1)  # fmt: skip
        role = {"primary": "PRIMARY  ", "secondary": ""}.get(line.role, f"{line.role}: ")
        what = f"{role}{line.contrast.replace(' - ', ' − ')}, {in_words(line.name)}"
        verdict = "a check" if line.again else made["verdict"] or "no verdict"
        figures = f"{verdict}  {made['difference']:+.3f} {interval(made['ci95'])}"
        # on a ground of its own, so that no line runs through the words
        ground: Any = {"bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}, "va": "bottom", "fontsize": 8}
        ground["xycoords"] = ("axes fraction", "data")
        strong: Any = {"weight": "bold"} if line.role == "primary" else {}
        length = len(what) * (1.15 if strong else 1.0) + len(figures)  # in letters of the usual weight
        if width == NARROW or length > _LETTERS:
            said = "\n".join([*wrap(what, 52 if width == NARROW else 100), figures])
            axis.annotate(said, (0, y + 0.14), **ground, **strong)
        else:
            axis.annotate(what, (0, y + 0.2), **ground, **strong)
            axis.annotate(figures, (1, y + 0.2), ha="right", color=MUTED, **ground)
    axis.axvline(0, color=INK, linewidth=1)
    if metric == "accuracy":
        for edge in (-smallest, smallest):
            axis.axvline(edge, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.set_ylim(-len(panel) + 0.62, 0.62)
    axis.margins(x=0.06)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    better = "right is better" if METRICS[metric].higher_is_better else "left is better"
    marks = f"; dashed: ±{smallest:g}" + ("; dotted: at the floor" if floored else "") if metric == "accuracy" else ""
    title = f"difference in {metric_words(metric)}, {better}{marks}"
    axis.set_xlabel("\n".join(wrap(title, 200 if width == WIDE else 50)))


def forest_alt(report: Report) -> str:
    """The same in sentences."""
    lines = _lines(report)
    said = [
        (f"{line.role}: " if line.again else f"{line.contrast} on {in_words(line.name)}: ")
        + f"{line.made['difference']:+.3f}, 95 % interval {interval(line.made['ci95'])}, "
        + ("a check without verdict" if line.again else line.made["verdict"] or "no verdict")
        for line in sorted(lines, key=lambda line: line.again)
    ]
    count = sum(not line.again for line in lines)
    return f"Forest plot of {count} declared contrasts. " + ". ".join(said) + "." if said else ""
