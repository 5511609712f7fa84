"""`report.html`: one page that needs no network, from the report alone. Whatever results hold is escaped by Jinja2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokentrial.report import meaning
from tokentrial.report.canvas import look_number
from tokentrial.report.figures import Drawn, draw, inline
from tokentrial.report.tables import interval, number, one_line, spread, sweep_table
from tokentrial.store import write_bytes

Report = Mapping[str, Any]
_EMPTY_LINES = re.compile(r"\n\s*\n\s*\n")

# what each figure is there to show, for its caption
_CAPTIONS = {
    "forest": "Each dot is one seed: the same weights and documents in both arms. The diamond is the mean, the line "
    "its 95 % interval. Where the line crosses zero, no difference is shown.",
    "ladder": "What becomes of each outcome by the stages after pretraining. Faint lines are seeds, the dotted line is "
    "the floor. A treatment that only matters in pretraining meets the control further right.",
    "heatmap": "Row times column. Brighter is better. A fact is asked in some seeds and never asked in the others; the "
    "two are drawn apart. Empty squares: no seed of that kind, such as the facts of 1, which are always asked.",
    "curves": "Accuracy on the table against the tokens of pretraining: how much text it takes. Faint lines are seeds, "
    "the strong one their mean with its 95 % interval, the dashed line is 60 %.",
    "dose": "What the training text held: how often facts were stated, in which form. Arms that spell a fact with "
    "fewer tokens are served more of them in the same budget of tokens.",
    "probes": "How well ridge regressions read what a fact is from a vector that stands for it, each fact predicted "
    "from the others. 1 is perfect, 0 is knowing nothing; the dash is what 95 % of shuffled facts stay below; what is "
    "below -0.5 is drawn there. The operands alone give the product of the 9 by 9 table to 0.88: only the part beyond "
    "them speaks of multiplication. Little of it is no proof that none is there: the last state has turned to the "
    "words that come next, and a map that is not linear may find more.",
    "lens": "How sure the model is of the right answer in digits after each layer: the stream through the last norm "
    "and the head (logit lens). Faint lines are seeds; what is below -10 is not drawn.",
    "rows": "Embedding rows of the fact tokens. Hollow: hardly trained in some seed, as the row still lies with those "
    "that stand for nothing.",
}
_SWEPT = (
    "Means over seeds with 95 % t intervals at each value that was swept; left the arms, right the declared contrasts. "
    "Exploratory: the verdict is of the trial's own settings alone."
)
_CONSUMED = {
    "tokens": "tokens of pretraining",
    "bytes": "bytes of original text read",
    "documents": "documents",
    "questions": "drill lines that ask a fact",
    "fact_tokens": "fact tokens read",
    "drill_share": "share of drills in the tokens",
    "parameters": "parameters",
    "flops": "FLOPs of pretraining",
    "train_seconds": "seconds of pretraining",
    "sft_seconds": "seconds of SFT",
    "grpo_seconds": "seconds of GRPO",
    "evaluation_seconds": "seconds of evaluation",
}


def write_page(report: Report, path: Path) -> None:
    """Write the page, and `figures/` beside it."""
    drawn = draw(report)
    for name, figure in drawn.items():
        write_bytes(path.parent / "figures" / f"{name}.svg", figure.wide.encode())
        write_bytes(path.parent / "figures" / f"{name}.png", figure.png)
    write_bytes(path, page(report, drawn).encode())


def page(report: Report, drawn: Mapping[str, Drawn]) -> str:
    """The HTML of a report with its figures."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("tokentrial", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {
        name: {
            # our own figures: matplotlib has escaped their text
            "wide": Markup(inline(figure.wide)),
            "narrow": Markup(inline(figure.narrow)),
            "alt": figure.alt,
            "caption": _CAPTIONS.get(name, _SWEPT),
        }
        for name, figure in drawn.items()
    }
    return environment.get_template("template.html").render(
        report=report,
        figures=figures,
        headline=meaning.headline(report),
        verdict=report["primary"]["verdict"] or "no verdict",
        arm_sentences=meaning.arm_sentences(report),
        not_shown=meaning.not_shown(report),
        next_steps=meaning.next_steps(report),
        declared=meaning.declared_rows(report),
        limits=meaning.limits(report),
        look={arm: look_number(report, arm) for arm in report["arms"]},
        outcomes=_outcomes(report),
        sweep=sweep_table(report),
        consumed=_consumed(report),
        settings=yaml.safe_dump(report["settings"], sort_keys=False, width=100),
        after=lambda stage: meaning.STAGES.get(stage, f"after {stage}"),
        amount=amount,
        shown=shown,
        sentence_case=sentence_case,
        in_words=meaning.in_words,
        number=number,
    )


def _outcomes(report: Report) -> list[dict[str, Any]]:
    """Every outcome with its values, floor and contrasts, for the long table."""
    return [
        {
            "name": one_line(name),
            "values": [spread(outcome["per_seed"][arm]) for arm in report["arms"]],
            "floor": number(outcome["floor"]),
            "contrasts": [
                f"{one_line(pair)}: {made['difference']:+.3f} {interval(made['ci95'])}, p {number(made['p'])}"
                for pair, made in outcome["contrasts"].items()
            ],
        }
        for name, outcome in report["outcomes"].items()
    ]


def _consumed(report: Report) -> list[tuple[str, list[str]]]:
    """What each arm consumed, a row a quantity; a stage that no arm went through has no row."""
    spent = report["consumed"]
    return [
        (words, [amount(spent.get(arm, {}).get(key)) for arm in report["arms"]])
        for key, words in _CONSUMED.items()
        if any(key in of_arm for of_arm in spent.values())
    ]


def amount(value: float | None) -> str:
    """A quantity of any size, in few characters."""
    if value is None:
        return "-"
    return f"{value:.2e}" if value >= 1e9 else f"{value:,.2f}" if value < 10 and value % 1 else f"{value:,.0f}"


def sentence_case(words: str) -> str:
    """The first letter a capital, the others as they are."""
    return words[:1].upper() + words[1:]


def shown(completion: str) -> str:
    """A completion as it stands on the page: runs of empty lines shortened."""
    return _EMPTY_LINES.sub("\n⋮\n", completion.strip())
