"""Texts side by side with their fact tokens in colour, in a terminal and as an HTML page.

Texts come from models and files: what does not print, such as an escape of the terminal, is shown by its code, and
nothing is read as markup.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

_TERMINAL_STYLES = {"plain": "", "other": "cyan", "given": "dim", "fact": "bold black on yellow"}


class Span(NamedTuple):
    """A part of a text and its style: `plain`, `other` to set it off its neighbour, `given` or `fact`."""

    text: str
    style: str = "plain"


Column = Mapping[str, Sequence[Span]]  # a cell for each label; all columns of a table have the same labels


def highlight(text: str, tokens: Sequence[str], style: str = "plain") -> list[Span]:
    """A text with the names of fact tokens in it set off."""
    parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text) if tokens else [text]
    return [Span(part, "fact" if i % 2 else style) for i, part in enumerate(parts) if part]


def visible(text: str) -> str:
    """The text with what does not print shown by its code, newlines apart."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def print_columns(columns: Mapping[str, Column], console: "Console") -> None:
    """Print a table with a column each, by name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for name in ("", *columns):
        table.add_column(Text(visible(name)), overflow="fold")
    for label in _labels(columns):
        cells = [
            Text.assemble(*((visible(text), _TERMINAL_STYLES[style]) for text, style in column[label]))
            for column in columns.values()
        ]
        table.add_row(Text(label), *cells)
    console.print(table)


def html_page(title: str, columns: Mapping[str, Column]) -> str:
    """The same table as a page of its own that runs nothing and needs no network."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("tokentrial", "inspection")
    environment = Environment(loader=loader, autoescape=True, keep_trailing_newline=True)
    environment.filters["visible"] = visible
    return environment.get_template("page.html").render(title=title, columns=columns, labels=_labels(columns))


def _labels(columns: Mapping[str, Column]) -> list[str]:
    return list(dict.fromkeys(label for column in columns.values() for label in column))
