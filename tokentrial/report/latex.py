"""The declared outcomes as a LaTeX table, for a paper: `\\usepackage{booktabs}` and `\\input{table}`."""

from collections.abc import Mapping
from typing import Any

from tokentrial.report.meaning import declared_rows
from tokentrial.report.tables import one_line

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
_COLUMNS = ("Contrast", "Outcome", "Treatment", "Control", "Difference", "95\\,\\% interval", "$p$", "Holm", "Verdict")
_MATHS = ("difference", "interval", "p", "p_holm")  # where a hyphen is a minus


def latex_table(report: Mapping[str, Any]) -> str:
    """A tabular of booktabs, the primary comparison first; mean ± standard deviation over seeds."""
    rows = []
    for row in declared_rows(report):
        keys = ("contrast", "outcome", "treatment", "control", *_MATHS, "verdict")
        rows.append(" & ".join(_number(row[key]) if key in _MATHS else escaped(row[key]) for key in keys) + r" \\")
        if row["role"] == "primary" and len(report["declared"]["secondary"]):
            rows.append(r"\midrule")
    return "\n".join(
        [
            f"% {one_line(report['trial'])}: declared before the first evaluation, {len(report['seeds'])} seeds",
            r"\begin{tabular}{llrrrrrrl}",
            r"\toprule",
            " & ".join(_COLUMNS) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """A text whose every character LaTeX prints as it stands."""
    return "".join(_ESCAPES.get(character, character) for character in one_line(text))


def _number(text: str) -> str:
    """A figure in maths, so that its sign is a minus; words such as `n/a` as they are."""
    return f"${text}$" if any(character.isdigit() for character in text) else escaped(text)
