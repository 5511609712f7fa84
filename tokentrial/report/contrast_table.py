"""The table of contrasts: a row each, which terminal, Markdown, page and LaTeX render alike.

A record is an entry of the report's `contrasts`: the fields of `statistics/contrast.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokentrial.report import formats
from tokentrial.report.formats import format_interval, format_level, format_number, one_line
from tokentrial.report.outcomes import outcome_label

Report = Mapping[str, Any]
Record = Mapping[str, Any]
_TESTS = {"paired_t": "paired t over seeds", "sign_flip": "sign-flip"}


class Row(NamedTuple):
    """A contrast in words and figures, a field a column of `HEADS`; means are of the seeds of the difference."""

    role: str
    contrast: str
    outcome: str
    verdict: str
    difference: str
    interval: str  # with its level
    p: str
    p_holm: str
    treatment: str  # mean ± sd
    control: str
    note: str


HEADS = tuple("Holm p" if name == "p_holm" else name for name in Row._fields)


def declared_rows(report: Report) -> list[Row]:
    """The declared contrasts, the primary first; below it the same with other settings, a check without a verdict."""
    return [row(record) for record in declared_records(report)]


def declared_records(report: Report) -> list[Record]:
    return [record for record in report["contrasts"] if record["role"] != "exploratory"]


def row(record: Record) -> Row:
    """A record as every table shows it."""
    ends = record["interval"]
    return Row(
        role=one_line(record["role"]),
        contrast=pair(record),
        outcome=outcome_label(record["outcome"]),
        verdict=verdict_words(record),
        difference=f"{record['difference']:+.3f}" if is_measured(record) else "-",
        interval=f"{format_interval(ends)} {', '.join(reversed(_kind(record)))}" if ends else "n/a",
        p=format_number(record["p"]),
        p_holm="" if record["p_adjusted"] is None else format_number(record["p_adjusted"]),
        treatment=formats.format_spread(record["treatment_mean"], record["treatment_sd"]),
        control=formats.format_spread(record["control_mean"], record["control_sd"]),
        note=one_line(record["note"]),
    )


def pair(record: Record) -> str:
    return one_line(f"{record['treatment']} - {record['control']}")


def is_measured(record: Record) -> bool:
    return record["difference"] is not None


def is_rerun(record: Record) -> bool:
    """Whether it is the primary contrast with other settings."""
    return record["role"] not in ("primary", "secondary", "exploratory")


def verdict_words(record: Record) -> str:
    without = {"primary": "no verdict", "secondary": "no verdict", "exploratory": "exploratory"}
    return record["verdict"] or without.get(record["role"], "a check, no verdict")


def _kind(record: Record) -> list[str]:
    """What an interval is: of this contrast alone where it stands beside Holm's p; its level."""
    return [*(["unadjusted"] if record["role"] == "secondary" else []), format_level(record["alpha"])]


def estimate(record: Record) -> str:
    """Difference, interval, p and seeds of a contrast, for a sentence."""
    if not is_measured(record):
        return "not measured"
    ends, seeds = record["interval"], len(record["seeds"])
    interval = f"{' '.join(_kind(record))} interval {format_interval(ends)}" if ends else "no interval"
    holm = "" if record["p_adjusted"] is None else f", Holm p {format_number(record['p_adjusted'])}"
    return (
        f"difference {record['difference']:+.3f}, {interval}, p "
        f"{format_number(record['p'])} ({_TESTS[record['test']]}){holm}, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def values_that_count(report: Report, outcome: str, arm: str) -> list[float | None]:
    """An arm's values on the seeds that the contrasts use, so that means match the differences."""
    counted = next((record["seeds"] for record in report["contrasts"] if record["seeds"]), report["seeds"])
    values = report["outcomes"].get(outcome, {}).get("per_seed", {}).get(arm, [])
    return [value for seed, value in zip(report["seeds"], values, strict=False) if seed in counted]


def arm_mean_sd(report: Report, outcome: str, arm: str) -> str:
    """An arm's mean ± standard deviation over the seeds that count."""
    return formats.format_mean_sd(values_that_count(report, outcome, arm))
