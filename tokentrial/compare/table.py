"""A comparison for a person."""

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokentrial.compare.contrasts import Comparison
from tokentrial.compare.line import Line
from tokentrial.report.tables import interval, number, one_line

_HEADER = ("", "outcome", "a", "b", "a", "b", "n", "a - b [95 %]", "p (test)", "MDE 80 %", "verdict")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """One row a contrast; below it each note, with the rows that it is of."""
    table = Table(box=rich.box.SIMPLE_HEAD)
    for column in _HEADER:
        table.add_column(column, overflow="fold")
    said: dict[str, list[int]] = {}
    for row, line in enumerate(comparison.contrasts, 1):
        table.add_row(*(Text(one_line(cell)) for cell in _cells(row, line)))
        for note in line.note.split("; "):
            said.setdefault(note, []).append(row)
    console.print(table)
    for note, rows in said.items():
        if note:
            which = "" if len(rows) == len(comparison.contrasts) else f"{_rows(rows)}: "
            _say(console, f"{which}{note}.")
    for note in comparison.notes:
        _say(console, f"{note}.")


def _say(console: Console, text: str) -> None:
    console.print(one_line(text), highlight=False, markup=False)


def _cells(row: int, line: Line) -> list[str]:
    seeds = f"{line.n_a}" if line.n_a == line.n_b else f"{line.n_a} and {line.n_b}"
    items = f"1 seed, {seeds} items" if line.unit == "items" else f"{seeds} seeds"
    return [
        str(row),
        line.outcome,
        line.a,
        line.b,
        f"{line.value_a:.3f}",
        f"{line.value_b:.3f}",
        items,
        f"{line.difference:+.3f} {interval(line.ci95)}",
        f"{number(line.p)} ({line.test})",
        number(line.mde80),
        line.verdict or "",
    ]


def _rows(rows: list[int]) -> str:
    """`row 3`, `rows 1, 2`, and no more than eight of them."""
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown}"
