"""What the figures share: one light palette, the colour and marker of each arm, and a figure that needs no screen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from tokentrial.report.contrast_table import Report

INK, MUTED, LINE, PAPER = "#1c2024", "#59616b", "#cfcbc2", "#fdfcfa"
# the control's, then the treatments'; distinct under every common form of colour blindness; 4.5:1 on the paper
ARM_COLOURS = ("#525c69", "#b03a12", "#1a5fb4", "#0b7355", "#7a3ea1", "#7d5a00")
ARM_MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<")  # 7 for treatments: with 5 colours, 35 of them look different
CSS_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {
    colour: f"--arm{number}" for number, colour in enumerate(ARM_COLOURS)
}
DOTTED, DASHED = (0, (1, 1)), (0, (4, 3))
GROUP_LABELS = {"asked": "asked facts", "never_asked": "never-asked facts"}

WIDTH = 7.6  # inches, of a figure
RC_PARAMS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 8.5,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
}


def new_figure(height: float, width: float = WIDTH, **grid: Any) -> tuple[Figure, Any]:
    """A figure, in inches, with its axes, a 2D grid as `subplots` takes it. No pyplot: it keeps figures alive."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07))
    return figure, figure.subplots(squeeze=False, **grid)


def arm_number(report: Report, arm: str) -> int:
    """Which colour an arm has: 0, grey, is the control."""
    return 1 + _place(report, arm) % (len(ARM_COLOURS) - 1) if arm != report["control"] else 0


def arm_style(report: Report, arm: str) -> tuple[str, str]:
    """Colour and marker of an arm."""
    marker = 1 + _place(report, arm) % (len(ARM_MARKERS) - 1) if arm != report["control"] else 0
    return ARM_COLOURS[arm_number(report, arm)], ARM_MARKERS[marker]


def _place(report: Report, arm: str) -> int:
    return [name for name in report["arms"] if name != report["control"]].index(arm)


def draw_estimates(axis: Axes, points: Sequence[tuple[float, Any]], style: tuple[str, str]) -> None:
    """A line through the means of estimates at their places on x, with their 95 % intervals."""
    colour, marker = style
    means = np.array([estimate["mean"] for _, estimate in points])
    ends = np.array([estimate["ci95"] or (estimate["mean"],) * 2 for _, estimate in points])
    axis.errorbar([x for x, _ in points], means, abs(ends.T - means), color=colour, marker=marker, markersize=5,
                  linewidth=1.6, elinewidth=1.1, capsize=3)  # fmt: skip


def legend(figure: Figure, report: Report) -> None:
    """The arms, above the axes."""
    handles = []
    for arm in report["arms"]:
        colour, marker = arm_style(report, arm)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, label=arm))
    columns = min(len(handles), 6)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
