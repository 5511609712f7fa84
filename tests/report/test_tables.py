"""The report for people: whatever the results hold, every row of every table keeps its columns."""

import io
import re
from statistics import mean, stdev

from rich.console import Console

from tests.report.conftest import KNOWS
from tokentrial.report.tables import (
    format_interval,
    format_mean_sd,
    format_number,
    markdown,
    print_report,
    verdict_sentence,
)

NEVER = "pretrain/mul_table/never_asked/accuracy"
TOKENS = "mul_tokens - baseline"
HOSTILE = "| a | b |\n|---|\n# <script>alert(1)</script> [bold]x[/bold] [/] ```\r\n\x1b[31m"
HEADINGS = [
    "# smoke",
    *("## Declared before the run", "## All outcomes", "## The ladder", "## Floors", "## What each arm consumed"),
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


def test_the_verdict_comes_first_in_one_sentence_and_is_explained(report):
    stated = verdict_sentence(report)
    difference = report["outcomes"][NEVER]["contrasts"][TOKENS]["difference"]
    assert stated.startswith(f"{TOKENS} on {NEVER}: hurts (difference {difference:+.3f}, 95 % interval [")
    assert stated.endswith("6 seeds).")
    assert markdown(report).splitlines()[2] == f"**{stated}**"
    assert stated in " ".join(printed(report).split())
    for verdict in ("helps", "hurts", "no difference shown", "equivalent within 0.1", None):
        report["primary"]["verdict"] = verdict
        assert re.fullmatch(r"[A-Z].{9,}\.", markdown(report).splitlines()[4])


def test_in_a_narrow_terminal_means_and_contrasts_are_a_table_each(report):
    wide, narrow = (printed(report, width).splitlines() for width in (200, 120))
    [heads] = [line.split() for line in wide if "verdict" in line and "floor" in line]
    split = [line.split() for line in narrow if "outcome " in line]
    assert [head[0] for head in split] == ["outcome", "outcome"]
    assert split[0] + split[1][1:] == heads
    assert any(f"{TOKENS} " in line and "hurts" in line for line in narrow)


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
    rows = {row[0].strip(): row for row in every if row[0].strip()}
    values = [count / 12 for count in KNOWS["mul_tokens"]]
    assert rows[NEVER][2].strip() == f"{mean(values):.3f} ± {stdev(values):.3f}"
    assert rows["pretrain/mul_table/all/accuracy"][4].strip() == f"{17 / 81:.3g}"
    assert "never" in text.split("## Steps to 60 %")[1]


def test_the_budget_rule_is_the_run_s(report):
    """It once said `the same tokens in every arm` of a run whose arms had read the same bytes."""
    report["settings"]["budget"]["match"] = "bytes"
    assert "The same bytes in every arm." in markdown(report).split("## What each arm consumed")[1]


def test_a_failed_gate_missing_cells_and_a_report_of_nothing_are_shown(report):
    report["missing"] = ["mul_append/seed2 pretrain"]
    report["gate"]["failed"] = "accuracy on asked facts is 0.000, below 0.6"
    nothing = report | {"outcomes": {}, "consumed": {}, "curves": {}, "gate": None}
    for form in (markdown, printed):
        text = " ".join(form(report).split())
        assert "Missing: mul_append/seed2 pretrain." in text
        assert "below 0.6" in text
        assert "nothing to compare yet" in form(nothing)


def test_hostile_completions_and_names_break_no_table(report):
    """An outcome's name comes from the trial file: its bars, newlines and brackets stay in its cell."""
    assert "<script>" not in markdown(report)  # its completions are hostile
    name = f"pretrain/{HOSTILE.replace('/', '')}/x/accuracy"
    report["outcomes"] = {name if key == NEVER else key: value for key, value in report["outcomes"].items()}
    report["primary"]["outcome"] = name
    report["declared"]["primary"] = {"outcome": name, "contrast": TOKENS}
    report["extended"] = [f"extended after a look: exploratory ({name} added)"]
    text = markdown(report)
    assert len(tables(text)) == 6
    assert all(len({len(row) for row in table}) == 1 for table in tables(text))
    assert re.findall("^#+ .*", text, re.MULTILINE) == HEADINGS
    assert "[bold]x[bold]" in printed(report)  # shown as it is, not taken for markup


def test_figures_are_short_and_undefined_ones_say_so():
    assert format_interval([-0.51, 0.0249]) == "[-0.510, +0.025]"
    assert (format_number(0.031254), format_number(None), format_interval(None)) == ("0.0313", "n/a", "n/a")
    spreads = [format_mean_sd(values) for values in ([0.5, None, 0.7], [0.5], [None, None])]
    assert spreads == ["0.600 ± 0.141", "0.500", "-"]
