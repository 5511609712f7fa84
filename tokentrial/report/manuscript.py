"""For a paper: a paragraph of methods, and the declared outcomes as a LaTeX table (`\\usepackage{booktabs}` and
`\\input{table}`); every figure is the report's."""

import re
from typing import Any

from tokentrial.report.contrast_table import HEADS, Report, Row, declared_rows
from tokentrial.report.formats import one_line
from tokentrial.report.narrative import averaged, declaration, error_rates, gate, looks, tuning, verdict_sentence
from tokentrial.report.outcomes import outcome_label

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_NUMBERS = ("difference", "interval", "p", "p_holm", "treatment", "control")  # a hyphen is a minus there
_WORDS = r"p{4cm}"  # of columns that hold sentences


def latex_table(report: Report) -> str:
    """A tabular of booktabs, the primary comparison first; mean ± standard deviation over seeds."""
    rows = []
    for row in declared_rows(report):
        rows.append(" & ".join(_cell(name, cell) for name, cell in row._asdict().items()) + r" \\")
        if row.role == "primary" and report["declared"]["secondary"]:
            rows.append(r"\midrule")
    columns = "".join("r" if name in _NUMBERS else _WORDS if name == "note" else "l" for name in Row._fields)
    return "\n".join(
        [
            f"% {one_line(report['trial'])}: declared before training, {len(report['declared']['seeds'])} seeds",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join({"p": "$p$", "Holm p": "Holm $p$"}.get(head, head.capitalize()) for head in HEADS) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _cell(name: str, text: str) -> str:
    escaped = escape_latex(text)
    return re.sub(r"([+-]?\d[\d.]*(?:e[+-]?\d+)?)", r"$\1$", escaped) if name in _NUMBERS else escaped


def escape_latex(text: str) -> str:
    """A text whose every character LaTeX prints as it stands."""
    return "".join(_ESCAPES.get(character, character) for character in one_line(text))


def methods(report: Report) -> str:
    """Arms, seeds, budget, outcome, test, looks, gate, declaration and verdict, as the report has them."""
    declared, versions = report["declared"], report["provenance"]["versions"]
    treatments = " and ".join(arm for arm in report["arms"] if arm != report["control"])
    primary, count = declared["primary"], len(declared["secondary"])
    seeds, margin = ", ".join(map(str, declared["seeds"])), report["contrasts"][0]["margin"]
    family = f"{count} secondary comparison{'s' if count > 1 else ''}, Holm-adjusted"
    matters = f"; the smallest effect that matters was set to {margin:g}" if margin else ""
    sentences = [
        f"We held {treatments or 'no treatment'} against the control {report['control']} in the trial "
        f"{report['trial']}, on {len(declared['seeds'])} seeds ({seeds}); within a seed all arms start from the same "
        "weights and read the same documents in the same order.",
        *(_training(report["settings"], report["consumed"]) if report["consumed"] else ()),
        f"The primary outcome was {outcome_label(primary['outcome'])}, for the contrast {primary['contrast']}, beside "
        f"{family if count else 'no secondary comparison'}.",
        *averaged(report),
        "The unit of replication is the seed: the difference of each seed enters a two-sided paired t test at alpha "
        f"{declared['alpha']:g}{matters}.",
        *error_rates(report),
        *looks(report),
        *tuning(report),
        gate(report),
        *declaration(report),
        f"Result: {verdict_sentence(report)}",
        f"Made by tokentrial {versions['tokentrial']} with PyTorch {versions['torch']}.",
    ]
    return one_line(" ".join(sentences))


def _training(settings: dict[str, Any], consumed: dict[str, Any]) -> list[str]:
    model, first = settings["pretrain"], next(iter(consumed.values()))
    start = f"continued from {model['from_checkpoint']}" if model["from_checkpoint"] else "trained from scratch"
    read = [f"{arm} {m['tokens']:,.0f} tokens and {m['bytes']:,.0f} original bytes" for arm, m in consumed.items()]
    return [
        f"Each cell is a GPT-2 of {first['parameters']:,} parameters ({model['n_layer']} layers, width "
        f"{model['n_embd']}, context {model['context']}, GPT-2's first {settings['tokenizer']['merges']:,} merges), "
        f"{start}.",
        f"The budget was the same {settings['budget']['match']} in every arm; consumed were, on average over seeds, "
        f"{', '.join(read)}.",
    ]
