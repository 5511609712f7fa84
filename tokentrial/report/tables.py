"""The report as tables: for the terminal and as `report.md`."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MEANING = {
    None: "no verdict",
    "helps": "the treatment is better than chance over seeds allows",
    "hurts": "the treatment is worse than chance over seeds allows",
    "no difference shown": "the data allow a difference of either sign; it is not shown that there is none",
    "baseline has not learnt": "the control is too close to the floor for a comparison to say anything",
}
_EQUIVALENT = "a difference as large as the smallest effect that matters is ruled out"  # its verdict names the margin


def sentence(report: Mapping[str, Any]) -> str:
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


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The table at the end of a run: declared outcomes, then the verdict."""
    table = Table(box=rich.box.SIMPLE_HEAD, title=f"{report['trial']}: {len(report['seeds'])} seeds")
    for column in _header(report):
        table.add_column(column, overflow="fold")
    for row in _rows(report, declared_only=True):
        table.add_row(*(Text(one_line(cell)) for cell in row))  # Text: brackets are no markup
    console.print(table)
    for line in _notes(report):
        console.print(line, highlight=False, markup=False)
    console.print(f"Verdict: {sentence(report)}", style="bold", highlight=False, markup=False)


def markdown(report: Mapping[str, Any]) -> str:
    """`report.md`."""
    arms = report["arms"]
    lines = [
        f"# {report['trial']}",
        "",
        f"**{sentence(report)}**",
        "",
        f"{_MEANING.get(report['primary']['verdict'], _EQUIVALENT).capitalize()}.",
        *(f"{line}  " for line in _notes(report)),
        "",
        "## Declared before the run",
        "",
        *_markdown_table(_header(report), _rows(report, declared_only=True)),
        "",
        "## All outcomes",
        "",
        "Contrasts without a verdict are exploratory. `±` is the standard deviation over seeds. Training losses of",
        "different arms are not comparable: their tokens stand for different text.",
        "",
        *_markdown_table(_header(report), _rows(report, declared_only=False)),
        "",
        *_family(report),
        "## The ladder",
        "",
        "Every outcome after each stage, mean ± standard deviation over seeds.",
        "",
        *_markdown_table(["outcome", "arm", *report["stages"]], _ladder(report)),
        "",
        "## Floors",
        "",
        "Accuracy of policies that know no arithmetic.",
        "",
        *_markdown_table(
            ["outcome", "policy", "accuracy"],
            [
                [name, policy, number(value)]
                for name, outcome in report["outcomes"].items()
                for policy, value in outcome["floors"].items()
            ],
        ),
        "",
        "## What each arm consumed",
        "",
        "Mean over seeds. The same tokens in every arm; shorter text means more of it was read.",
        "",
        *_markdown_table(
            ["", *arms],
            [
                [key.replace("_", " "), *(_amount(report["consumed"].get(arm, {}).get(key)) for arm in arms)]
                for key in next(iter(report["consumed"].values()), {})
            ],
        ),
        "",
        f"## Steps to {60} %",
        "",
        *_markdown_table(
            ["arm", "asked, by seed", "never asked, by seed"],
            [
                [
                    arm,
                    *(
                        ", ".join(str(c["steps_to_60"][subset] or "never") for c in curves.values())
                        for subset in ("asked", "never_asked")
                    ),
                ]
                for arm, curves in report["curves"].items()
            ],
        ),
        "",
        "## Made by",
        "",
        *(f"- {key}: {value}" for key, value in report["provenance"].items()),
    ]
    return "\n".join(lines) + "\n"


def _family(report: Mapping[str, Any]) -> list[str]:
    if not report["sweep"]["points"]:
        return []
    said = "Means over seeds with 95 % t intervals. Exploratory: the verdict is of the trial's own settings."
    return ["## What was swept", "", said, "", *_markdown_table(*sweep_table(report)), ""]


def sweep_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
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


def estimate(made: Mapping[str, Any] | None, sign: str) -> str:
    """A mean with its interval."""
    return "-" if made is None else f"{made['mean']:{sign}.3f} {interval(made['ci95'])}"


def rerun_of(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The reruns that are there: name, primary outcome and its contrast."""
    pair = report["primary"]["contrast"]
    return [
        (one_line(each["name"]), each["outcome"], each["outcome"]["contrasts"][pair])
        for each in report["also"]
        if each["outcome"] and pair in each["outcome"]["contrasts"]
    ]


def _header(report: Mapping[str, Any]) -> list[str]:
    return ["outcome", *report["arms"], "floor", "contrast", "difference [95 %]", "p", "verdict"]


def _rows(report: Mapping[str, Any], declared_only: bool) -> list[list[str]]:
    declared = report["declared"]
    wanted = {(pair["outcome"], pair["contrast"]) for pair in (declared["primary"], *declared["secondary"])}
    rows = []
    for name, outcome in report["outcomes"].items():
        first = True
        for pair, made in outcome["contrasts"].items():
            if declared_only and (name, pair) not in wanted:
                continue
            values = (
                [spread(outcome["per_seed"][arm]) for arm in report["arms"]] if first else [""] * len(report["arms"])
            )
            adjusted = made["p_holm"]
            p = number(made["p"]) + (f" (Holm {number(adjusted)})" if adjusted is not None else "")
            rows.append(
                [
                    name if first else "",
                    *values,
                    number(outcome["floor"]) if first else "",
                    pair,
                    f"{made['difference']:+.3f} {interval(made['ci95'])}",
                    p,
                    made["verdict"] or "",
                ]
            )
            first = False
            if (name, pair) == (report["primary"]["outcome"], report["primary"]["contrast"]):
                rows += _reruns(report)
    return rows


def _reruns(report: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"again with {name}",
            *(spread(outcome["per_seed"].get(arm, [])) for arm in report["arms"]),
            number(outcome["floor"]),
            report["primary"]["contrast"],
            f"{made['difference']:+.3f} {interval(made['ci95'])}",
            number(made["p"]),
            "a check, no verdict",
        ]
        for name, outcome, made in rerun_of(report)
    ]


def _ladder(report: Mapping[str, Any]) -> list[list[str]]:
    names = dict.fromkeys(name.partition("/")[2] for name in report["outcomes"])
    return [
        [
            name,
            arm,
            *(
                spread(report["outcomes"].get(f"{stage}/{name}", {"per_seed": {arm: []}})["per_seed"][arm])
                for stage in report["stages"]
            ),
        ]
        for name in names
        for arm in report["arms"]
    ]


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = list(report["extended"])
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


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
