"""The report for people: whatever the results hold, every row of every table keeps its columns."""

import io
import re

import pytest
from rich.console import Console

from tokentrial.report.tables import interval, markdown, number, print_report, sentence, spread

NEVER = "pretrain/mul_table/never_asked/accuracy"
TOKENS = "mul_tokens - baseline"


def tables(text):
    """Blocks of lines that begin with a bar, each a list of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def printed(report, width=200):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_comes_first_in_one_sentence(made_up, compared):
    report = compared(made_up())
    said = sentence(report)
    made = report["outcomes"][NEVER]["contrasts"][TOKENS]
    assert said.startswith(f"{TOKENS} on {NEVER}: hurts (difference {made['difference']:+.3f}, 95 % interval [")
    assert said.endswith("6 seeds).")
    assert markdown(report).splitlines()[2] == f"**{said}**"
    assert said in " ".join(printed(report).split())


def test_in_a_narrow_terminal_means_and_contrasts_are_a_table_each(made_up, compared):
    wide, narrow = (printed(compared(made_up()), width).splitlines() for width in (200, 120))
    [heads] = [line.split() for line in wide if "verdict" in line and "floor" in line]
    split = [line.split() for line in narrow if "outcome " in line]
    assert [head[0] for head in split] == ["outcome", "outcome"]
    assert split[0] + split[1][1:] == heads
    assert any(f"{TOKENS} " in line and "hurts" in line for line in narrow)


def test_report_md_is_written_with_every_table(made_up, compared):
    trial = made_up()
    report = compared(trial)
    text = (trial.folder / "report.md").read_text()
    assert text == markdown(report)
    for heading in (
        "Declared before the run",
        "All outcomes",
        "The ladder",
        "Floors",
        "What each arm consumed",
        "Steps to 60 %",
    ):
        assert f"## {heading}\n" in text
    found = tables(text)
    assert len(found) == 6
    for table in found:
        assert len({len(row) for row in table}) == 1
    declared, every = found[0], found[1]
    assert len(declared) == 2 + 3  # header, rule, the primary and two secondary
    assert len(every) == 2 + 2 * len(report["outcomes"])  # two contrasts each
    assert "never" in text.split("## Steps to 60 %")[1]


def test_the_budget_rule_is_the_run_s(made_up, compared):
    """It once said `the same tokens in every arm` of a run whose arms had read the same bytes."""
    report = compared(made_up("budget.match=bytes"))
    assert "The same bytes in every arm." in markdown(report).split("## What each arm consumed")[1]


def test_every_outcome_shows_its_values_and_its_floor(made_up, compared):
    report = compared(made_up())
    rows = {row[0].strip(): row for row in tables(markdown(report))[1] if row[0].strip()}
    values = [count / 12 for count in made_up.knows["mul_tokens"]]
    mean = sum(values) / 6
    deviation = (sum((value - mean) ** 2 for value in values) / 5) ** 0.5
    assert rows[NEVER][2].strip() == f"{mean:.3f} ± {deviation:.3f}"
    assert rows["pretrain/mul_table/all/accuracy"][4].strip() == f"{17 / 81:.3g}"


@pytest.mark.parametrize("verdict", ["helps", "hurts", "no difference shown", "equivalent within 0.1", None])
def test_every_verdict_is_explained(made_up, compared, verdict):
    report = compared(made_up())
    report["primary"]["verdict"] = verdict
    explanation = markdown(report).splitlines()[4]
    assert len(explanation) > 10
    assert explanation.endswith(".")


def test_a_gate_that_failed_and_cells_that_are_missing_are_told(made_up, compared):
    report = compared(made_up(leave_out=[("mul_append", 2)], learnt=False))
    for text in (markdown(report), printed(report)):
        assert "Missing: mul_append/seed2 pretrain." in text
        assert "below 0.6" in " ".join(text.split())


def test_a_report_of_nothing_renders(made_up, compared):
    report = compared(made_up(leave_out=[(arm, seed) for arm in made_up.knows for seed in range(1, 7)]))
    assert "nothing to compare yet" in markdown(report)
    assert "nothing to compare yet" in printed(report)


HOSTILE = "| a | b |\n|---|\n# <script>alert(1)</script> [bold]x[/bold] [/] ```\r\n\x1b[31m"


def test_a_hostile_completion_breaks_no_table(made_up, compared):
    harmless, hostile = compared(made_up()), compared(made_up(completion=HOSTILE))
    assert tables(markdown(hostile)) == tables(markdown(harmless))
    assert "<script>" not in markdown(hostile)


def test_hostile_names_break_no_table(made_up, compared):
    """An outcome's name comes from the trial file: its bars, newlines and brackets stay in its cell."""
    report = compared(made_up())
    name = f"pretrain/{HOSTILE.replace('/', '')}/x/accuracy"
    report["outcomes"] = {name if key == NEVER else key: value for key, value in report["outcomes"].items()}
    report["primary"]["outcome"] = name
    report["declared"]["primary"] = {"outcome": name, "contrast": TOKENS}
    report["extended"] = [f"extended after a look: exploratory ({name} added)"]
    text = markdown(report)
    assert len(tables(text)) == 6
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# smoke",
        "## Declared before the run",
        "## All outcomes",
        "## The ladder",
        "## Floors",
        "## What each arm consumed",
        "## Steps to 60 %",
        "## Made by",
    ]
    assert "[bold]x[bold]" in printed(report)  # shown as it is, not taken for markup


def test_figures_are_short_and_undefined_ones_say_so():
    assert interval([-0.51, 0.0249]) == "[-0.510, +0.025]"
    assert interval(None) == "n/a"
    assert number(0.031254) == "0.0313"
    assert number(None) == "n/a"
    assert spread([0.5, None, 0.7]) == "0.600 ± 0.141"
    assert spread([0.5]) == "0.500"
    assert spread([None, None]) == "-"
