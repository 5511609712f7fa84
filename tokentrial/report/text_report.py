"""The report as tables: for the terminal and as `report.md`."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from tokentrial.report.contrast_table import HEADS, Report, arm_mean_sd, declared_rows, row
from tokentrial.report.formats import format_amount, format_estimate, format_interval, format_number, one_line
from tokentrial.report.narrative import headline, remarks, verdict_sentence
from tokentrial.report.outcomes import GROUPS

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows
_STAGES_NOTE = "Every outcome after each stage, mean ± standard deviation over seeds."
_ALL_NOTE = (
    "Only declared contrasts get a verdict. `±` is the standard deviation over seeds. Training losses of\n"
    "different arms are not comparable: their tokens stand for different text."
)
TIME_NOTE = (
    "Wall-clock seconds of the workers, which are side by side. Of a stage that was stopped and went on, those of the\n"
    "last attempt."
)
FLOOR_NOTE = "Floor: the best accuracy of a few strategies that know no facts, such as always giving the same answer."
LADDER_NOTE = (
    "Sizes by compute. Parameters, tokens and FLOPs are those of one cell of the control. The fewer tokens a byte of\n"
    "the original text takes, the more text an arm reads with the same tokens."
)
_BOUND_NOTE = (
    "`floor` or `ceiling`: both arms lie there, so the scale leaves no room for a difference, and one that vanishes\n"
    "there is no sign that the effect does."
)
TREND_NOTE = (
    "Each declared difference at each size, and its slope by seed over log10 of the FLOPs, tested by Student's t,\n"
    "with 95 % intervals. The treatment `gains` on its control where the slope is in the outcome's good direction,\n"
    f"whatever the sign of the difference. The primary trend is tested at alpha, the others by Holm.\n{_BOUND_NOTE}"
)
MULTIPLIER_NOTE = (
    "FLOPs that the control needs for the arm's outcome, over the arm's own: 2 means that half suffices.\n"
    "Geometric mean over seeds with a 95 % interval, interpolated seed by seed between neighbouring sizes on log\n"
    "scales, never beyond them. For steps to 60 %: the control's steps over the arm's at the same size, points of\n"
    f"the learning curve, so the ratio is coarse.\n{_BOUND_NOTE}"
)
TUNING_NOTE = (
    "What each arm came to at each point of the grid: means over the tuning seeds, on which no verdict rests, with\n"
    "95 % t intervals."
)
_SWEEP_NOTE = "Means over seeds with 95 % t intervals. Exploratory: the verdict is on the trial's own settings."


def print_report(report: Report, console: Console) -> None:
    """What is declared at the end of a run, a contrast a few lines, then the verdict."""
    for r in declared_rows(report):
        holm, note = f", Holm p {r.p_holm}" if r.p_holm else "", f"\n    {r.note}" if r.note else ""
        lines = (
            f"\n{r.role}: {r.contrast}, {r.outcome}\n    {r.verdict}: {r.difference} {r.interval}, p {r.p}{holm}"
            f"\n    treatment {r.treatment}, control {r.control}{note}"
        )
        console.print(lines, highlight=False, markup=False)
    console.print()
    for remark in remarks(report):
        console.print(remark, highlight=False, markup=False)
    console.print(f"Verdict: {verdict_sentence(report)}", style="bold", highlight=False, markup=False)


def terminal_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> rich.table.Table:
    """A table for the terminal."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title)
    for column in header:
        table.add_column(column, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(one_line(cell)) for cell in cells))  # Text: brackets are no markup
    return table


def markdown(report: Report) -> str:
    """`report.md`."""
    budget = f"Mean over seeds. The same {report['settings']['budget']['match']} in every arm."
    sections = [
        _section("Declared before the run", "", (HEADS, declared_rows(report))),
        _section("All contrasts", _ALL_NOTE, (HEADS, [row(record) for record in report["contrasts"]])),
        _section("Tuning", TUNING_NOTE, tuning_table(report)) if (report["tuning"] or {}).get("chosen") else [],
        _section("What was swept", _SWEEP_NOTE, sweep_table(report)) if report["sweep"]["points"] else [],
        *(_ladder_sections(report) if report["ladder"] else []),
        _section("Stage by stage", _STAGES_NOTE, stages(report)),
        _section("Floors", FLOOR_NOTE, floors(report)),
        _section("What each arm consumed", budget, consumption(report)),
        _section("Steps to 60 %", "", steps_to_60(report)),
        _section("Where the time went", TIME_NOTE, stage_times(report["seconds"])) if report["seconds"] else [],
    ]
    lines = [
        f"# {report['trial']}",
        "",
        f"**{verdict_sentence(report)}**",
        "",
        headline(report),
        "",
        *(f"{remark}  " for remark in remarks(report)),
        "",
        *(line for section in sections for line in section),
        "## Made by",
        "",
        *(f"- {key}: {'not recorded' if value is None else value}" for key, value in report["provenance"].items()),
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, note: str, table: Table) -> list[str]:
    header, rows = table
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |" for cells in rows),
    ]
    return [f"## {title}", "", *([note, ""] if note else []), *lines, ""]


def floors(report: Report) -> Table:
    """Rows are the outcomes that have floors."""
    rows = [
        [name, "; ".join(f"{policy.replace('_', ' ')} {format_number(v)}" for policy, v in outcome["floors"].items())]
        for name, outcome in report["outcomes"].items()
        if outcome["floors"]
    ]
    return ["outcome", "accuracy of each strategy"], rows


def consumption(report: Report) -> Table:
    """Rows are quantities, columns are arms; means over seeds."""
    consumed, arms = report["consumed"], report["arms"]
    keys = dict.fromkeys(key for means in consumed.values() for key in means)
    rows = [[key.replace("_", " "), *(format_amount(consumed.get(arm, {}).get(key)) for arm in arms)] for key in keys]
    return ["mean over seeds", *arms], rows


def steps_to_60(report: Report) -> Table:
    """A row an arm; by seed, after how many steps its accuracy was 60 %."""
    rows = [
        [arm, *(", ".join(str(c["steps_to_60"][group] or "never") for c in curves.values()) for group in GROUPS)]
        for arm, curves in report["curves"].items()
    ]
    return ["steps to 60 %", "asked facts, by seed", "never-asked facts, by seed"], rows


def sweep_table(report: Report) -> Table:
    """A row an outcome and point; nothing without a sweep."""
    keys, points = report["sweep"]["keys"], report["sweep"]["points"]
    rows = []
    for name in dict.fromkeys(name for point in points for name in point["outcomes"]):
        for point in points:
            outcome = point["outcomes"].get(name, {"arms": {}, "contrasts": {}})
            contrasts = [f"{one_line(pair)}: {format_estimate(e, '+')}" for pair, e in outcome["contrasts"].items()]
            means = [format_estimate(outcome["arms"].get(arm), "") for arm in report["arms"]]
            values = [one_line(str(point["settings"][key])) for key in keys]
            rows.append([one_line(name), *values, *means, "; ".join(contrasts)])
    return ["outcome", *keys, *report["arms"], "difference [95 %]"], rows


def tuning_table(report: Report) -> Table:
    """Rows are points of the grid, once the tuning has finished."""
    tuned, rows = report["tuning"], []
    for point in tuned["points"]:
        is_best = {arm: tuned["chosen"][arm] == point["settings"] for arm in tuned["chosen"]}
        means = {arm: format_estimate(estimate, "") for arm, estimate in point["arms"].items()}
        cells = [means.get(arm, "-") + (", its best" if is_best.get(arm) else "") for arm in report["arms"]]
        rows.append([*(f"{value:g}" for value in point["settings"].values()), *cells])
    return [*tuned["grid"], *report["arms"]], rows


def _ladder_sections(report: Report) -> list[list[str]]:
    return [
        _section("The ladder", LADDER_NOTE, sizes(report)),
        _section("Trends over compute", TREND_NOTE, size_trends(report)),
        _section("Worth in compute", MULTIPLIER_NOTE, compute_multipliers(report)),
    ]


def sizes(report: Report) -> Table:
    """A row a size; figures of the control's cells."""
    rows = [[name, *["not complete yet"] * 6] for name in report["ladder"]["missing"]]
    for size in report["ladder"]["sizes"]:
        amounts = [format_amount(size[key]) for key in ("parameters", "tokens", "flops")]
        read = ", ".join(f"{arm} {tokens:.3f}" for arm, tokens in size["tokens_per_byte"].items())
        rows.append([size["name"], *amounts, f"{size['lr']:.2g}", str(len(size["seeds"])), read])
    return ["size", "parameters", "tokens", "FLOPs per cell", "lr", "seeds", "tokens per byte of text"], rows


def size_trends(report: Report) -> Table:
    """A row a declared contrast: its difference at each size, and its slope."""
    names = [size["name"] for size in report["ladder"]["sizes"]]
    rows = []
    for t in report["ladder"]["trends"]:
        slope = "-" if t["slope"] is None else f"{t['slope']:+.3f} {format_interval(t['ci95'])}"
        sizes = [
            format_estimate(point if point["mean"] is not None else None, "+") + _bound(point) for point in t["by_size"]
        ]
        p = format_number(t["p_adjusted"])
        rows.append([t["contrast"], t["outcome"], t["verdict"] or "no verdict", slope, p, str(len(t["seeds"])), *sizes])
    return ["contrast", "outcome", "the treatment", "slope per tenfold compute", "p", "seeds", *names], rows


def compute_multipliers(report: Report) -> Table:
    """A row an outcome and contrast, a column a size."""
    names, multipliers = [size["name"] for size in report["ladder"]["sizes"]], report["ladder"]["multipliers"]
    rows = []
    for outcome, contrast in dict.fromkeys((record["outcome"], record["contrast"]) for record in multipliers):
        cells = {e["size"]: e for e in multipliers if (e["outcome"], e["contrast"]) == (outcome, contrast)}
        rows.append([outcome, contrast, *(_multiplier(cells.get(name)) for name in names)])
    return ["outcome", "contrast", *names], rows


def _multiplier(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "-"
    if record["mean"] is None:
        known = [value for value in record["by_seed"] if value is not None]
        none = "not reached" if "steps_to_60" in record["outcome"] else "no single crossing within what was run"
        return f"{none} ({len(known)} of {len(record['by_seed'])} seeds have one){_bound(record)}"
    ends = f" [{record['ci95'][0]:.2f}, {record['ci95'][1]:.2f}]" if record["ci95"] else ""
    return f"{record['mean']:.2f}{ends}, n {len(record['by_seed'])}{_bound(record)}"


def _bound(record: Mapping[str, Any]) -> str:
    return f", {record['bound']}" if record["bound"] else ""


def stage_times(seconds: Mapping[str, Mapping[str, float]]) -> Table:
    """A row a stage, of the seconds that each cell took."""
    rows = []
    for stage, by_cell in seconds.items():
        per_cell = [str(len(by_cell)), f"{median(by_cell.values()):,.1f}"] if stage != "corpus" else ["-", "-"]
        rows.append([stage.replace("_", " "), *per_cell, f"{sum(by_cell.values()):,.1f}"])
    return ["stage", "cells", "seconds per cell, median", "seconds in total"], rows


def stages(report: Report) -> Table:
    """A row an outcome and arm, a column a stage."""
    rows = [
        [name, arm, *(arm_mean_sd(report, f"{stage}/{name}", arm) for stage in report["stages"])]
        for name in dict.fromkeys(name.partition("/")[2] for name in report["outcomes"])
        for arm in report["arms"]
    ]
    return ["outcome", "arm", *report["stages"]], rows


class QuestionLine(NamedTuple):
    """A question of the table, over the seeds that asked it in training or those that never did."""

    question: str
    group: str
    shares: list[str]  # of these seeds, those right, an arm each
    differs: bool  # whether two arms are half of the seeds or more apart


def questions(report: Report, stage: str) -> list[QuestionLine]:
    """The table question by question, where arms lie furthest apart first."""
    lines = []
    for question, place in report["facts"]["questions"].items():
        for group in GROUPS:
            shares = [_share_right(report, stage, arm, group, place) for arm in report["arms"]]
            if measured := [share for share in shares if share is not None]:
                apart = max(measured) - min(measured)
                words = ["-" if share is None else f"{share:.2f}" for share in shares]
                lines.append((apart, QuestionLine(question, group, words, apart >= 0.5)))
    return [line for _, line in sorted(lines, key=lambda item: -item[0])]


def _share_right(report: Report, stage: str, arm: str, group: str, place: Sequence[int]) -> float | None:
    """Of the seeds of a group those that answer right; None where there are none, or the arm was not evaluated."""
    share = report["tables"][stage].get(arm, {}).get("accuracy", {}).get(group)
    return None if share is None else share[place[0]][place[1]]
