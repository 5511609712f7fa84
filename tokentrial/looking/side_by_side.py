"""Texts side by side with their fact tokens in colour, in a terminal and as an HTML page.

Texts come from models and files: what does not print, such as an escape of the terminal, is shown by its code, and
nothing is read as markup.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"plain": "", "other": "cyan", "given": "dim", "fact": "bold black on yellow"}


class Span(NamedTuple):
    """A part of a text and how it looks: `plain`, `other` to set it off its neighbour, `given` or `fact`."""

    text: str
    look: str = "plain"


Column = Mapping[str, Sequence[Span]]  # what stands beside each label; the columns of a page have the same labels


def spans(text: str, tokens: Sequence[str], look: str = "plain") -> list[Span]:
    """A text with the names of fact tokens in it set off."""
    parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text) if tokens else [text]
    return [Span(part, "fact" if i % 2 else look) for i, part in enumerate(parts) if part]


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
            Text.assemble(*((visible(text), _STYLES[look]) for text, look in of[label])) for of in columns.values()
        ]
        table.add_row(Text(label), *cells)
    console.print(table)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title | visible }}</title>
<style>
:root { color-scheme: light dark; }
body { margin: 2rem; font: 1rem/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .5rem 1rem .5rem 0; border-bottom: 1px solid GrayText; }
td { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.other { background: light-dark(#dcebf7, #1d3a52); }
.given { color: light-dark(#59616b, #a3abb5); }
.fact { background: light-dark(#ffd75e, #7a5c00); font-weight: 600; border-radius: .2rem; }
</style>
</head>
<body>
<h1>{{ title | visible }}</h1>
<table>
<thead><tr><th></th>{% for name in columns %}<th scope="col">{{ name | visible }}</th>{% endfor %}</tr></thead>
<tbody>
{% for label in labels -%}
<tr><th scope="row">{{ label }}</th>
  {%- for of in columns.values() %}<td>
    {%- for text, look in of[label] %}<span class="{{ look }}">{{ text | visible }}</span>{% endfor -%}
  </td>{% endfor %}</tr>
{% endfor -%}
</tbody>
</table>
</body>
</html>
"""


def html_page(title: str, columns: Mapping[str, Column]) -> str:
    """The same table as a page of its own that runs nothing and needs no network."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, keep_trailing_newline=True)
    environment.filters["visible"] = visible
    return environment.from_string(_PAGE).render(title=title, columns=columns, labels=_labels(columns))


def _labels(columns: Mapping[str, Column]) -> list[str]:
    return list(dict.fromkeys(label for of in columns.values() for label in of))
