"""What the figures share: one light palette, the look of each arm, sizes, and a figure that needs no screen."""

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from tokentrial.report.tables import Report

INK, MUTED, LINE, PAPER = "#1c2024", "#59616b", "#cfcbc2", "#fdfcfa"
# told apart by every common form of colour blindness, and by their markers; 4.5:1 on the paper
ARMS = ("#525c69", "#b03a12", "#1a5fb4", "#0b7355", "#7a3ea1", "#7d5a00")
MARKERS = ("o", "D", "s", "^", "v", "P")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {
    colour: f"--arm{number}" for number, colour in enumerate(ARMS)
}
WIDE, NARROW = 7.6, 3.7  # inches
KINDS = {"asked": "asked facts", "never_asked": "never-asked facts"}

STYLE: dict[Any, Any] = {
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


def new_figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of so many inches with its axes, a grid as `subplots` takes it."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(squeeze=False, **grid)


def panels(width: float, count: int, height: float) -> tuple[Figure, Any]:
    """A figure with so many axes of one scale, side by side, or below each other where it is narrow."""
    if width == WIDE:
        figure, axes = new_figure(width, 2.9, sharey=True, ncols=count)
    else:
        figure, axes = new_figure(width, height * count + 0.5, sharey=True, nrows=count)
    return figure, axes.flat


def look_number(report: Report, arm: str) -> int:
    """Which colour and marker an arm has: 0, grey, is the control."""
    others = [name for name in report["arms"] if name != report["control"]]
    return 0 if arm == report["control"] else 1 + others.index(arm) % (len(ARMS) - 1)


def look(report: Report, arm: str) -> tuple[str, str]:
    """Colour and marker of an arm."""
    number = look_number(report, arm)
    return ARMS[number], MARKERS[number]


def legend(figure: Figure, report: Report, width: float) -> None:
    """The arms, above the axes."""
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=arm)
        for arm in report["arms"]
        for colour, marker in (look(report, arm),)
    ]
    columns = min(len(handles), 6 if width == WIDE else 3)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
