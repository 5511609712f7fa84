"""A comparison as a table for the terminal."""

from rich.console import Console

from tokentrial.compare.contrasts import Comparison
from tokentrial.compare.system_contrast import SystemContrast
from tokentrial.report.tables import format_interval, format_number, one_line, terminal_table

_HEADER = ("", "a", "b", "outcome", "value a", "value b", "n", "a - b [95 %]", "p", "test", "MDE 80 %", "verdict")


def print_comparison(comparison: Comparison, console: Console, show_all: bool = False) -> None:
    """One row a tested contrast; below the table each note, with the rows that it is of.

    Where a run has declared some of them, the exploratory rest is only counted, unless `show_all`.
    """
    tested = [c for c in comparison.contrasts if c.p is not None or c.verdict is not None]
    judged = [c for c in tested if c.verdict is not None]
    shown = judged if judged and not show_all else tested
    table = [_HEADER, *(_row(format_number, contrast) for format_number, contrast in enumerate(shown, 1))]
    lines = []
    if len({(c.a, c.b) for c in shown}) == 1:  # their names stand once above the table, not in every row
        lines = [f"a: {shown[0].a}", f"b: {shown[0].b}"]
        table = [(row[0], *row[3:]) for row in table]
    _print_lines(console, lines)
    if shown:
        console.print(terminal_table(table[0], table[1:]))
    rows_by_note: dict[str, list[int]] = {}
    for row, contrast in enumerate(shown, 1):
        for note in filter(None, contrast.note.split("; ")):
            rows_by_note.setdefault(note, []).append(row)
    notes = [
        f"{note}." if len(rows) == len(shown) else f"{_name_rows(rows)}: {note}." for note, rows in rows_by_note.items()
    ]
    notes += [f"{note}." for note in comparison.notes]
    if exploratory := len(tested) - len(shown):
        notes.append(f"{exploratory} exploratory contrasts get no verdict: --outcome NAME shows one, --json all.")
    if untested := len(comparison.contrasts) - len(tested):
        notes.append(f"{untested} outcomes that no test fits, such as one seed's bits per byte, are in --json only.")
    _print_lines(console, notes)


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(one_line(line), highlight=False, markup=False)


def _row(row: int, c: SystemContrast) -> tuple[str, ...]:
    units = f"{c.n_a}" if c.n_a == c.n_b else f"{c.n_a} and {c.n_b}"
    return (
        f"{row}",
        c.a,
        c.b,
        c.outcome,
        f"{c.value_a:.3f}",
        f"{c.value_b:.3f}",
        f"1 seed, {units} items" if c.unit == "items" else f"{units} seeds",
        f"{c.difference:+.3f} {format_interval(c.ci95)}",
        format_number(c.p) + (f" (Holm {format_number(c.p_holm)})" if c.p_holm not in (None, c.p) else ""),
        c.test,
        format_number(c.mde80),
        c.verdict or "",
    )


def _name_rows(rows: list[int]) -> str:
    """`row 3`, or `rows 1, 2` and no more than eight of them."""
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown}"
