"""The figures of a report, by matplotlib, each a pure function of the report: the same report, the same bytes.

Every figure is drawn wide, for a screen and as a file, and narrow, for a phone. On the page each colour becomes a CSS
variable, so that the figures follow the reader's theme.
"""

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from statistics import mean
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from tokentrial.report.canvas import (
    ARMS,
    INK,
    KINDS,
    MUTED,
    NARROW,
    PAPER,
    STYLE,
    VARIABLES,
    WIDE,
    legend,
    look,
    new_figure,
    panels,
)
from tokentrial.report.forest import forest, forest_alt
from tokentrial.report.meaning import STAGES, in_words
from tokentrial.report.mechanism import lens, lens_alt, probes, probes_alt, rows, rows_alt
from tokentrial.report.sweep import sweep, sweep_alt, swept_outcomes
from tokentrial.report.tables import Report, declared, spread
from tokentrial.statistics.paired import paired_t


class Drawn(NamedTuple):
    """One figure: SVG of both widths, PNG of the wide one, and what it shows in words."""

    wide: str
    narrow: str
    png: bytes
    alt: str


def draw(report: Report) -> dict[str, Drawn]:
    """All figures that the report has something for, by name."""
    drawn = {}
    swept = {
        f"sweep{number}": (partial(sweep, name=name), partial(sweep_alt, name=name))
        for number, name in enumerate(swept_outcomes(report), 1)
    }
    for name, (function, alt) in (_FIGURES | swept).items():
        if words := alt(report):
            wide, narrow = (_saved(function, report, width, f"{name} {width}").decode() for width in (WIDE, NARROW))
            drawn[name] = Drawn(wide, narrow, _saved(function, report, WIDE), words)
    return drawn


def _saved(function: Callable[[Report, float], Figure], report: Report, width: float, salt: str = "") -> bytes:
    """SVG whose ids come from the salt, PNG without one; nothing in either tells when it was made, or with what."""
    out = io.BytesIO()
    how: dict[str, Any] = {"format": "png", "dpi": 160, "metadata": {"Software": None}}
    if salt:
        how = {"format": "svg", "metadata": dict.fromkeys(("Date", "Creator", "Type", "Format"))}
    with mpl.rc_context(STYLE | {"svg.hashsalt": salt}):
        function(report, width).savefig(out, **how)
    return out.getvalue()


def inline(svg: str) -> str:
    """A figure's SVG for the page: colours are its variables, the paper is the page, ids of groups are gone."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' id="image[^"]*"', "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("'DejaVu Sans', sans-serif", "var(--sans)")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)


# ladder


def _ladder(report: Report, width: float) -> Figure:
    """Chosen outcomes after each stage: every seed a faint line, the mean a strong one."""
    names, stages = _laddered(report), report["stages"]
    columns = min(len(names), 3 if width == WIDE else 1)
    rows = -(-len(names) // columns)
    figure, axes = new_figure(width, 2.1 * rows + 0.45, nrows=rows, ncols=columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        outcomes = [report["outcomes"].get(f"{stage}/{name}") for stage in stages]
        for arm in report["arms"]:
            colour, marker = look(report, arm)
            values = [outcome["per_seed"][arm] if outcome else [None] * len(report["seeds"]) for outcome in outcomes]
            there = np.ma.masked_invalid(np.array(values, dtype=float))
            axis.plot(range(len(stages)), there, color=colour, alpha=0.22, linewidth=0.8)
            axis.plot(range(len(stages)), there.mean(axis=1), color=colour, marker=marker, markersize=5, linewidth=1.8)
        floor = next((outcome["floor"] for outcome in outcomes if outcome), None)
        if floor is not None:
            axis.axhline(floor, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1)))
        axis.set_title("\n".join(wrap(in_words(f"/{name}", with_stage=False), 30 if width == WIDE else 44)))
        axis.set_xticks(range(len(stages)), stages)
        axis.set_xlim(-0.25, len(stages) - 0.75)
        axis.grid(axis="y")
    legend(figure, report, width)
    return figure


def _laddered(report: Report) -> list[str]:
    """Outcomes without their stage: those declared, and the solved problems."""
    wanted = dict.fromkeys(line.name.partition("/")[2] for line in declared(report))
    there = dict.fromkeys(name.partition("/")[2] for name in report["outcomes"])
    solved = [name.removesuffix("_flexible") for name in there if name.endswith("/accuracy_flexible")]
    return [name for name in dict.fromkeys([*wanted, *solved]) if name in there]


def _ladder_alt(report: Report) -> str:
    said = [
        f"{in_words(f'/{name}', with_stage=False)}: "
        + "; ".join(
            f"{arm} "
            + ", ".join(
                f"{spread(report['outcomes'][f'{stage}/{name}']['per_seed'][arm])} {STAGES.get(stage, stage)}"
                for stage in report["stages"]
                if f"{stage}/{name}" in report["outcomes"]
            )
            for arm in report["arms"]
        )
        for name in _laddered(report)
    ]
    return "Line charts of outcomes by stage and arm. " + ". ".join(said) + "." if said else ""


# the table as a heat map


def _heatmap(report: Report, width: float) -> Figure:
    """Each arm's table: accuracy and log-probability, over the seeds that asked a fact and that never did."""
    tables, wide = report["tables"][_table_stage(report)], width == WIDE
    arms = [arm for arm in report["arms"] if arm in tables]
    wanted = [(metric, group) for metric in ("accuracy", "choice_logprob") for group in ("asked", "never_asked")]
    rows, columns = (len(arms), 4) if wide else (2 * len(arms), 2)
    figure, axes = new_figure(width, rows * (1.78 if wide else 1.85) + 1.0, nrows=rows, ncols=columns)
    scales = {"accuracy": (0.0, 1.0), "choice_logprob": (report["facts"]["choice_floor"], 0.0)}
    images = {}
    for (row, arm), (column, (metric, group)) in product(enumerate(arms), enumerate(wanted)):
        axis = axes.reshape(-1, 4)[row, column]
        values = np.array(tables[arm][metric][group], dtype=float)
        high_row, high_column = values.shape
        images[metric] = axis.pcolormesh(
            np.arange(high_column + 1) + 0.5,
            np.arange(high_row + 1) + 0.5,
            np.ma.masked_invalid(values),
            vmin=scales[metric][0],
            vmax=scales[metric][1],
            cmap="cividis",
            edgecolors=PAPER,
            lw=0.4,
        )
        axis.set_xlim(0.5, high_column + 0.5)
        axis.set_ylim(high_row + 0.5, 0.5)
        axis.set_aspect("equal")
        axis.set_xticks([1, (high_column + 1) // 2, high_column])
        axis.set_yticks([1, (high_row + 1) // 2, high_row])
        axis.tick_params(length=0, pad=2)
        axis.spines[:].set_visible(False)
        head = f"{'accuracy' if metric == 'accuracy' else 'log-prob.'}, {group.replace('_', ' ')}"
        axis.set_title(head if row == 0 or not wide else "", fontsize=8.5 if wide else 8, loc="center")
        if column % columns == 0:
            axis.set_ylabel(arm, color=look(report, arm)[0], fontsize=9 if wide else 8, weight="bold")
    for metric, image in images.items():
        chosen = axes[:, :2] if metric == "accuracy" else axes[:, 2:]
        bar = figure.colorbar(
            image, ax=chosen if wide else axes, location="bottom", shrink=0.7, aspect=30, fraction=0.05, pad=0.02
        )
        bar.outline.set_visible(False)
        bar.set_label("share right" if metric == "accuracy" else "log-probability of the right answer, nats")
    return figure


def _table_stage(report: Report) -> str:
    """The stage of the primary outcome, if its table is there, else the first."""
    stage: str = report["primary"]["outcome"].split("/")[0]
    return stage if stage in report["tables"] else next(iter(report["tables"]), "")


def _heatmap_alt(report: Report) -> str:
    said = []
    for arm, by_metric in report["tables"].get(_table_stage(report), {}).items():
        values = {k: [v for line in of for v in line if v is not None] for k, of in by_metric["accuracy"].items()}
        means = [f"{mean(of):.2f} right where {group.replace('_', ' ')}" for group, of in values.items() if of]
        said.append(f"{arm}: {', '.join(means)}")
    return f"Heat maps of the table by arm. {'. '.join(said)}." if said else ""


# learning curves


def _curves(report: Report, width: float) -> Figure:
    """Accuracy on the table against the tokens of pretraining: every seed a faint line, the mean a strong one, its 95 %
    t interval over seeds a shade."""
    subsets = [subset for subset in KINDS if any(subset in point for point in _points(report))]
    figure, axes = panels(width, len(subsets), 2.2)
    for axis, key in zip(axes, subsets, strict=True):
        for arm, curves in report["curves"].items():
            colour, marker = look(report, arm)
            lines = [[(p["tokens"], p[key]) for p in curve["points"] if key in p] for curve in curves.values()]
            for line in lines:
                axis.plot([x for x, _ in line], [y for _, y in line], color=colour, alpha=0.25, linewidth=0.8)
            at = {x: [y for line in lines for other, y in line if other == x] for line in lines for x, _ in line}
            whole = {x: paired_t(at[x]) for x in sorted(at) if len(at[x]) == len(lines)}
            axis.plot(
                [*whole], [m.mean for m in whole.values()], color=colour, marker=marker, markersize=4, linewidth=1.8
            )
            ends = [m.ci95 or (m.mean, m.mean) for m in whole.values()]
            axis.fill_between(
                [*whole], [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.12, linewidth=0
            )
        axis.axhline(0.6, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set_title(KINDS[key])
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("tokens of pretraining")
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="y")
    axes[0].set_ylabel("accuracy")
    legend(figure, report, width)
    return figure


def _points(report: Report) -> list[Mapping[str, float]]:
    curves = [curve for by_seed in report["curves"].values() for curve in by_seed.values()]
    return [point for curve in curves for point in curve["points"]]


def _curves_alt(report: Report) -> str:
    if not any(subset in point for point in _points(report) for subset in KINDS):
        return ""
    said = []
    for arm, curves in report["curves"].items():
        asked, never = (sum(of["steps_to_60"][subset] is not None for of in curves.values()) for subset in KINDS)
        said.append(f"{arm}: {asked} of {len(curves)} seeds reach 60 % on asked facts, {never} on never-asked")
    return f"Line charts of accuracy against tokens of pretraining. {'. '.join(said)}."


# dose


def _dose(report: Report, width: float) -> Figure:
    """How often facts were served, by form."""
    by_arm = report["dose"]["by_arm"]
    forms = [form for form in next(iter(by_arm.values()))["forms"] if any(d["forms"][form] for d in by_arm.values())]
    figure, axes = new_figure(width, 0.36 * len(by_arm) + 1.35)
    axis = axes[0, 0]
    for row, of_arm in enumerate(by_arm.values()):
        start = 0.0
        for number, form in enumerate(forms):
            served = of_arm["forms"][form]
            alpha = 1 - 0.72 * number / max(1, len(forms) - 1)
            axis.barh(-row, served, left=start, height=0.62, color=ARMS[2], alpha=alpha, edgecolor=PAPER, linewidth=0.8,
                      label=None if row else form.replace("_", " "))  # fmt: skip
            start += served
    axis.set_yticks([-row for row in range(len(by_arm))], [*by_arm])
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.locator_params(axis="x", nbins=6 if width == WIDE else 4)
    axis.set_xlabel("facts served in pretraining, mean over seeds")
    figure.legend(loc="outside upper left", ncols=7 if width == WIDE else 3, handlelength=1, columnspacing=1.2)
    return figure


def _dose_alt(report: Report) -> str:
    by_arm = report["dose"]["by_arm"]
    said = [f"{arm} {sum(of['forms'].values()):,.0f} facts" for arm, of in by_arm.items() if any(of["forms"].values())]
    return f"Bars of facts served in pretraining, by form: {', '.join(said)}." if said else ""


_FIGURES: dict[str, tuple[Callable[[Report, float], Figure], Callable[[Report], str]]] = {
    "forest": (forest, forest_alt),
    "ladder": (_ladder, _ladder_alt),
    "heatmap": (_heatmap, _heatmap_alt),
    "curves": (_curves, _curves_alt),
    "dose": (_dose, _dose_alt),
    "probes": (probes, probes_alt),
    "lens": (lens, lens_alt),
    "rows": (rows, rows_alt),
}
