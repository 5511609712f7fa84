"""For a paper: a paragraph of methods, and the declared outcomes as a LaTeX table (`\\usepackage{booktabs}` and
`\\input{table}`); every figure is the report's."""

from typing import Any

from tokentrial.report.narrative import declared_rows, outcome_label
from tokentrial.report.tables import Report, one_line, verdict_sentence

_TESTS = {"paired_t": "paired t test"}
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
_HEADS = {
    "contrast": "Contrast",
    "outcome": "Outcome",
    "treatment": "Treatment",
    "control": "Control",
    "difference": "Difference",
    "interval": "95\\,\\% interval",
    "p": "$p$",
    "p_holm": "Holm",
    "verdict": "Verdict",
}
_MATH_COLUMNS = ("difference", "interval", "p", "p_holm")  # where a hyphen is a minus


def latex_table(report: Report) -> str:
    """A tabular of booktabs, the primary comparison first; mean ± standard deviation over seeds."""
    rows = []
    for row in declared_rows(report):
        # a figure in maths, so that its sign is a minus; words such as `n/a` as they are
        maths = [key for key in _MATH_COLUMNS if any(character.isdigit() for character in row[key])]
        rows.append(" & ".join(f"${row[key]}$" if key in maths else escape_latex(row[key]) for key in _HEADS) + r" \\")
        if row["role"] == "primary" and report["declared"]["secondary"]:
            rows.append(r"\midrule")
    return "\n".join(
        [
            f"% {one_line(report['trial'])}: declared before the first evaluation, {len(report['seeds'])} seeds",
            r"\begin{tabular}{llrrrrrrl}",
            r"\toprule",
            " & ".join(_HEADS.values()) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """A text whose every character LaTeX prints as it stands."""
    return "".join(_ESCAPES.get(character, character) for character in one_line(text))


def methods(report: Report) -> str:
    """Arms, seeds, budget, outcome, test, gate and verdict, as the report has them."""
    declared, versions = report["declared"], report["provenance"]["versions"]
    treatments = " and ".join(arm for arm in report["arms"] if arm != report["control"])
    primary, count = declared["primary"], len(declared["secondary"])
    seeds = ", ".join(map(str, declared["seeds"]))
    family = f"{count} secondary comparison{'s' if count > 1 else ''}, Holm-adjusted"
    sentences = [
        f"We held {treatments or 'no treatment'} against the control {report['control']} in the trial "
        f"{report['trial']}, on {len(declared['seeds'])} seeds ({seeds}); within a seed all arms start from the same "
        "weights and read the same documents in the same order.",
        *(_training(report["settings"], report["consumed"]) if report["consumed"] else ()),
        "Declared before the first evaluation were the primary outcome, "
        f"{outcome_label(primary['outcome'])}, for the contrast {primary['contrast']}, and "
        f"{family if count else 'no secondary comparison'}.",
        f"The unit of replication is the seed: the difference of each seed enters a two-sided "
        f"{_TESTS.get(declared['test'], declared['test'])} at alpha {declared['alpha']:g}; the smallest effect that "
        f"matters was set to {declared['smallest_effect']:g}.",
        _gate(declared["gate"], report["gate"]),
        f"Result: {verdict_sentence(report)}",
        *(f"{change}." for change in report["extended"]),
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


def _gate(needed: dict[str, Any] | None, gate: dict[str, Any] | None) -> str:
    if needed is None:
        return "No gate was declared."
    criterion = f"mean accuracy of at least {needed['asked']:g} on asked facts"
    criterion += f" and {needed['never_asked']:g} on never-asked ones"
    if gate is None:
        return f"The gate, the control's {criterion}, was not measured."
    reached = f"{gate['asked']:.3f}" + ("" if gate["never_asked"] is None else f" and {gate['never_asked']:.3f}")
    verdict = "was passed" if gate["failed"] is None else f"was not passed: {gate['failed']}"
    return f"A gate came first, the control's {criterion}: it reached {reached} and {verdict}."
