"""The figures of a report, by matplotlib, each a pure function of the report: the same report, the same bytes.

On the page each colour becomes a CSS variable, so that the figures follow the reader's theme. On a phone a figure keeps
the size at which it can be read, and scrolls sideways; the one that the page begins with is drawn for it once more.
"""

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from tokentrial.report import plot_style
from tokentrial.report.contrast_table import Report, declared_records, values_that_count
from tokentrial.report.forest import NARROW, forest, forest_alt
from tokentrial.report.ladder_curves import multipliers, multipliers_alt, trends, trends_alt
from tokentrial.report.outcomes import outcome_label
from tokentrial.report.plot_style import CSS_VARIABLES, GROUP_LABELS, RC_PARAMS, arm_style, legend, new_figure
from tokentrial.report.probes import probes, probes_alt
from tokentrial.report.run_summary import LEARNT_AT
from tokentrial.report.sweep_curves import sweep, sweep_alt, swept_outcomes
from tokentrial.report.tuning_curves import tuned, tuned_alt
from tokentrial.statistics.paired import paired_t


class Drawing(NamedTuple):
    """One figure as SVG and PNG, and what it shows in words; `narrow` is the SVG that a phone shows, if it has one."""

    svg: str
    png: bytes
    alt: str
    narrow: str | None = None


def draw(report: Report) -> dict[str, Drawing]:
    """All figures that the report has something for, by name."""
    swept = {
        f"sweep{number}": (partial(sweep, name=name), partial(sweep_alt, name=name))
        for number, name in enumerate(swept_outcomes(report), 1)
    }
    drawings = {}
    for name, (plot, alt) in (_FIGURES | swept).items():
        if words := alt(report):
            # ids of an SVG come from the salt; nothing in either file tells when it was drawn, or with what
            with mpl.rc_context(RC_PARAMS | {"svg.hashsalt": name}):
                figure, png = plot(report), io.BytesIO()
                figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
                figure.set_layout_engine("none")  # laid out a second time, axes of equal aspect would move
                svg, narrow = _svg(figure), None
                if name == "forest":
                    with mpl.rc_context({"svg.hashsalt": "narrow forest"}):  # both stand on the page, and no id twice
                        narrow = _svg(forest(report, NARROW))
            drawings[name] = Drawing(svg, png.getvalue(), words, narrow)
    return drawings


def _svg(figure: Figure) -> str:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type", "Format")))
    return svg.getvalue().decode()


def inline(svg: str) -> str:
    """A figure's SVG for the page: colours are its variables, the paper is the page, ids of groups are gone."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' id="image[^"]*"', "", svg)
    for colour, variable in CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("'DejaVu Sans', sans-serif", "var(--sans)")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)


# outcomes after each stage


def _stages(report: Report) -> Figure:
    """Chosen outcomes after each stage: every seed a faint line, the mean a strong one."""
    names, stages = _outcomes_by_stage(report), report["stages"]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, axes = new_figure(2.1 * rows + 0.45, nrows=rows, ncols=columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        outcomes = [report["outcomes"].get(f"{stage}/{name}") for stage in stages]
        for arm in report["arms"]:
            colour, marker = arm_style(report, arm)
            by_stage = [values_that_count(report, f"{stage}/{name}", arm) for stage in stages]
            seeds = max(map(len, by_stage))
            # (stages, seeds)
            values = np.ma.masked_invalid(np.array([row or [None] * seeds for row in by_stage], dtype=float))
            axis.plot(range(len(stages)), values, color=colour, alpha=0.22, linewidth=0.8)
            axis.plot(range(len(stages)), values.mean(axis=1), color=colour, marker=marker, markersize=5, linewidth=1.8)
        floor = next((outcome["floor"] for outcome in outcomes if outcome), None)
        if floor is not None:
            axis.axhline(floor, color=plot_style.MUTED, linewidth=0.9, linestyle=plot_style.DOTTED)
        axis.set_title("\n".join(wrap(outcome_label(f"/{name}", with_stage=False), 30)))
        axis.set_xticks(range(len(stages)), stages)
        axis.set_xlim(-0.25, len(stages) - 0.75)
        axis.grid(axis="y")
    legend(figure, report)
    return figure


def _outcomes_by_stage(report: Report) -> list[str]:
    """Outcomes without their stage: those declared, and the solved problems."""
    measured = dict.fromkeys(name.partition("/")[2] for name in report["outcomes"])
    declared = [record["outcome"].partition("/")[2] for record in declared_records(report)]
    solved = [name.removesuffix("_flexible") for name in measured if name.endswith("/accuracy_flexible")]
    return [name for name in dict.fromkeys([*declared, *solved]) if name in measured]


def _stages_alt(report: Report) -> str:
    words = "Line charts of outcomes by stage and arm; the table below has the values."
    return words if _outcomes_by_stage(report) else ""


# the table as a heat map


def _heatmap(report: Report) -> Figure:
    """Each arm's table: accuracy and log-probability, over the seeds that asked a fact and that never did."""
    tables = report["tables"][_table_stage(report)]
    arms = [arm for arm in report["arms"] if arm in tables]
    columns = [(metric, group) for metric in ("accuracy", "choice_logprob") for group in GROUP_LABELS]
    figure, axes = new_figure(len(arms) * 1.78 + 1.0, nrows=len(arms), ncols=4)
    scales = {"accuracy": (0.0, 1.0), "choice_logprob": (report["facts"]["choice_floor"], 0.0)}
    images = {}
    for (row, arm), (column, (metric, group)) in product(enumerate(arms), enumerate(columns)):
        axis = axes[row, column]
        values = np.array(tables[arm][metric][group], dtype=float)
        last_row, last_column = values.shape
        images[metric] = axis.imshow(
            np.ma.masked_invalid(values),
            cmap="cividis",
            vmin=scales[metric][0],
            vmax=scales[metric][1],
            extent=(0.5, last_column + 0.5, last_row + 0.5, 0.5),
        )
        ticks_of_axes = zip(report["facts"]["axes"] or ([], []), (axis.set_yticks, axis.set_xticks), strict=True)
        for operands, set_ticks in ticks_of_axes:
            ticks = [1, (len(operands) + 1) // 2, len(operands)] if operands else []
            set_ticks(ticks, [str(operands[tick - 1]) for tick in ticks])
        axis.tick_params(length=0, pad=2)
        axis.spines[:].set_visible(False)
        if row == 0:
            title = f"{'accuracy' if metric == 'accuracy' else 'log-prob.'}, {group.replace('_', ' ')}"
            axis.set_title(title, fontsize=8.5, loc="center")
        if column == 0:
            axis.set_ylabel(arm, color=arm_style(report, arm)[0], fontsize=9, weight="bold")
    labels = {"accuracy": "accuracy", "choice_logprob": "log-probability of the right answer, nats"}
    for (metric, label), ax in zip(labels.items(), (axes[:, :2], axes[:, 2:]), strict=True):
        bar = figure.colorbar(
            images[metric], ax=ax, location="bottom", shrink=0.7, aspect=30, fraction=0.05, pad=0.02, label=label
        )
        bar.outline.set_visible(False)
    return figure


def _table_stage(report: Report) -> str:
    """The stage of the primary outcome, if its table is there, else the first."""
    stage: str = report["primary"]["outcome"].split("/")[0]
    return stage if stage in report["tables"] else next(iter(report["tables"]), "")


def _heatmap_alt(report: Report) -> str:
    words = "Heat maps of the table by arm, question by question; the table of all outcomes has their means."
    return words if report["tables"] else ""


# learning curves


def _curves(report: Report) -> Figure:
    """Accuracy on the table against the tokens of pretraining: every seed a faint line, the mean a strong one, its 95 %
    t interval over seeds a shade."""
    groups = _measured_groups(report)
    figure, axes = new_figure(2.9, sharey=True, ncols=len(groups))
    for axis, group in zip(axes.flat, groups, strict=True):
        for arm, curves in report["curves"].items():
            colour, marker = arm_style(report, arm)
            seeds = [{p["tokens"]: p[group] for p in curve["points"] if group in p} for curve in curves.values()]
            for points in seeds:
                axis.plot([*points], [*points.values()], color=colour, alpha=0.25, linewidth=0.8)
            # a mean over fewer seeds would jump where one of them stops
            shared = sorted(set.intersection(*(set(points) for points in seeds)))
            means = [paired_t([points[x] for points in seeds]) for x in shared]
            axis.plot(shared, [m.mean for m in means], color=colour, marker=marker, markersize=4, linewidth=1.8)
            ends = [m.ci95 or (m.mean, m.mean) for m in means]
            axis.fill_between(
                shared, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.12, linewidth=0
            )
        axis.axhline(LEARNT_AT, color=plot_style.MUTED, linewidth=0.9, linestyle=plot_style.DASHED)
        axis.set_title(GROUP_LABELS[group])
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("pretraining tokens")
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("accuracy")
    legend(figure, report)
    return figure


def _measured_groups(report: Report) -> list[str]:
    """Which of asked and never asked facts have a learning curve."""
    curves = [curve for by_seed in report["curves"].values() for curve in by_seed.values()]
    return [group for group in GROUP_LABELS if any(group in point for curve in curves for point in curve["points"])]


def _curves_alt(report: Report) -> str:
    words = "Line charts of accuracy against tokens of pretraining; the table below has the steps to 60 %."
    return words if _measured_groups(report) else ""


# dose


def _dose(report: Report) -> Figure:
    """How often facts were served, by form."""
    by_arm: Mapping[str, Any] = {arm: dose["forms"] for arm, dose in report["dose"]["by_arm"].items()}
    forms = [form for form in next(iter(by_arm.values())) if any(served[form] for served in by_arm.values())]
    figure, axes = new_figure(0.36 * len(by_arm) + 1.35)
    axis, start = axes[0, 0], np.zeros(len(by_arm))
    rows = [-row for row in range(len(by_arm))]
    for number, form in enumerate(forms):
        counts = np.array([served[form] for served in by_arm.values()])
        alpha = 1 - 0.72 * number / max(1, len(forms) - 1)
        axis.barh(rows, counts, left=start, height=0.62, color=plot_style.ARM_COLOURS[2], alpha=alpha,
                  edgecolor=plot_style.PAPER, linewidth=0.8, label=form.replace("_", " "))  # fmt: skip
        start += counts
    axis.set_yticks(rows, [*by_arm])
    axis.tick_params(axis="y", length=0, labelcolor=plot_style.INK)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.locator_params(axis="x", nbins=6)
    axis.set_xlabel("facts served in pretraining, mean over seeds")
    figure.legend(loc="outside upper left", ncols=7, handlelength=1, columnspacing=1.2)
    return figure


def _dose_alt(report: Report) -> str:
    words = "Bars of facts served in pretraining, by arm and form; the table below has their numbers."
    return words if any(any(dose["forms"].values()) for dose in report["dose"]["by_arm"].values()) else ""


_FIGURES: dict[str, tuple[Callable[[Report], Figure], Callable[[Report], str]]] = {
    "forest": (forest, forest_alt),
    "stages": (_stages, _stages_alt),
    "tuned": (tuned, tuned_alt),
    "trends": (trends, trends_alt),
    "multipliers": (multipliers, multipliers_alt),
    "heatmap": (_heatmap, _heatmap_alt),
    "curves": (_curves, _curves_alt),
    "dose": (_dose, _dose_alt),
    "probes": (probes, probes_alt),
}
