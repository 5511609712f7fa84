"""A comparison as a table for the terminal."""

from rich.console import Console

from tokentrial.compare.contrasts import Comparison
from tokentrial.compare.system import ALPHA, SystemContrast
from tokentrial.report.formats import format_interval, format_level, format_number, one_line
from tokentrial.report.text_report import terminal_table


def print_comparison(comparison: Comparison, console: Console, show_all: bool = False) -> None:
    """One row a tested contrast; below the table each note, with the rows that it is of.

    Where something is said of some, or a trial declares some of their outcomes, the exploratory rest is only counted,
    unless `show_all`.
    """
    tested = [c for c in comparison.contrasts if c.p is not None or c.verdict is not None]
    decided = [c for c in tested if c.verdict or c.finding]
    declared = [c for c in tested if c.outcome in comparison.declared]
    shown = tested if show_all else decided or declared or tested
    rows = [_row(number, contrast) for number, contrast in enumerate(shown, 1)]
    lines = []
    if len({(c.a, c.b) for c in shown}) == 1:  # their names stand once above the table, not in every row
        lines = [f"a: {shown[0].a}", f"b: {shown[0].b}"]
        rows = [{name: cell for name, cell in row.items() if name not in ("a", "b")} for row in rows]
    _print_lines(console, lines)
    if header := [name for name in (rows or [{}])[0] if any(row[name] for row in rows)]:
        console.print(terminal_table(header, [[row[name] for name in header] for row in rows]))
    rows_by_note: dict[str, list[int]] = {}
    for number, contrast in enumerate(shown, 1):
        for note in filter(None, contrast.note.split("; ")):
            rows_by_note.setdefault(note, []).append(number)
    notes = [f"{note}." if len(of) == len(shown) else f"{_name_rows(of)}: {note}." for note, of in rows_by_note.items()]
    notes += [f"{note}." for note in comparison.notes]
    if hidden := len(tested) - len(shown):
        notes.append(f"{hidden} further contrasts are not shown: --outcome NAME shows one, --json all.")
    if untested := len(comparison.contrasts) - len(tested):
        notes.append(f"{untested} outcomes that no test fits, such as one seed's bits per byte, are in --json only.")
    _print_lines(console, notes)


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(one_line(line), highlight=False, markup=False)


def _row(number: int, c: SystemContrast) -> dict[str, str]:
    """A contrast's cells by the head of their column; columns without any are not shown."""
    units = f"{c.n_a}" if c.n_a == c.n_b else f"{c.n_a} and {c.n_b}"
    level = "" if c.alpha == ALPHA else f" at {format_level(c.alpha)}"
    return {
        "": f"{number}",
        "a": c.a,
        "b": c.b,
        "outcome": c.outcome,
        "value a": f"{c.value_a:.3f}",
        "value b": f"{c.value_b:.3f}",
        "n": f"{units} seeds" if c.unit == "seeds" else f"1 seed, {units} {c.unit}",
        "a - b [95 %]": f"{c.difference:+.3f} {format_interval(c.interval)}{level}",
        "p": format_number(c.p) + (f" (Holm {format_number(c.p_adjusted)})" if c.p_adjusted is not None else ""),
        "test": c.test or "",
        "detectable": format_number(c.detectable) if c.detectable is not None else "",
        "verdict": c.verdict or "",
        "finding": c.finding or "",
    }


def _name_rows(rows: list[int]) -> str:
    """`row 3`, or `rows 1, 2` and no more than eight of them."""
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return f"row{'s' if len(rows) > 1 else ''} {shown}"
