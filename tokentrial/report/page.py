"""`report.html`: one page that needs no network, from the report alone. Whatever results hold is escaped by Jinja2."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from tokentrial.report import meaning, tables
from tokentrial.report.canvas import look_number
from tokentrial.report.figures import Drawn, draw, inline
from tokentrial.report.tables import Report
from tokentrial.store import write_bytes

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
    environment.filters |= {"amount": amount, "shown": shown, "spread": tables.spread}
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
        meaning=meaning,
        tables=tables,
        look={arm: look_number(report, arm) for arm in report["arms"]},
        consumed=_CONSUMED,
        settings=yaml.safe_dump(report["settings"], sort_keys=False, width=100),
    )


def amount(value: float | None) -> str:
    """A quantity of any size, in few characters."""
    if value is None:
        return "-"
    return f"{value:.2e}" if value >= 1e9 else f"{value:,.2f}" if value < 10 and value % 1 else f"{value:,.0f}"


def shown(completion: str) -> str:
    """A completion as it stands on the page: runs of empty lines shortened."""
    return re.sub(r"\n\s*\n\s*\n", "\n⋮\n", completion.strip())
