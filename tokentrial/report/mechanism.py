"""What stands inside the models after pretraining, drawn: probes, logit lens, rows of the fact tokens. Exploratory."""

from collections.abc import Callable
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokentrial.report.contrast_table import Report
from tokentrial.report.plot_style import DOTTED, GROUP_LABELS, MUTED, PAPER, arm_style, legend, new_figure

_TARGETS = {"a": "a", "b": "b", "product": "a×b", "log_product": "ln a×b", "beyond": "beyond\na and b"}
_VECTORS = {"tokens": "the fact token's embedding", "state": "the state at the question's end"}
_LOWEST_R2 = -0.5  # an R² below it is drawn at it
_LOWEST_LOGPROB = -10  # nats below which the lens is not drawn: the embedding alone says nothing of an answer


def _by_arm(report: Report, read: Callable[[Any], Any]) -> dict[str, list[Any]]:
    """Arm: what is read of each of its cells; cells that have nothing of it, and arms, are left out."""
    values = {arm: [v for cell in cells if (v := read(cell))] for arm, cells in report["mechanism"].items()}
    return {arm: by_cell for arm, by_cell in values.items() if by_cell}


# probes


def _r2(report: Report, vectors: str, target: str, key: str = "r2") -> dict[str, list[float]]:
    """Arm: R² of each seed."""
    probed = _by_arm(report, lambda cell: cell["probes"][vectors])
    return {arm: [probe[target][key] for probe in by_seed] for arm, by_seed in probed.items()}


def probes(report: Report) -> Figure:
    """R² of each target, from the tokens and from the state: seeds faint, the mean strong, shuffled facts a dash."""
    probed = [vectors for vectors in _VECTORS if _r2(report, vectors, "a")]
    figure, axes = new_figure(2.9, sharey=True, ncols=len(probed))
    arms = list(report["mechanism"])
    for axis, vectors in zip(axes.flat, probed, strict=True):
        for column, target in enumerate(_TARGETS):
            shuffled = _r2(report, vectors, target, "shuffled_r2")
            for arm, values in _r2(report, vectors, target).items():
                colour, marker = arm_style(report, arm)
                x = column + 0.7 * ((arms.index(arm) + 0.5) / len(arms) - 0.5)
                drawn = [max(value, _LOWEST_R2) for value in values]
                axis.plot([x] * len(drawn), drawn, "o", color=colour, alpha=0.3, markersize=3.5, markeredgewidth=0)
                axis.plot([x], [mean(drawn)], marker, color=colour, markersize=5.5)
                axis.plot([x - 0.09, x + 0.09], [mean(shuffled[arm])] * 2, color=MUTED, linewidth=1.2)
        axis.axhline(0, color=MUTED, linewidth=0.9, linestyle=DOTTED)
        axis.set_title(f"from {_VECTORS[vectors]}")
        axis.set_xticks(range(len(_TARGETS)), [*_TARGETS.values()])
        axis.set_ylim(_LOWEST_R2 - 0.05, 1.05)
        axis.set_ylabel("R² of facts left out")
        axis.grid(axis="y")
    legend(figure, report)
    return figure


def probes_alt(report: Report) -> str:
    """What the probes found, in a sentence."""
    sentences = []
    for vectors, label in _VECTORS.items():
        products, beyond = _r2(report, vectors, "product"), _r2(report, vectors, "beyond")
        if products:
            arms = [f"{arm} {mean(r2):.2f} and {mean(beyond[arm]):.2f}" for arm, r2 in products.items()]
            sentences.append(f"from {label} {', '.join(arms)}")
    head = "A linear map gives the product of facts it has not seen, and its part beyond a and b, with R² of: "
    return f"{head}{'; '.join(sentences)}." if sentences else ""


# logit lens


def _layers(report: Report, group: str) -> dict[str, list[list[float]]]:
    """Arm: log-probabilities, (seeds, layers)."""
    return _by_arm(report, lambda cell: cell["lens"].get(group))


def lens(report: Report) -> Figure:
    """Log-probability of the right answer by layer: every seed a faint line, the mean a strong one."""
    groups = [group for group in GROUP_LABELS if _layers(report, group)]
    figure, axes = new_figure(2.9, sharey=True, ncols=len(groups))
    for axis, group in zip(axes.flat, groups, strict=True):
        for arm, lines in _layers(report, group).items():
            colour, marker = arm_style(report, arm)
            axis.plot(np.transpose(lines), color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(np.mean(lines, axis=0), color=colour, marker=marker, markersize=4, linewidth=1.8)
        axis.set_title(GROUP_LABELS[group])
        axis.set_ylim(bottom=max(axis.get_ylim()[0], _LOWEST_LOGPROB))
        axis.set_xlabel("layers done")
        axis.locator_params(axis="x", integer=True)
        axis.set_ylabel("ln P(right answer), nats")
        axis.grid(axis="y")
    legend(figure, report)
    return figure


def lens_alt(report: Report) -> str:
    """What the lens found, in a sentence."""
    sentences = []
    for group, label in GROUP_LABELS.items():
        if by_arm := _layers(report, group):
            means = {arm: [*map(mean, zip(*lines, strict=True))] for arm, lines in by_arm.items()}
            arms = [f"{arm} {line[0]:.2f} to {line[-1]:.2f}" for arm, line in means.items()]
            sentences.append(f"on {label} {', '.join(arms)}")
    head = "From the embedding to the last layer, ln P of the right answer goes: "
    return f"{head}{'; '.join(sentences)}." if sentences else ""


# rows of the fact tokens


def _tokens(report: Report) -> dict[str, Any]:
    """Arm: of each token how often it was served, its length, and in what share of seeds it looks hardly trained; means
    over seeds, shape (3, tokens)."""
    keys = ("seen", "length", "hardly_trained")
    return {
        arm: np.mean([[[float(t[key]) for t in tokens.values()] for key in keys] for tokens in by_seed], axis=0)
        for arm, by_seed in _by_arm(report, lambda cell: cell["rows"]["tokens"]).items()
    }


def rows(report: Report) -> Figure:
    """Each fact token: how often it was served and how long its row is; hollow where it looks hardly trained."""
    figure, axes = new_figure(2.9)
    axis = axes[0, 0]
    for arm, (seen, length, hardly_trained) in _tokens(report).items():
        colour, marker = arm_style(report, arm)
        for hollow in (False, True):
            chosen = (hardly_trained > 0) == hollow
            axis.plot(seen[chosen], length[chosen], marker, markersize=5, color=colour, alpha=0.75,
                      markerfacecolor=PAPER if hollow else colour)  # fmt: skip
    axis.axhline(1, color=MUTED, linewidth=0.9, linestyle=DOTTED)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("times served in pretraining")
    axis.set_ylabel("length, median plain row = 1")
    axis.grid(axis="y")
    legend(figure, report)
    return figure


def rows_alt(report: Report) -> str:
    """What the rows show, in a sentence."""
    sentences = [
        f"{arm}'s {len(seen)} were served {seen.min():,.0f} to {seen.max():,.0f} times, are {length.mean():.2f} long, "
        f"and {sum(hardly_trained > 0)} look hardly trained"
        for arm, (seen, length, hardly_trained) in _tokens(report).items()
    ]
    head = "Fact tokens, lengths in those of the median plain row: "
    return f"{head}{'; '.join(sentences)}." if sentences else ""
