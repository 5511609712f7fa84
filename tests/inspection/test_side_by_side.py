"""Texts side by side: fact tokens stand out, and nothing that a text holds is obeyed, by a terminal or a browser."""

import io
import re

from rich.console import Console

from tokentrial.inspection.side_by_side import Span, highlight, html_page, print_columns, visible

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]<script>alert(1)</script>\u202e\x9b31m\r{0}&amp;\ud800"
COLUMNS = {HOSTILE: {"text": [Span(HOSTILE), Span("<A>", "fact")]}, "Y": {"text": [Span("a")]}}


def test_names_of_fact_tokens_are_set_off():
    assert highlight("so <A><B>.", ("<A>", "<B>"), "given") == [
        Span("so ", "given"),
        Span("<A>", "fact"),
        Span("<B>", "fact"),
        Span(".", "given"),
    ]
    assert highlight("so <A>", ()) == [Span("so <A>", "plain")]
    assert highlight("a.c abc", ("a.c",)) == [Span("a.c", "fact"), Span(" abc", "plain")]


def test_what_does_not_print_is_shown_by_its_code():
    assert visible("é 😀\n<>") == "é 😀\n<>"
    assert visible("\x1b\x07\t\r\x9b\u202e\ud800\xa0") == r"\x1b\x07\t\r\x9b\u202e\ud800\xa0"


def test_the_terminal_gets_colours_and_no_orders():
    out = io.StringIO()
    print_columns(COLUMNS, Console(file=out, width=400, force_terminal=True, color_system="standard"))
    printed = out.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", printed).replace("\n", "").isprintable()
    assert "\x1b[1;30;43m<A>" in printed  # bold black on yellow
    assert "[red]<script>" in printed
    assert "\x1b[2J" not in printed


def test_a_page_runs_nothing():
    page = html_page(HOSTILE, COLUMNS)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert '<span class="fact">&lt;A&gt;</span>' in page
    assert page.replace("\n", "").isprintable()
    assert page.encode()
