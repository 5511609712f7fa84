"""What stands inside the models after pretraining, drawn: probes, logit lens, rows of the fact tokens. Exploratory."""

from collections.abc import Callable
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokentrial.report.canvas import KINDS, MUTED, PAPER, legend, look, new_figure, panels
from tokentrial.report.tables import Report

_TARGETS = {"a": "a", "b": "b", "product": "a×b", "log_product": "ln a×b", "beyond": "beyond\na and b"}
_VECTORS = {"tokens": "the fact token's embedding", "state": "the state at the question's end"}
_LOWEST = -0.5  # an R² below it is drawn at it
_FAINT = -10  # nats below which the lens is not drawn: the embedding alone says nothing of an answer


def _by_arm(report: Report, read: Callable[[Any], Any]) -> dict[str, list[Any]]:
    """Arm: what is read of each of its cells; cells that have nothing of it, and arms, are left out."""
    found = {arm: [it for cell in cells if (it := read(cell))] for arm, cells in report["mechanism"].items()}
    return {arm: values for arm, values in found.items() if values}


# probes


def _r2(report: Report, vectors: str, target: str, key: str = "r2") -> dict[str, list[float]]:
    """Arm: R² of each seed."""
    probed = _by_arm(report, lambda cell: cell["probes"][vectors])
    return {arm: [probe[target][key] for probe in probes] for arm, probes in probed.items()}


def probes(report: Report, width: float) -> Figure:
    """R² of each target, from the tokens and from the state: seeds faint, the mean strong, shuffled facts a dash."""
    there = [vectors for vectors in _VECTORS if _r2(report, vectors, "a")]
    figure, axes = panels(width, len(there), 2.4)
    arms = list(report["mechanism"])
    for axis, vectors in zip(axes, there, strict=True):
        for x, target in enumerate(_TARGETS):
            shuffles = _r2(report, vectors, target, "shuffled_r2")
            for arm, values in _r2(report, vectors, target).items():
                colour, marker = look(report, arm)
                at = x + 0.7 * ((arms.index(arm) + 0.5) / len(arms) - 0.5)
                drawn = [max(value, _LOWEST) for value in values]
                axis.plot([at] * len(drawn), drawn, "o", color=colour, alpha=0.3, markersize=3.5, markeredgewidth=0)
                axis.plot([at], [mean(drawn)], marker, color=colour, markersize=5.5)
                axis.plot([at - 0.09, at + 0.09], [mean(shuffles[arm])] * 2, color=MUTED, linewidth=1.2)
        axis.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1)))
        axis.set_title(f"from {_VECTORS[vectors]}")
        axis.set_xticks(range(len(_TARGETS)), [*_TARGETS.values()])
        axis.set_ylim(_LOWEST - 0.05, 1.05)
        axis.set_ylabel("R² of facts left out")
        axis.grid(axis="y")
    legend(figure, report, width)
    return figure


def probes_alt(report: Report) -> str:
    """What the probes found, in a sentence."""
    said = [
        f"from {words} "
        + ", ".join(
            f"{arm} {mean(values):.2f} and {mean(beyond[arm]):.2f}"
            for arm, values in _r2(report, vectors, "product").items()
        )
        for vectors, words in _VECTORS.items()
        if (beyond := _r2(report, vectors, "beyond"))
    ]
    heads = "A linear map gives the product of facts it has not seen, and its part beyond a and b, with R² of: "
    return f"{heads}{'; '.join(said)}." if said else ""


# logit lens


def _layers(report: Report, kind: str) -> dict[str, list[list[float]]]:
    """Arm: log-probabilities layer by layer, of each seed."""
    return _by_arm(report, lambda cell: cell["lens"].get(kind))


def lens(report: Report, width: float) -> Figure:
    """Log-probability of the right answer by layer: every seed a faint line, the mean a strong one."""
    kinds = [kind for kind in KINDS if _layers(report, kind)]
    figure, axes = panels(width, len(kinds), 2.2)
    for axis, kind in zip(axes, kinds, strict=True):
        for arm, lines in _layers(report, kind).items():
            colour, marker = look(report, arm)
            for line in lines:
                axis.plot(line, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot([*map(mean, zip(*lines, strict=True))], color=colour, marker=marker, markersize=4, linewidth=1.8)
        axis.set_title(KINDS[kind])
        axis.set_ylim(bottom=max(axis.get_ylim()[0], _FAINT))
        axis.set_xlabel("layers done")
        axis.locator_params(axis="x", integer=True)
        axis.set_ylabel("ln P(right answer), nats")
        axis.grid(axis="y")
    legend(figure, report, width)
    return figure


def lens_alt(report: Report) -> str:
    """What the lens found, in a sentence."""
    said = [
        f"on {words} "
        + ", ".join(
            f"{arm} {mean(line[0] for line in lines):.2f} to {mean(line[-1] for line in lines):.2f}"
            for arm, lines in by_arm.items()
        )
        for kind, words in KINDS.items()
        if (by_arm := _layers(report, kind))
    ]
    return f"From the embedding to the last layer, ln P of the right answer goes: {'; '.join(said)}." if said else ""


# rows of the fact tokens


def _tokens(report: Report) -> dict[str, Any]:
    """Arm: of each token how often it was served, its length, and in what share of seeds it looks hardly trained; means
    over seeds, shape (3, tokens)."""
    keys = ("seen", "length", "hardly_trained")
    return {
        arm: np.mean([[[float(of[key]) for of in tokens.values()] for key in keys] for tokens in of_seeds], axis=0)
        for arm, of_seeds in _by_arm(report, lambda cell: cell["rows"]["tokens"]).items()
    }


def rows(report: Report, width: float) -> Figure:
    """Each fact token: how often it was served and how long its row is; hollow where it looks hardly trained."""
    figure, axes = new_figure(width, 2.9)
    axis = axes[0, 0]
    for arm, (seen, length, hardly) in _tokens(report).items():
        colour, marker = look(report, arm)
        for hollow in (False, True):
            chosen = (hardly > 0) == hollow
            axis.plot(seen[chosen], length[chosen], marker, markersize=5, color=colour, alpha=0.75,
                      markerfacecolor=PAPER if hollow else colour)  # fmt: skip
    axis.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("times served in pretraining")
    axis.set_ylabel("length, median plain row = 1")
    axis.grid(axis="y")
    legend(figure, report, width)
    return figure


def rows_alt(report: Report) -> str:
    """What the rows show, in a sentence."""
    said = [
        f"{arm}'s {len(seen)} were served {seen.min():,.0f} to {seen.max():,.0f} times, are {length.mean():.2f} long, "
        f"and {sum(hardly > 0)} look hardly trained"
        for arm, (seen, length, hardly) in _tokens(report).items()
    ]
    return f"Fact tokens, lengths in those of the median plain row: {'; '.join(said)}." if said else ""
