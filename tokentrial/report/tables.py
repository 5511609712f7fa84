"""The report as tables: for the terminal and as `report.md`; and the figures in words that every table shares."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any, NamedTuple

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokentrial.report.outcomes import GROUPS

Report = Mapping[str, Any]

_MEANING = {
    None: "no verdict",
    "helps": "the treatment is better than chance over seeds allows",
    "hurts": "the treatment is worse than chance over seeds allows",
    "no difference shown": "the data allow a difference of either sign; it is not shown that there is none",
    "baseline has not learnt": "the control is too close to the floor for a comparison to say anything",
}
_LADDER = "Every outcome after each stage, mean ± standard deviation over seeds."
_ALL = (
    "Contrasts without a verdict are exploratory. `±` is the standard deviation over seeds. Training losses of\n"
    "different arms are not comparable: their tokens stand for different text."
)
TIMES = (
    "Wall-clock seconds of the workers, which are side by side. Of a stage that was stopped and went on, those of the\n"
    "last attempt."
)
_SWEPT = "Means over seeds with 95 % t intervals. Exploratory: the verdict is of the trial's own settings."
_OF_CONTRAST = 4  # columns of a contrast, the last ones; those before are of its outcome
_EQUIVALENT = "a difference as large as the smallest effect that matters is ruled out"  # its verdict names the margin


class Line(NamedTuple):
    """A declared contrast, or the primary one again with other settings: beside it, without a verdict."""

    role: str  # primary, secondary, or `again with budget.match=bytes`
    name: str  # of the outcome
    contrast: str
    outcome: Mapping[str, Any]  # empty where it is not measured
    made: Any  # the figures of the contrast, None where nothing is compared yet

    @property
    def again(self) -> bool:
        return self.role not in ("primary", "secondary")

    @property
    def arms(self) -> list[str]:
        """Treatment and control."""
        return self.contrast.split(" - ")

    @property
    def differences(self) -> list[float]:
        """Treatment minus control by seed, over the seeds that have both."""
        pairs = zip(*(self.outcome["per_seed"][arm] for arm in self.arms), strict=True)
        return [a - b for a, b in pairs if a is not None and b is not None]


def declared(report: Report) -> list[Line]:
    """The primary contrast, its reruns that are there, and the secondary ones."""
    first, *others = [
        Line("secondary" if number else "primary", name, contrast, outcome, outcome.get("contrasts", {}).get(contrast))
        for number, pair in enumerate((report["declared"]["primary"], *report["declared"]["secondary"]))
        for name, contrast in ((pair["outcome"], pair["contrast"]),)
        for outcome in (report["outcomes"].get(name, {}),)
    ]
    reruns = [
        first._replace(role=f"again with {one_line(each['name'])}", outcome=outcome, made=made)
        for each in report["also"]
        if (outcome := each["outcome"]) and (made := outcome["contrasts"].get(first.contrast))
    ]
    return [first, *reruns, *others]


def sentence(report: Report) -> str:
    """The verdict in one sentence."""
    primary = report["primary"]
    made = report["outcomes"].get(primary["outcome"], {}).get("contrasts", {}).get(primary["contrast"])
    if made is None:
        return one_line(f"{primary['contrast']} on {primary['outcome']}: nothing to compare yet.")
    verdict = primary["verdict"] or "no verdict"
    return one_line(
        f"{primary['contrast']} on {primary['outcome']}: {verdict} "
        f"(difference {made['difference']:+.3f}, 95 % interval {interval(made['ci95'])}, "
        f"p {number(made['p'])}, {made['n_seeds']} seeds)."
    )


def print_report(report: Report, console: Console) -> None:
    """The table at the end of a run: declared outcomes, then the verdict. Where it is too wide for the console, the
    means and the contrasts are a table each."""
    title, header, rows = f"{report['trial']}: {len(report['seeds'])} seeds", _header(report), _rows(report, True)
    whole = grid(header, rows, title)
    if console.measure(whole, options=console.options.update(max_width=1000)).maximum <= console.width:
        console.print(whole)
    else:
        console.print(grid(header[:-_OF_CONTRAST], [row[:-_OF_CONTRAST] for row in rows if row[0]], title))
        outcome, found = "", []
        for row in rows:
            outcome = row[0] if row[0] in report["outcomes"] else outcome  # a rerun's row has its role there
            found.append([row[0] or outcome, *row[-_OF_CONTRAST:]])
        console.print(grid([header[0], *header[-_OF_CONTRAST:]], found))
    for line in _notes(report):
        console.print(line, highlight=False, markup=False)
    console.print(f"Verdict: {sentence(report)}", style="bold", highlight=False, markup=False)


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table for the terminal."""
    table = Table(box=rich.box.SIMPLE_HEAD, title=title)
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # Text: brackets are no markup
    return table


def markdown(report: Report) -> str:
    """`report.md`."""
    arms, outcomes, consumed = report["arms"], report["outcomes"], report["consumed"]
    floors = [[name, policy, number(value)] for name, of in outcomes.items() for policy, value in of["floors"].items()]
    spent = [
        [key.replace("_", " "), *(_amount(consumed.get(arm, {}).get(key)) for arm in arms)]
        for key in next(iter(consumed.values()), {})
    ]
    steps = [
        [arm, *(", ".join(str(of["steps_to_60"][key] or "never") for of in curves.values()) for key in GROUPS)]
        for arm, curves in report["curves"].items()
    ]
    ladder = ["outcome", "arm", *report["stages"]]
    budget = f"Mean over seeds. The same {report['settings']['budget']['match']} in every arm."
    sections = [
        _section("Declared before the run", "", _header(report), _rows(report, declared_only=True)),
        _section("All outcomes", _ALL, _header(report), _rows(report, declared_only=False)),
        _section("What was swept", _SWEPT, *sweep_table(report)) if report["sweep"]["points"] else [],
        _section("The ladder", _LADDER, ladder, _ladder(report)),
        _section("Floors", "Accuracy of policies that know no arithmetic.", ["outcome", "policy", "accuracy"], floors),
        _section("What each arm consumed", budget, ["", *arms], spent),
        _section("Steps to 60 %", "", ["arm", "asked, by seed", "never asked, by seed"], steps),
        _section("Where the time went", TIMES, *times(report["seconds"])) if report["seconds"] else [],
    ]
    lines = [
        f"# {report['trial']}",
        "",
        f"**{sentence(report)}**",
        "",
        f"{_MEANING.get(report['primary']['verdict'], _EQUIVALENT).capitalize()}.",
        *(f"{line}  " for line in _notes(report)),
        "",
        *(line for section in sections for line in section),
        "## Made by",
        "",
        *(f"- {key}: {value}" for key, value in report["provenance"].items()),
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, said: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
    return [f"## {title}", "", *([said, ""] if said else []), *table, ""]


def sweep_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row an outcome and point; nothing without a sweep."""
    keys, points = report["sweep"]["keys"], report["sweep"]["points"]
    names = dict.fromkeys(name for point in points for name in point["outcomes"])
    rows = [
        [
            one_line(name),
            *(one_line(str(point["settings"][key])) for key in keys),
            *(estimate(made["arms"].get(arm), "") for arm in report["arms"]),
            "; ".join(f"{one_line(pair)}: {estimate(each, '+')}" for pair, each in made["contrasts"].items()),
        ]
        for name in names
        for point in points
        for made in (point["outcomes"].get(name, {"arms": {}, "contrasts": {}}),)
    ]
    return ["outcome", *keys, *report["arms"], "difference [95 %]"], rows


def times(seconds: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row a stage, of the seconds that each cell took."""
    rows = [
        [
            stage.replace("_", " "),
            "-" if stage == "corpus" else str(len(took)),
            "-" if stage == "corpus" else f"{median(took.values()):,.1f}",
            f"{sum(took.values()):,.1f}",
        ]
        for stage, took in seconds.items()
    ]
    return ["stage", "cells", "seconds a cell, median", "seconds in total"], rows


def estimate(made: Mapping[str, Any] | None, sign: str) -> str:
    """A mean with its interval."""
    return "-" if made is None else f"{made['mean']:{sign}.3f} {interval(made['ci95'])}"


def _header(report: Report) -> list[str]:
    return ["outcome", *report["arms"], "floor", "contrast", "difference [95 %]", "p", "verdict"]


def _rows(report: Report, declared_only: bool) -> list[list[str]]:
    """A row a contrast, what is of its outcome in the first one only; below the primary its reruns."""
    first, *others = declared(report)
    wanted = {(line.name, line.contrast) for line in (first, *others)}
    rows = []
    for name, outcome in report["outcomes"].items():
        pairs = [pair for pair in outcome["contrasts"] if not declared_only or (name, pair) in wanted]
        for number, pair in enumerate(pairs):
            row = _row(report, name, pair, outcome, outcome["contrasts"][pair])
            rows.append([""] * (len(row) - _OF_CONTRAST) + row[-_OF_CONTRAST:] if number else row)
            if (name, pair) == (first.name, first.contrast):
                again = [line for line in others if line.again]
                made = [_row(report, line.role, pair, line.outcome, line.made) for line in again]
                rows += [[*row[:-1], "a check, no verdict"] for row in made]
    return rows


def _row(report: Report, name: str, contrast: str, outcome: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    holm = "" if made["p_holm"] is None else f" (Holm {number(made['p_holm'])})"
    return [
        name,
        *(spread(outcome["per_seed"].get(arm, [])) for arm in report["arms"]),
        number(outcome["floor"]),
        contrast,
        f"{made['difference']:+.3f} {interval(made['ci95'])}",
        number(made["p"]) + holm,
        made["verdict"] or "",
    ]


def _ladder(report: Report) -> list[list[str]]:
    names = dict.fromkeys(name.partition("/")[2] for name in report["outcomes"])
    stages = {name: [report["outcomes"].get(f"{stage}/{name}") for stage in report["stages"]] for name in names}
    return [
        [name, arm, *(spread(outcome["per_seed"][arm] if outcome else []) for outcome in stages[name])]
        for name in names
        for arm in report["arms"]
    ]


def over_budgets(report: Report) -> list[str]:
    """What the primary contrast comes to under both budgets, where it was run again under the other one."""
    of = report["also"]
    return [f"With {one_line(each['name'])} as well: {each['over_budgets']}." for each in of if each["over_budgets"]]


def _notes(report: Report) -> list[str]:
    notes = [*report["extended"], *over_budgets(report)]
    if report["primary"]["note"]:
        notes.append(f"Primary: {report['primary']['note']}.")
    gate = report["gate"]
    if gate:
        never = "" if gate["never_asked"] is None else f", never asked {gate['never_asked']:.2f}"
        notes.append(
            f"Gate: {report['declared']['control']} asked {gate['asked']:.2f}{never}: {gate['failed'] or 'passed'}."
        )
    grpo = report["grpo"]
    if grpo and not grpo["go_on"]:
        notes.append("GRPO skipped: pass@k is zero in every cell, there is nothing to learn from.")
    if grpo and grpo["mul_bonus"]:
        notes.append(f"GRPO paid a bonus of {grpo['mul_bonus']:g} for fact tokens, which only some arms can earn.")
    if report["missing"]:
        notes.append(f"Missing: {', '.join(report['missing'])}.")
    return [one_line(note) for note in notes]


def one_line(text: str) -> str:
    """A trial's own words, such as the name of an outcome, in one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over the seeds that are there."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return f"{mean(there):.3f}" + (f" ± {stdev(there):.3f}" if len(there) > 1 else "")


def interval(ends: Sequence[float] | None) -> str:
    return "n/a" if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


def number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
