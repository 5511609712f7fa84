"""Texts side by side: fact tokens stand out, and nothing that a text holds is obeyed, by a terminal or a browser."""

import io
import re

from rich.console import Console

from tokentrial.looking.side_by_side import Span, html_page, print_columns, spans, visible

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]<script>alert(1)</script>\u202e\x9b31m\r{0}&amp;\ud800"


def printed(columns, **settings):
    out = io.StringIO()
    print_columns(columns, Console(file=out, width=200, **settings))
    return out.getvalue()


def test_names_of_fact_tokens_are_set_off():
    assert spans("so <A><B>.", ("<A>", "<B>"), "given") == [
        Span("so ", "given"),
        Span("<A>", "fact"),
        Span("<B>", "fact"),
        Span(".", "given"),
    ]
    assert spans("so <A>", ()) == [Span("so <A>", "plain")]
    assert spans("a.c abc", ("a.c",)) == [Span("a.c", "fact"), Span(" abc", "plain")]


def test_what_does_not_print_is_shown_by_its_code():
    assert visible("é 😀\n<>") == "é 😀\n<>"
    assert visible(HOSTILE).isprintable()
    assert visible("\x1b\x07\t\r\x9b\u202e\ud800\xa0") == r"\x1b\x07\t\r\x9b\u202e\ud800\xa0"


def test_the_terminal_gets_colours_and_no_orders():
    out = printed(
        {HOSTILE: {"said": [Span(HOSTILE), Span("<A>", "fact")]}}, force_terminal=True, color_system="standard"
    )
    assert re.sub(r"\x1b\[[0-9;]*m", "", out).replace("\n", "").isprintable()
    assert "\x1b[1;30;43m<A>" in out  # bold black on yellow
    assert "[red]<script>" in out
    assert "\x1b[2J" not in out


def test_columns_stand_side_by_side():
    first, second = {"one": [Span("a")], "two": [Span("b")]}, {"one": [Span("c")], "two": [Span("d")]}
    lines = [line.split() for line in printed({"X": first, "Y": second}).splitlines() if line.strip()]
    assert lines[0] == ["X", "Y"]
    assert lines[2:] == [["one", "a", "c"], ["two", "b", "d"]]


def test_a_page_runs_nothing():
    page = html_page(HOSTILE, {HOSTILE: {"said": [Span(HOSTILE), Span("<A>", "fact")]}})
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert '<span class="fact">&lt;A&gt;</span>' in page
    assert page.replace("\n", "").isprintable()
    assert page.encode()
