"""The forest plot: every declared contrast, seed by seed."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokentrial.report.contrast_table import Record, Report, declared_records, estimate, is_measured, is_rerun, row
from tokentrial.report.outcomes import METRICS, metric_label
from tokentrial.report.plot_style import DASHED, DOTTED, INK, MUTED, PAPER, WIDTH, arm_style, new_figure

NARROW = 3.7  # inches: what a phone shows
_LETTERS = 13.16  # to an inch
_STACK = 0.32  # height within which seeds that tie lie above each other; a row is 1


def _measured(report: Report) -> list[Record]:
    return [record for record in declared_records(report) if is_measured(record)]


def forest(report: Report, width: float = WIDTH) -> Figure:
    """Each declared contrast: seeds as dots, mean and interval as a diamond on a line. One panel for each metric, as
    nats and shares have no common axis. `width` in inches."""
    panels: dict[str, list[Record]] = defaultdict(list)
    for record in _measured(report):
        panels[record["outcome"].rsplit("/", 1)[1]].append(record)
    rows = [len(panel) for panel in panels.values()]
    row = 1.25 if width < WIDTH else 0.8  # its words take more lines where there is less room
    height, ratios = sum(rows) * row + 0.8 * len(rows), [count + 0.5 for count in rows]
    figure, axes = new_figure(height, width, nrows=len(rows), height_ratios=ratios)
    for axis, (metric, panel) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, report, metric, panel, round(_LETTERS * width))
    return figure


def _panel(axis: Axes, report: Report, metric: str, panel: Sequence[Record], letters: int) -> None:
    marks = "; dashed: the smallest effect that matters" if any(record["margin"] for record in panel) else ""
    # of log-probabilities the floor lies far off
    floors = [record["floor"] if metric == "accuracy" else None for record in panel]
    marks += "; dotted: at the floor" if any(floor is not None for floor in floors) else ""
    for y, (record, floor) in enumerate(zip(panel, floors, strict=True)):
        margin = record["margin"]
        lines = [] if margin is None else [(-margin, DASHED), (margin, DASHED)]
        lines += [] if floor is None else [(floor - record["control_mean"], DOTTED)]
        for x, style in lines:
            axis.plot([x, x], [-y - 0.4, -y + 0.12], color=MUTED, linewidth=1.0, linestyle=style)
        _row(axis, -y, record, arm_style(report, record["treatment"])[0], letters)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_ylim(-len(panel) + 0.5, 0.62)
    axis.margins(x=0.06)
    axis.set_yticks([])
    if letters < 60:
        axis.locator_params(axis="x", nbins=5)
    axis.spines["left"].set_visible(False)
    better = "right is better" if METRICS[metric].higher_is_better else "left is better"
    words = f"difference in {metric_label(metric)}, {better}{marks}"
    axis.set_xlabel("\n".join(wrap(words, letters + 8)))


def _row(axis: Axes, y: int, record: Record, colour: str, letters: int) -> None:
    """One contrast at height `y`, its words above it, so many letters a line."""
    x, shown = record["difference"], row(record)
    heights = [y - 0.14 - height for height in _stacked(record["differences"])]
    axis.plot(record["differences"], heights, "o", color=colour, alpha=0.5, markersize=4.5, markeredgewidth=0)
    axis.plot(record["interval"] or [x, x], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    face, edge = (PAPER, colour) if is_rerun(record) else (colour, PAPER)
    axis.plot([x], [y], "D", color=face, markersize=7, markeredgecolor=edge, markeredgewidth=1)
    role = {"primary": "PRIMARY  ", "secondary": ""}.get(shown.role, f"{shown.role}: ")
    label = f"{role}{shown.contrast.replace(' - ', ' − ')}, {shown.outcome}"
    result = f"{shown.verdict}  {shown.difference} {shown.interval}"
    words = "\n".join([*wrap(label, letters), *wrap(result, letters - 4)])
    # on a ground of its own, so that no line runs through the words
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
    weight = "bold" if shown.role == "primary" else "normal"
    axis.annotate(words, (0, y + 0.14), xycoords=("axes fraction", "data"), bbox=ground, va="bottom", fontsize=8,
                  weight=weight)  # fmt: skip


def _stacked(differences: Sequence[float]) -> list[float]:
    """How far below its row each seed's dot lies, so that none hides another that is equal to it."""
    values = [round(d, 9) for d in differences]  # (0.3 - 0.2) and (0.7 - 0.6) are one difference
    step = min(0.1, _STACK / max(1, max(Counter(values).values()) - 1))
    return [step * values[:i].count(value) for i, value in enumerate(values)]


def forest_alt(report: Report) -> str:
    """The same in sentences, the declared contrasts before the reruns."""
    records = sorted(_measured(report), key=is_rerun)
    sentences = [
        f"{shown.role if is_rerun(record) else f'{shown.contrast} on {shown.outcome}'}: {shown.verdict}, "
        f"{estimate(record)}"
        for record in records
        for shown in [row(record)]
    ]
    count = sum(not is_rerun(record) for record in records)
    return f"Forest plot of {count} declared contrasts. {'. '.join(sentences)}." if sentences else ""
