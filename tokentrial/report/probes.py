"""What linear probes read inside the models after pretraining, drawn. Exploratory."""

from statistics import mean

from matplotlib.figure import Figure

from tokentrial.report.contrast_table import Report
from tokentrial.report.plot_style import DOTTED, MUTED, arm_style, legend, new_figure

_TARGETS = {"a": "a", "b": "b", "product": "a×b", "log_product": "ln a×b", "beyond": "beyond\na and b"}
_VECTORS = {"tokens": "the fact token's embedding", "state": "the state at the question's end"}
_LOWEST_R2 = -0.5  # an R² below it is drawn at it


def _r2(report: Report, vectors: str, target: str, key: str = "r2") -> dict[str, list[float]]:
    """Arm: R² of each seed; arms whose cells have no such probes, or not this target, are left out."""
    by_arm = {}
    for arm, cells in report["mechanism"].items():
        if probed := [cell["probes"][vectors] for cell in cells if target in (cell["probes"][vectors] or ())]:
            by_arm[arm] = [probe[target][key] for probe in probed]
    return by_arm


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
