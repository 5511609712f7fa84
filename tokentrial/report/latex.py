"""The declared outcomes as a LaTeX table (`\\usepackage{booktabs}`, `\\input{table}`); every figure is the report's."""

import re

from tokentrial.report.contrast_table import HEADS, Report, Row, declared_rows
from tokentrial.report.formats import one_line

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
