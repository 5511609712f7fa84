"""The forest plot: every declared contrast, seed by seed."""

from collections.abc import Mapping, Sequence
from statistics import mean
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from tokentrial.report.canvas import INK, MUTED, NARROW, PAPER, WIDE, Report, look, new_figure
from tokentrial.report.meaning import contrast_of, differences, in_words, metric_words
from tokentrial.report.tables import interval, rerun_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PRIMARY, AGAIN = "PRIMARY  ", "again with "


class Row(NamedTuple):
    """A line of the plot: its role, contrast, declaration, and the outcome it is of."""

    role: str
    made: Mapping[str, Any]
    pair: Mapping[str, str]
    outcome: Mapping[str, Any]


def _rows(report: Report) -> list[Row]:
    """The declared contrasts, and below the primary its reruns."""
    rows = []
    for pair, made in _declared(report):
        is_primary = pair == report["declared"]["primary"]
        rows.append(Row(PRIMARY if is_primary else "", made, pair, report["outcomes"][pair["outcome"]]))
        if is_primary:
            rows += [Row(f"{AGAIN}{name}: ", again, pair, outcome) for name, outcome, again in rerun_of(report)]
    return rows


def forest(report: Report, width: float) -> "Figure":
    """Each declared contrast: seeds as dots, mean and interval as a diamond on a line. One panel for each unit."""
    panels: dict[str, list[Row]] = {}
    for row in _rows(report):
        panels.setdefault(row.pair["outcome"].rsplit("/", 1)[1], []).append(row)
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


def _forest_panel(
    axis: "Axes",
    report: Report,
    metric: str,
    panel: Sequence[Row],
    width: float,
) -> None:
    smallest, floored = report["declared"]["smallest_effect"], False
    for number, (role, made, pair, outcome) in enumerate(panel):
        y = -number
        treatment, control = pair["contrast"].split(" - ")
        colour, _ = look(report, treatment)
        again = role.startswith(AGAIN)
        values = differences(outcome, treatment, control)
        level = mean([b for b in outcome["per_seed"][control] if b is not None])
        if metric == "accuracy" and outcome["floor"] is not None:
            at = outcome["floor"] - level
            axis.plot([at, at], [y - 0.26, y + 0.1], color=MUTED, linewidth=1.2, linestyle=(0, (1, 1)))
            floored = True
        axis.plot(values, [y - 0.16] * len(values), "o", color=colour, alpha=0.5, markersize=4.5, markeredgewidth=0)
        low, high = made["ci95"] or (made["difference"],) * 2
        axis.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        axis.plot([made["difference"]], [y], "D", color=PAPER if again else colour, markersize=7,
                  markeredgecolor=colour if again else PAPER, markeredgewidth=1)  # fmt: skip
        what = f"{role}{pair['contrast'].replace(' - ', ' − ')}, {in_words(pair['outcome'])}"
        verdict = "a check" if again else made["verdict"] or "no verdict"
        figures = f"{verdict}  {made['difference']:+.3f} {interval(made['ci95'])}"
        # on a ground of its own, so that no line runs through the words
        ground: Any = {"bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}, "va": "bottom", "fontsize": 8}
        ground["xycoords"] = ("axes fraction", "data")
        strong: Any = {"weight": "bold"} if role == PRIMARY else {}
        if width == NARROW:
            words = "\n".join([*wrap(what, 52), figures])
            axis.annotate(words, (0, y + 0.14), **ground, **strong)
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
    better = "left is better" if metric in ("bits_per_byte", "gold_nats_per_byte") else "right is better"
    marks = f"; dashed: ±{smallest:g}" + ("; dotted: at the floor" if floored else "") if metric == "accuracy" else ""
    title = f"difference in {metric_words(metric)}, {better}{marks}"
    axis.set_xlabel("\n".join(wrap(title, 200 if width == WIDE else 50)))


def _declared(report: Report) -> list[tuple[Mapping[str, str], Mapping[str, Any]]]:
    declared = report["declared"]
    return [
        (pair, made) for pair in (declared["primary"], *declared["secondary"]) if (made := contrast_of(report, pair))
    ]


def forest_alt(report: Report) -> str:
    said = [
        f"{pair['contrast']} on {in_words(pair['outcome'])}: {made['difference']:+.3f}, 95 % interval "
        f"{interval(made['ci95'])}, {made['verdict'] or 'no verdict'}"
        for pair, made in _declared(report)
    ]
    said += [
        f"again with {name}: {made['difference']:+.3f}, 95 % interval {interval(made['ci95'])}, a check without verdict"
        for name, _, made in rerun_of(report)
    ]
    return f"Forest plot of {len(_declared(report))} declared contrasts. " + ". ".join(said) + "." if said else ""
