"""A comparison for a person."""

from rich.console import Console

from tokentrial.compare.contrasts import Comparison
from tokentrial.compare.lines import Line
from tokentrial.report.tables import format_interval, format_number, one_line, terminal_table

_PAIR = ("a", "b")
_HEADER = ("outcome", "value a", "value b", "n", "a - b [95 %]", "p", "test", "MDE 80 %", "verdict")


def print_comparison(comparison: Comparison, console: Console, whole: bool = False) -> None:
    """One row a tested contrast; below the table each note, with the rows that it is of.

    Where a run has declared some of them, the exploratory rest is counted alone, unless the `whole` is asked for.
    """
    tested = [line for line in comparison.contrasts if line.p is not None or line.verdict is not None]
    untested = len(comparison.contrasts) - len(tested)
    judged = [line for line in tested if line.verdict is not None]
    exploratory = len(tested) - len(judged) if judged and not whole else 0
    tested = judged if exploratory else tested
    pairs = {(line.a, line.b) for line in tested}
    if len(pairs) == 1:
        for letter, name in zip(_PAIR, pairs.pop(), strict=True):
            _say(console, f"{letter}: {name}")
        pairs = set()
    rows = [[str(row), *((line.a, line.b) if pairs else ()), *_cells(line)] for row, line in enumerate(tested, 1)]
    if rows:
        console.print(terminal_table(("", *(_PAIR if pairs else ()), *_HEADER), rows))
    said: dict[str, list[int]] = {}
    for row, line in enumerate(tested, 1):
        for note in filter(None, line.note.split("; ")):
            said.setdefault(note, []).append(row)
    for note, of in said.items():
        _say(console, f"{note}." if len(of) == len(tested) else f"{_rows(of)}: {note}.")
    for note in comparison.notes:
        _say(console, f"{note}.")
    if exploratory:
        _say(console, f"{exploratory} exploratory contrasts get no verdict: --outcome NAME shows one, --json all.")
    if untested:
        _say(console, f"{untested} outcomes that no test fits, such as one seed's bits per byte, are in --json only.")


def _say(console: Console, text: str) -> None:
    console.print(one_line(text), highlight=False, markup=False)


def _cells(line: Line) -> list[str]:
    units = f"{line.n_a}" if line.n_a == line.n_b else f"{line.n_a} and {line.n_b}"
    return [
        line.outcome,
        f"{line.value_a:.3f}",
        f"{line.value_b:.3f}",
        f"1 seed, {units} items" if line.unit == "items" else f"{units} seeds",
        f"{line.difference:+.3f} {format_interval(line.ci95)}",
        format_number(line.p) + (f" (Holm {format_number(line.p_holm)})" if line.p_holm not in (None, line.p) else ""),
        line.test,
        format_number(line.mde80),
        line.verdict or "",
    ]


def _rows(rows: list[int]) -> str:
    """`row 3`, or `rows 1, 2` and no more than eight of them."""
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown}"
