"""`report.html`: one page that needs no network, from the report alone. Whatever results hold is escaped by Jinja2."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tokentrial.report import meaning, tables
from tokentrial.report.canvas import look_number
from tokentrial.report.figures import Drawn, draw, inline
from tokentrial.report.tables import Report
from tokentrial.store.files import write_bytes


def write_page(report: Report, path: Path) -> None:
    """Write the page, and `figures/` beside it."""
    drawn = draw(report)
    for name, figure in drawn.items():
        write_bytes(path.parent / "figures" / f"{name}.svg", figure.wide.encode())
        write_bytes(path.parent / "figures" / f"{name}.png", figure.png)
    write_bytes(path, page(report, drawn).encode())


def page(report: Report, drawn: Mapping[str, Drawn]) -> str:
    """The HTML of a report with its figures."""
    environment = Environment(
        loader=PackageLoader("tokentrial", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "shown": shown, "spread": tables.spread, "inline": inline}
    return environment.get_template("template.html").render(
        report=report,
        figures=drawn,
        meaning=meaning,
        tables=tables,
        look={arm: look_number(report, arm) for arm in report["arms"]},
        settings=yaml.safe_dump(report["settings"], sort_keys=False, width=100),
    )


def amount(value: float | None) -> str:
    """A quantity of any size, in few characters."""
    if value is None:
        return "-"
    return f"{value:.2e}" if value >= 1e9 else f"{value:,.2f}" if value < 10 and value % 1 else f"{value:,.0f}"


def shown(completion: str) -> str:
    """A completion as it stands on the page: runs of empty lines shortened."""
    return re.sub(r"\n\s*\n\s*\n", "\n⋮\n", completion.strip())
