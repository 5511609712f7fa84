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

_VERDICTS = {
    None: "no verdict",
    "helps": "the treatment is better than chance over seeds allows",
    "hurts": "the treatment is worse than chance over seeds allows",
    "no difference shown": "the data allow a difference of either sign; it is not shown that there is none",
    "baseline has not learnt": "the control is too close to the floor for a comparison to say anything",
}
_LADDER_NOTE = "Every outcome after each stage, mean ± standard deviation over seeds."
_ALL_NOTE = (
    "Contrasts without a verdict are exploratory. `±` is the standard deviation over seeds. Training losses of\n"
    "different arms are not comparable: their tokens stand for different text."
)
TIME_NOTE = (
    "Wall-clock seconds of the workers, which are side by side. Of a stage that was stopped and went on, those of the\n"
    "last attempt."
)
_SWEEP_NOTE = "Means over seeds with 95 % t intervals. Exploratory: the verdict is of the trial's own settings."
_CONTRAST_COLUMNS = 4  # the last ones of a row; those before are of its outcome
_EQUIVALENT = "a difference as large as the smallest effect that matters is ruled out"  # its verdict names the margin


class DeclaredContrast(NamedTuple):
    """A declared contrast, or the primary one run again with other settings, which is a check without a verdict."""

    role: str  # primary, secondary, or `again with budget.match=bytes`
    outcome: str  # its name
    pair: str  # `treatment - control`
    results: Mapping[str, Any]  # of the outcome; empty where it is not measured
    stats: Any  # of the contrast, None where nothing is compared yet

    @property
    def is_rerun(self) -> bool:
        return self.role not in ("primary", "secondary")

    @property
    def arms(self) -> list[str]:
        """Treatment and control."""
        return self.pair.split(" - ")

    @property
    def differences(self) -> list[float]:
        """Treatment minus control by seed, over the seeds that have both."""
        values = zip(*(self.results["per_seed"][arm] for arm in self.arms), strict=True)
        return [a - b for a, b in values if a is not None and b is not None]


def declared_contrasts(report: Report) -> list[DeclaredContrast]:
    """The primary contrast, its reruns that are there, and the secondary ones."""
    declared, primary = report["declared"], report["declared"]["primary"]
    contrasts = [_declared_contrast("primary", primary, report["outcomes"].get(primary["outcome"], {}))]
    for rerun in report["also"]:
        contrast = _declared_contrast(f"again with {one_line(rerun['name'])}", primary, rerun["outcome"] or {})
        contrasts += [contrast] if contrast.stats else []
    for pair in declared["secondary"]:
        contrasts.append(_declared_contrast("secondary", pair, report["outcomes"].get(pair["outcome"], {})))
    return contrasts


def _declared_contrast(role: str, pair: Mapping[str, str], results: Mapping[str, Any]) -> DeclaredContrast:
    stats = results.get("contrasts", {}).get(pair["contrast"])
    return DeclaredContrast(role, pair["outcome"], pair["contrast"], results, stats)


def verdict_sentence(report: Report) -> str:
    """The verdict in one sentence, the names as in the JSON."""
    primary = report["primary"]
    stats = report["outcomes"].get(primary["outcome"], {}).get("contrasts", {}).get(primary["contrast"])
    if stats is None:
        return one_line(f"{primary['contrast']} on {primary['outcome']}: nothing to compare yet.")
    verdict = primary["verdict"] or "no verdict"
    return one_line(
        f"{primary['contrast']} on {primary['outcome']}: {verdict} "
        f"(difference {stats['difference']:+.3f}, 95 % interval {format_interval(stats['ci95'])}, "
        f"p {format_number(stats['p'])}, {stats['n_seeds']} seeds)."
    )


def print_report(report: Report, console: Console) -> None:
    """The table at the end of a run: declared outcomes, then the verdict. Where it is too wide for the console, the
    means and the contrasts are a table each."""
    title = f"{report['trial']}: {len(report['seeds'])} seeds"
    header, rows = _header(report), _rows(report, declared_only=True)
    table = terminal_table(header, rows, title)
    if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
        console.print(table)
    else:
        means = [row[:-_CONTRAST_COLUMNS] for row in rows if row[0]]
        console.print(terminal_table(header[:-_CONTRAST_COLUMNS], means, title))
        outcome, contrasts = "", []
        for row in rows:
            outcome = row[0] if row[0] in report["outcomes"] else outcome  # a rerun's row has its role there
            contrasts.append([row[0] or outcome, *row[-_CONTRAST_COLUMNS:]])
        console.print(terminal_table([header[0], *header[-_CONTRAST_COLUMNS:]], contrasts))
    for note in _notes(report):
        console.print(note, highlight=False, markup=False)
    console.print(f"Verdict: {verdict_sentence(report)}", style="bold", highlight=False, markup=False)


def terminal_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
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
    floors = [
        [name, policy, format_number(floor)]
        for name, outcome in outcomes.items()
        for policy, floor in outcome["floors"].items()
    ]
    consumption = [
        [key.replace("_", " "), *(_amount(consumed.get(arm, {}).get(key)) for arm in arms)]
        for key in next(iter(consumed.values()), {})
    ]
    steps = [
        [arm, *(", ".join(str(c["steps_to_60"][group] or "never") for c in curves.values()) for group in GROUPS)]
        for arm, curves in report["curves"].items()
    ]
    budget = f"Mean over seeds. The same {report['settings']['budget']['match']} in every arm."
    sections = [
        _section("Declared before the run", "", _header(report), _rows(report, declared_only=True)),
        _section("All outcomes", _ALL_NOTE, _header(report), _rows(report, declared_only=False)),
        _section("What was swept", _SWEEP_NOTE, *sweep_table(report)) if report["sweep"]["points"] else [],
        _section("The ladder", _LADDER_NOTE, ["outcome", "arm", *report["stages"]], _ladder(report)),
        _section("Floors", "Accuracy of policies that know no arithmetic.", ["outcome", "policy", "accuracy"], floors),
        _section("What each arm consumed", budget, ["", *arms], consumption),
        _section("Steps to 60 %", "", ["arm", "asked, by seed", "never asked, by seed"], steps),
        _section("Where the time went", TIME_NOTE, *stage_times(report["seconds"])) if report["seconds"] else [],
    ]
    lines = [
        f"# {report['trial']}",
        "",
        f"**{verdict_sentence(report)}**",
        "",
        f"{_VERDICTS.get(report['primary']['verdict'], _EQUIVALENT).capitalize()}.",
        *(f"{note}  " for note in _notes(report)),
        "",
        *(line for section in sections for line in section),
        "## Made by",
        "",
        *(f"- {key}: {value}" for key, value in report["provenance"].items()),
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
    return [f"## {title}", "", *([note, ""] if note else []), *table, ""]


def sweep_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row an outcome and point; nothing without a sweep."""
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


def stage_times(seconds: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row a stage, of the seconds that each cell took."""
    rows = []
    for stage, by_cell in seconds.items():
        per_cell = [str(len(by_cell)), f"{median(by_cell.values()):,.1f}"] if stage != "corpus" else ["-", "-"]
        rows.append([stage.replace("_", " "), *per_cell, f"{sum(by_cell.values()):,.1f}"])
    return ["stage", "cells", "seconds a cell, median", "seconds in total"], rows


def _header(report: Report) -> list[str]:
    return ["outcome", *report["arms"], "floor", "contrast", "difference [95 %]", "p", "verdict"]


def _rows(report: Report, declared_only: bool) -> list[list[str]]:
    """A row a contrast, what is of its outcome in the first one only; below the primary its reruns."""
    primary, *others = declared_contrasts(report)
    declared, rows = {(contrast.outcome, contrast.pair) for contrast in (primary, *others)}, []
    for name, outcome in report["outcomes"].items():
        pairs = [pair for pair in outcome["contrasts"] if not declared_only or (name, pair) in declared]
        for number, pair in enumerate(pairs):
            row = _row(report, name, pair, outcome, outcome["contrasts"][pair])
            rows.append([""] * (len(row) - _CONTRAST_COLUMNS) + row[-_CONTRAST_COLUMNS:] if number else row)
            if (name, pair) == (primary.outcome, primary.pair):
                checks = [_row(report, c.role, pair, c.results, c.stats) for c in others if c.is_rerun]
                rows += [[*check[:-1], "a check, no verdict"] for check in checks]
    return rows


def _row(report: Report, name: str, pair: str, outcome: Mapping[str, Any], stats: Mapping[str, Any]) -> list[str]:
    holm = "" if stats["p_holm"] is None else f" (Holm {format_number(stats['p_holm'])})"
    return [
        name,
        *(format_mean_sd(outcome["per_seed"].get(arm, [])) for arm in report["arms"]),
        format_number(outcome["floor"]),
        pair,
        f"{stats['difference']:+.3f} {format_interval(stats['ci95'])}",
        format_number(stats["p"]) + holm,
        stats["verdict"] or "",
    ]


def _ladder(report: Report) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(name.partition("/")[2] for name in report["outcomes"]):
        stages = [report["outcomes"].get(f"{stage}/{name}") for stage in report["stages"]]
        for arm in report["arms"]:
            rows.append(
                [name, arm, *(format_mean_sd(outcome["per_seed"][arm] if outcome else []) for outcome in stages)]
            )
    return rows


def budget_verdicts(report: Report) -> list[str]:
    """What the primary contrast comes to under both budgets, where it was run again under the other one."""
    return [f"With {one_line(r['name'])} as well: {r['over_budgets']}." for r in report["also"] if r["over_budgets"]]


def _notes(report: Report) -> list[str]:
    notes = [*report["extended"], *budget_verdicts(report)]
    if report["primary"]["note"]:
        notes.append(f"Primary: {report['primary']['note']}.")
    if gate := report["gate"]:
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


def format_mean_sd(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over the seeds that are there."""
    measured = [value for value in values if value is not None]
    if not measured:
        return "-"
    return f"{mean(measured):.3f}" + (f" ± {stdev(measured):.3f}" if len(measured) > 1 else "")


def format_interval(ends: Sequence[float] | None) -> str:
    return "n/a" if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


def format_number(value: float | None) -> str:
    """Three significant digits."""
    return "n/a" if value is None else f"{value:.3g}"


def format_estimate(estimate: Mapping[str, Any] | None, sign: str) -> str:
    """A mean with its interval."""
    return "-" if estimate is None else f"{estimate['mean']:{sign}.3f} {format_interval(estimate['ci95'])}"


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
