"""The forest plot: every declared contrast, seed by seed."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokentrial.report.narrative import metric_label, outcome_label
from tokentrial.report.outcomes import METRICS
from tokentrial.report.style import DASHED, DOTTED, INK, MUTED, PAPER, arm_style, new_figure
from tokentrial.report.tables import DeclaredContrast, Report, declared_contrasts, format_interval

_ONE_LINE = 124  # letters that fit side by side on the figure


def _measured(report: Report) -> list[DeclaredContrast]:
    return [contrast for contrast in declared_contrasts(report) if contrast.stats]


def forest(report: Report) -> Figure:
    """Each declared contrast: seeds as dots, mean and interval as a diamond on a line. One panel for each metric, as
    nats and shares have no common axis."""
    panels: dict[str, list[DeclaredContrast]] = defaultdict(list)
    for contrast in _measured(report):
        panels[contrast.outcome.rsplit("/", 1)[1]].append(contrast)
    rows = [len(panel) for panel in panels.values()]
    figure, axes = new_figure(
        sum(rows) * 0.62 + 0.8 * len(rows), nrows=len(rows), height_ratios=[count + 0.5 for count in rows]
    )
    for axis, (metric, panel) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, report, metric, panel)
    return figure


def _panel(axis: Axes, report: Report, metric: str, panel: Sequence[DeclaredContrast]) -> None:
    smallest, is_accuracy = report["declared"]["smallest_effect"], metric == "accuracy"
    marks = f"; dashed: ±{smallest:g}" if is_accuracy else ""
    if is_accuracy and any(contrast.results["floor"] is not None for contrast in panel):
        marks += "; dotted: at the floor"
    for number, contrast in enumerate(panel):
        if is_accuracy and (floor := contrast.results["floor"]) is not None:
            x = floor - mean([v for v in contrast.results["per_seed"][contrast.arms[1]] if v is not None])
            axis.plot([x, x], [-number - 0.26, -number + 0.1], color=MUTED, linewidth=1.2, linestyle=DOTTED)
        _row(axis, -number, contrast, arm_style(report, contrast.arms[0])[0])
    axis.axvline(0, color=INK, linewidth=1)
    if is_accuracy:
        for edge in (-smallest, smallest):
            axis.axvline(edge, color=MUTED, linewidth=0.9, linestyle=DASHED)
    axis.set_ylim(-len(panel) + 0.62, 0.62)
    axis.margins(x=0.06)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    better = "right is better" if METRICS[metric].higher_is_better else "left is better"
    axis.set_xlabel(f"difference in {metric_label(metric)}, {better}{marks}")


def _row(axis: Axes, y: int, contrast: DeclaredContrast, colour: str) -> None:
    """One contrast at height `y`, its words above it."""
    stats, seeds = contrast.stats, contrast.differences
    axis.plot(seeds, [y - 0.16] * len(seeds), "o", color=colour, alpha=0.5, markersize=4.5, markeredgewidth=0)
    low, high = stats["ci95"] or (stats["difference"],) * 2
    axis.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    face, edge = (PAPER, colour) if contrast.is_rerun else (colour, PAPER)
    axis.plot([stats["difference"]], [y], "D", color=face, markersize=7, markeredgecolor=edge, markeredgewidth=1)
    role = {"primary": "PRIMARY  ", "secondary": ""}.get(contrast.role, f"{contrast.role}: ")
    label = f"{role}{contrast.pair.replace(' - ', ' − ')}, {outcome_label(contrast.outcome)}"
    verdict = "a check" if contrast.is_rerun else stats["verdict"] or "no verdict"
    figures = f"{verdict}  {stats['difference']:+.3f} {format_interval(stats['ci95'])}"
    # on a ground of its own, so that no line runs through the words
    text: Any = {"bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}, "va": "bottom", "fontsize": 8}
    text["xycoords"] = ("axes fraction", "data")
    bold: Any = {"weight": "bold"} if contrast.role == "primary" else {}
    if len(label) * (1.15 if bold else 1.0) + len(figures) > _ONE_LINE:  # bold letters are wider
        axis.annotate("\n".join([*wrap(label, 100), figures]), (0, y + 0.14), **text, **bold)
    else:
        axis.annotate(label, (0, y + 0.2), **text, **bold)
        axis.annotate(figures, (1, y + 0.2), ha="right", color=MUTED, **text)


def forest_alt(report: Report) -> str:
    """The same in sentences, the declared contrasts before the reruns."""
    contrasts = sorted(_measured(report), key=lambda contrast: contrast.is_rerun)
    sentences = [
        (f"{c.role}: " if c.is_rerun else f"{c.pair} on {outcome_label(c.outcome)}: ")
        + f"{c.stats['difference']:+.3f}, 95 % interval {format_interval(c.stats['ci95'])}, "
        + ("a check without verdict" if c.is_rerun else c.stats["verdict"] or "no verdict")
        for c in contrasts
    ]
    count = sum(not contrast.is_rerun for contrast in contrasts)
    return f"Forest plot of {count} declared contrasts. {'. '.join(sentences)}." if sentences else ""
