"""The report for people: whatever the results hold, every row of every table keeps its columns."""

import io
import re
from html import unescape
from statistics import mean, stdev

from rich.console import Console

from tests.report.conftest import KNOWS
from tokentrial.report.contrast_table import HEADS, declared_rows
from tokentrial.report.formats import format_interval, format_level, format_mean_sd, format_number
from tokentrial.report.latex import latex_table
from tokentrial.report.narrative import headline, verdict_sentence
from tokentrial.report.page import page
from tokentrial.report.text_report import markdown, print_report

NEVER = "pretrain/mul_table/never_asked/accuracy"
TOKENS = "mul_tokens - baseline"
HOSTILE = "| a | b |\n|---|\n# <script>alert(1)</script> [bold]x[/bold] [/] ```\r\n\x1b[31m"
HEADINGS = [
    "# smoke",
    *("## Declared before the run", "## All contrasts", "## Stage by stage", "## Floors", "## What each arm consumed"),
    *("## Steps to 60 %", "## Made by"),
]


def tables(text):
    """Blocks of lines that begin with a bar, each a list of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def printed(report, width=200):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_comes_first_in_one_sentence_and_in_words(report):
    stated, difference = verdict_sentence(report), report["contrasts"][0]["difference"]
    assert stated.startswith(f"{TOKENS} on {NEVER}: hurts (difference {difference:+.3f}, 95 % interval [")
    assert "6 seeds" in stated
    lines = markdown(report).splitlines()
    assert (lines[2], lines[4]) == (f"**{stated}**", headline(report))
    assert stated in " ".join(printed(report).split())


def test_every_form_shows_the_same_row_of_a_contrast(report):
    """With the verdict, means of the seeds of the difference, the interval's level, and that it is unadjusted where
    it stands beside Holm's p."""
    report["contrasts"][1] |= {"verdict": "no difference shown", "p": 0.04, "p_adjusted": 0.119, "alpha": 0.01}
    rows = declared_rows(report)
    assert rows[1].interval.endswith(" 99 %, unadjusted")
    assert "unadjusted" not in rows[0].interval
    tokens, control = ([count / 12 for count in KNOWS[arm]] for arm in ("mul_tokens", "baseline"))
    for values, shown in ((tokens, rows[0].treatment), (control, rows[0].control)):
        assert shown == f"{mean(values):.3f} ± {stdev(values):.3f}"
    of_markdown = tables(markdown(report))[0]
    assert [[cell.strip() for cell in row] for row in (of_markdown[0], *of_markdown[2:])] == [
        [*HEADS],
        *map(list, rows),
    ]
    shown = {
        "terminal": " ".join(printed(report).split()),
        "page": " ".join(unescape(re.sub(r"<[^>]+>", " ", page(report, {}))).split()),
        "LaTeX": latex_table(report).replace("$", "").replace("\\", "").replace("pm", "±"),
    }
    for text in shown.values():
        for row in rows:
            assert all(cell in text for cell in row)


def test_report_md_has_every_table_and_every_row_its_columns(published, report):
    text = (published / "report.md").read_text()
    assert text == markdown(report)
    assert re.findall("^#+ .*", text, re.MULTILINE) == HEADINGS
    found = tables(text)
    assert len(found) == 6
    assert all(len({len(row) for row in table}) == 1 for table in found)
    declared, every = found[0], found[1]
    assert len(declared) == 2 + 3  # header, rule, the primary and two secondary
    assert len(every) == 2 + 2 * len(report["outcomes"])  # two contrasts each
    floors = {row[0].strip(): row[1] for row in found[3]}
    assert f"echo larger operand {17 / 81:.3g}" in floors["pretrain/mul_table/all/accuracy"]
    assert "never" in text.split("## Steps to 60 %")[1]


def test_the_budget_rule_is_the_run_s(report):
    """It once said `the same tokens in every arm` of a run whose arms had read the same bytes."""
    report["settings"]["budget"]["match"] = "bytes"
    assert "The same bytes in every arm." in markdown(report).split("## What each arm consumed")[1]


def test_a_failed_gate_missing_cells_and_a_report_of_nothing_are_shown(report):
    report["missing"] = ["mul_append/seed2 pretrain"]
    report["gate"]["failed"] = "accuracy on asked facts is 0.000, below 0.6"
    unmeasured = dict.fromkeys(report["contrasts"][0]) | {"role": "primary", "outcome": NEVER, "note": "not measured"}
    unmeasured |= {"treatment": "mul_tokens", "control": "baseline", "seeds": [], "differences": []}
    nothing = report | {"outcomes": {}, "consumed": {}, "curves": {}, "gate": None, "contrasts": [unmeasured]}
    for form in (markdown, printed):
        text = " ".join(form(report).split())
        assert "Missing: mul_append/seed2 pretrain." in text
        assert "not passed" in text
        assert f"{TOKENS} on {NEVER}: no verdict (not measured)." in " ".join(form(nothing).split())


def test_hostile_completions_and_names_break_no_table(report):
    """An outcome's name comes from the trial file: its bars, newlines and brackets stay in its cell."""
    assert "<script>" not in markdown(report)  # its completions are hostile
    name = f"pretrain/{HOSTILE.replace('/', '')}/x/accuracy"
    report["outcomes"] = {name if key == NEVER else key: value for key, value in report["outcomes"].items()}
    report["contrasts"][0]["outcome"] = name
    report["declaration"]["departures"] = [f"verdict.secondary: {name} added"]
    text = markdown(report)
    assert len(tables(text)) == 6
    assert all(len({len(row) for row in table}) == 1 for table in tables(text))
    assert re.findall("^#+ .*", text, re.MULTILINE) == HEADINGS
    assert "[bold]x[bold]" in printed(report)  # shown as it is, not taken for markup


def test_figures_are_short_and_undefined_ones_say_so():
    assert format_interval([-0.51, 0.0249]) == "[-0.510, +0.025]"
    assert (format_number(0.031254), format_number(None), format_interval(None)) == ("0.0313", "n/a", "n/a")
    assert (format_level(0.05), format_level(0.00557)) == ("95 %", "99.44 %")
    spreads = [format_mean_sd(values) for values in ([0.5, None, 0.7], [0.5], [None, None])]
    assert spreads == ["0.600 ± 0.141", "0.500", "-"]
