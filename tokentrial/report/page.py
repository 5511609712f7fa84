"""`report.html`: one page that needs no network, from the report alone. Whatever results hold is escaped by Jinja2."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tokentrial.report import narrative, tables
from tokentrial.report.figures import Drawing, draw, inline
from tokentrial.report.style import arm_number
from tokentrial.report.tables import Report
from tokentrial.store.files import write_bytes


def write_page(report: Report, path: Path) -> None:
    """Write the page, and `figures/` in the same folder."""
    drawings = draw(report)
    for name, drawing in drawings.items():
        write_bytes(path.parent / "figures" / f"{name}.svg", drawing.svg.encode())
        write_bytes(path.parent / "figures" / f"{name}.png", drawing.png)
    write_bytes(path, page(report, drawings).encode())


def page(report: Report, drawings: Mapping[str, Drawing]) -> str:
    """The HTML of a report with its figures."""
    environment = Environment(
        loader=PackageLoader("tokentrial", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": _amount,
        "without_gaps": _without_gaps,
        "mean_sd": tables.format_mean_sd,
        "inline": inline,
    }
    return environment.get_template("template.html").render(
        report=report,
        figures=drawings,
        narrative=narrative,
        tables=tables,
        arm_numbers={arm: arm_number(report, arm) for arm in report["arms"]},
        settings=yaml.safe_dump(report["settings"], sort_keys=False, width=100),
    )


def _amount(value: float | None) -> str:
    """A quantity of any size, in few characters."""
    if value is None:
        return "-"
    return f"{value:.2e}" if value >= 1e9 else f"{value:,.2f}" if value < 10 and value % 1 else f"{value:,.0f}"


def _without_gaps(completion: str) -> str:
    """A completion with runs of empty lines shortened."""
    return re.sub(r"\n\s*\n\s*\n", "\n⋮\n", completion.strip())
