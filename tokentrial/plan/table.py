"""A plan, and the seeds that an effect needs, as tables for a person."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from tokentrial.plan.power import POWERS, SeedPlan
from tokentrial.report.formats import format_number
from tokentrial.report.text_report import terminal_table

_LEFT = {"device", "variant", "stage", "size", "arms", "outcome", "trial", "seeds bought", "seeds left"}


def print_plan(plan: Mapping[str, Any], console: Console) -> None:
    """What is computed, what it costs by device, the seeds that are needed."""
    cells = plan["cells"]
    _table(
        console,
        f"{plan['trial']}: {len(plan['arms'])} arms x {len(plan['seeds'])} seeds = {cells} cells, "
        f"{plan['parameters'] / 1e6:,.1f}M parameters",
        ("stage", "tokens per cell", "FLOPs per cell", "tokens in all", "FLOPs in all"),
        [
            ("corpus, once", "", "", _count(plan["corpus"]["tokens"]), ""),
            *(
                (stage, *map(_count, (part["tokens"], part["flops"], cells * part["tokens"], cells * part["flops"])))
                for stage, part in plan["stages"].items()
            ),
            ("total", "", "", _count(plan["tokens"]), _count(plan["flops"])),
        ],
    )
    stages = list(plan["stages"])
    _table(
        console,
        "Hours of a cell by stage; corpus once, total and dollars of the trial",
        ("device", *stages, "corpus", "total h", "$", "GPU GB", "host GB", "disk GB", "tokens/s"),
        [
            (
                name,
                *(_hours(cost["hours_per_cell"][stage]) for stage in stages),
                _hours(cost["corpus_hours"]),
                _hours(cost["hours"]),
                _dollars(cost["dollars"]),
                ("" if cost["gpu_memory_gb"] is None else f"{cost['gpu_memory_gb']:.1f}")
                + ("" if cost["fits"] else " too much"),
                f"{cost['host_memory_gb']:.1f}",
                f"{cost['disk_peak_gb']:.1f}",
                f"{cost['tokens_per_s']:,.0f}",
            )
            for name, cost in plan["devices"].items()
        ],
    )
    if plan["variants"]:
        _table(
            console,
            f"Its {len(plan['variants'])} further trials: hours (and $) of each, then of the trial and all of them",
            ("variant", "cells", "disk GB", *plan["devices"]),
            [
                *(
                    (row["name"], str(row["cells"]), f"{row['disk_gb']:.1f}", *map(_cost, row["devices"].values()))
                    for row in plan["variants"]
                ),
                _family(plan),
            ],
        )
    _lines(console, [*_seeds(plan["seeds_needed"]), *plan["notes"]])
    _lines(console, ["Assumed:", *(f"- {line}" for line in plan["assumptions"])])


def print_budget(plan: Mapping[str, Any], dollars: float, console: Console) -> None:
    """What the money buys: of the trial as declared, and of each size."""
    _table(
        console,
        f"What ${dollars:,.10g} buys of the trial as declared: whole seeds of all arms, in this order",
        ("device", "trial", "seeds bought", "seeds left"),
        [
            (row["device"], row["part"], *(", ".join(map(str, row[key])) for key in ("bought", "left")))
            for row in plan["bought"]
        ],
    )
    _table(
        console,
        f"What ${dollars:,.10g} buys: seeds of each size, and the effect they find with a chance of 80 %",
        ("device", "size", "arms", "seeds", "effect", "$ per seed", "$ once", "h"),
        [
            (
                row["device"],
                row["size"],
                ", ".join(row["arms"]),
                str(row["seeds"]),
                ("n/a" if row["effect80"] is None else f"{row['effect80']:.3f}") + (" enough" if row["enough"] else ""),
                _dollars(row["dollars_a_seed"]),
                _dollars(row["dollars_corpus"]),
                _hours(row["hours"]),
            )
            for row in plan["budget"]
        ],
    )
    _lines(console, plan["floors"])


_SIGNALS = 12  # outcomes that are shown


def print_seeds(plan: SeedPlan, console: Console) -> None:
    """Seeds by effect and power, then what so many seeds detect."""
    of_sd = f", its 95 % interval {plan.sd_ci95[0]:.3g} to {plan.sd_ci95[1]:.3g}" if plan.sd_ci95 else ""
    lines = [f"{plan.of}: the paired differences have sd {plan.sd:.3g}{of_sd}."]
    if plan.n is not None:
        bound = f"Planned with {plan.planning_sd:.3g}, its upper 80 % bound"
        lines.append(f"{bound}: the sd of {plan.n} seeds is too small more often than not.")
    if plan.not_learnt:
        lines.append(f"Caution: {plan.not_learnt}. Once the control has learnt, the noise will be another.")
    if plan.sd == 0:
        lines.append("No spread between the seeds: the number of seeds cannot be planned from it.")
    _lines(console, lines)
    without = "n/a" if plan.sd == 0 else "over 1000"
    rows = [
        [f"{row.effect:.3g}", *(without if n is None else str(n) for n in row.seeds.values())] for row in plan.effects
    ]
    header = ("effect", *(f"{100 * power:g} % power" for power in POWERS))
    _table(console, f"seeds needed, alpha {plan.alpha:g}", header, rows)
    detectable = [(size, format_number(effect)) for size, effect in plan.mde80.items()]
    _table(console, "smallest effect found with 80 % power", ("seeds", "effect"), detectable)
    if plan.signals:
        _signals(plan, console)


def _signals(plan: SeedPlan, console: Console) -> None:
    """The clearest outcomes of a run."""
    _table(
        console,
        "signal-to-noise of outcomes, the clearest first: |mean| / sd over seeds of the paired differences",
        ("outcome", "seeds", "difference", "sd", "signal/noise", "smallest effect", "seeds for it"),
        [
            (
                signal.outcome,
                str(signal.n),
                f"{signal.difference:+.3g}",
                f"{signal.sd:.3g}",
                "n/a" if signal.signal_to_noise is None else f"{signal.signal_to_noise:.2f}",
                "" if signal.smallest_effect is None else f"{signal.smallest_effect:g}",
                "" if signal.smallest_effect is None else "n/a" if signal.sd == 0 else str(signal.seeds or "over 1000"),
            )
            for signal in plan.signals[:_SIGNALS]
        ],
    )
    if more := len(plan.signals[_SIGNALS:]):
        _lines(console, [f"{more} more: --json."])
    warning = "A primary outcome chosen by it is one for other seeds: on these the choice has seen the result."
    _lines(console, [warning])


def _family(plan: Mapping[str, Any]) -> list[str]:
    """The trial with its variants."""
    parts = plan["variants"]
    cells = plan["cells"] + sum(part["cells"] for part in parts)
    disk = plan["disk_peak_gb"] + sum(part["disk_gb"] for part in parts)
    by_device = []
    for name, cost in plan["devices"].items():
        all_of = [cost, *(part["devices"][name] for part in parts)]
        dollars = None if cost["dollars"] is None else sum(trial["dollars"] for trial in all_of)
        by_device.append(_cost({"hours": sum(trial["hours"] for trial in all_of), "dollars": dollars}))
    return ["all", str(cells), f"{disk:.1f}", *by_device]


def _cost(cost: Mapping[str, Any]) -> str:
    return _hours(cost["hours"]) + ("" if cost["dollars"] is None else f" ({_dollars(cost['dollars'])})")


def _seeds(plan: Mapping[str, Any]) -> list[str]:
    """The seeds that the declared effect needs and what the declared ones find, as far as they are known."""
    outcome, effect, sd, finds = (plan[key] for key in ("outcome", "smallest_effect", "noise_sd", "mde80"))
    seeds, lines = plan["declared"], []
    if effect is None:
        lines.append(f"No smallest effect is declared for {outcome}: give verdict.primary.smallest_effect.")
    if finds is None:
        noise = f"is {sd:g}" if sd is not None else "between seeds is not known: give --pilot OUT or --noise SD"
        lines.append(f"What the {seeds} declared seeds can find is unknown: the noise of {outcome} {noise}.")
    else:
        needed = f"; {effect:g} needs {plan['needed'] or 'more than 1,000'} seeds" if effect else ""
        lines.append(f"The {seeds} declared seeds find {finds:.3g} in {outcome} with a chance of 80 %{needed}.")
        bound = "" if plan["planning_sd"] == sd else f"; planned with its upper 80 % bound {plan['planning_sd']:.3g}"
        lines.append(f"Noise: sd {sd:.3g} ({plan['noise_source']}){bound}.")
    if plan["looks"]:
        lines.append(f"Looks: {_looks(plan)}. Hours and dollars cover every seed of the trial.")
    return lines


def _looks(plan: Mapping[str, Any]) -> str:
    """When the seeds are looked at, and how many it then takes."""
    if plan["boundaries"] is None:
        when = "half of the seeds decide how many are run"
    else:
        looks = zip(plan["looks"], plan["boundaries"], strict=True)
        when = f"after {', '.join(f'{seeds} (|t| {boundary:.3g})' for seeds, boundary in looks)} seeds"
    if plan["power"] is None:
        return when
    finds = f"a true difference of {plan['smallest_effect']:g} is found with a chance of {plan['power']:.0%}"
    return f"{when}; {finds}, after {plan['mean_seeds']:.1f} seeds on average"


def _table(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = terminal_table(header, rows, title)
    table.title_justify = "left"
    for column in table.columns:
        column.justify = "left" if column.header in _LEFT else "right"
    console.print(table)


def _lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _count(value: float) -> str:
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _hours(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _dollars(value: float | None) -> str:
    return "?" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
