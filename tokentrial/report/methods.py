"""A paragraph of methods for a paper, every figure of it from the report."""

from collections.abc import Mapping
from typing import Any

from tokentrial.report.meaning import in_words
from tokentrial.report.tables import one_line, sentence
from tokentrial.settings import DRAWN

Report = Mapping[str, Any]


def methods(report: Report) -> str:
    """Arms, seeds, budget, outcome, test, gate and verdict, as the report has them."""
    declared = report["declared"]
    primary, secondary = declared["primary"], declared["secondary"]
    sentences = [
        _arms(report),
        *_training(report),
        f"Declared before the first evaluation were the primary outcome, {in_words(primary['outcome'])}, for the "
        f"contrast {primary['contrast']}, and {_secondary(len(secondary))}.",
        f"The unit of replication is the seed: the difference of each seed enters a two-sided "
        f"{_TESTS.get(declared['test'], declared['test'])} at alpha {declared['alpha']:g}; the smallest effect that "
        f"matters was set to {declared['smallest_effect']:g}.",
        _gate(report),
        f"Result: {sentence(report)}",
        *(f"{change}." for change in report["extended"]),
        f"Made by tokentrial {report['provenance']['versions']['tokentrial']} with PyTorch "
        f"{report['provenance']['versions']['torch']}.",
    ]
    return one_line(" ".join(sentences))


_TESTS = {"paired_t": "paired t test"}


def _arms(report: Report) -> str:
    others = [arm for arm in report["arms"] if arm != report["control"]]
    seeds = report["declared"]["seeds"]
    return (
        f"We held {' and '.join(others) or 'no treatment'} against the control {report['control']} in the trial "
        f"{report['trial']}, on {len(seeds)} seeds ({', '.join(map(str, seeds))}); within a seed all arms start from "
        "the same weights and read the same documents in the same order."
    )


def _training(report: Report) -> list[str]:
    """The model and what each arm consumed; nothing before a cell is trained."""
    settings, consumed = report["settings"], report["consumed"]
    if not consumed:
        return []
    shape = settings["pretrain"]
    first = next(iter(consumed.values()))
    spent = ", ".join(
        f"{arm} {each['tokens']:,.0f} tokens and {each['bytes']:,.0f} original bytes" for arm, each in consumed.items()
    )
    return [
        f"Each cell is a GPT-2 of {first['parameters']:,} parameters ({shape['n_layer']} layers, width "
        f"{shape['n_embd']}, context {shape['context']}, GPT-2's first {settings['tokenizer']['merges']:,} merges), "
        f"{_start(shape['init'])}.",
        f"The budget was the same {settings['budget']['match']} in every arm; consumed were, on average over seeds, "
        f"{spent}.",
    ]


def _start(init: str) -> str:
    return "trained from scratch" if init in DRAWN else f"continued from {init}"


def _secondary(count: int) -> str:
    if not count:
        return "no secondary comparison"
    return f"{count} secondary comparison{'s' if count > 1 else ''}, Holm-adjusted"


def _gate(report: Report) -> str:
    gate, needed = report["gate"], report["declared"]["gate"]
    if needed is None:
        return "No gate was declared."
    held = f"mean accuracy of at least {needed['asked']:g} on asked facts"
    held += f" and {needed['never_asked']:g} on never-asked ones"
    if gate is None:
        return f"The gate, the control's {held}, was not measured."
    reached = f"{gate['asked']:.3f}" + ("" if gate["never_asked"] is None else f" and {gate['never_asked']:.3f}")
    verdict = "was passed" if gate["failed"] is None else f"was not passed: {gate['failed']}"
    return f"A gate came first, the control's {held}: it reached {reached} and {verdict}."
