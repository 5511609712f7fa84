"""`report.html`: one page that needs no network, from the report alone. Whatever results hold is escaped by Jinja2."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tokentrial.report import contrast_table, narrative, text_report
from tokentrial.report.contrast_table import Report, row
from tokentrial.report.figures import Drawing, draw, inline
from tokentrial.report.formats import format_amount, format_number
from tokentrial.report.next_steps import next_steps
from tokentrial.report.outcomes import STAGE_LABELS
from tokentrial.report.plot_style import arm_number
from tokentrial.store.files import write_bytes


def write_page(report: Report, path: Path) -> None:
    """Write the page, and `figures/` in the same folder."""
    drawings = draw(report)
    for name, drawing in drawings.items():
        write_bytes(path.parent / "figures" / f"{name}.svg", drawing.svg.encode())
        write_bytes(path.parent / "figures" / f"{name}.png", drawing.png)
    write_bytes(path, page(report, drawings, path.parent).encode())


def page(report: Report, drawings: Mapping[str, Drawing], folder: Path | None = None) -> str:
    """The HTML of a report with its figures; its commands name the run folder `folder`, else the trial's own."""
    environment = Environment(
        loader=PackageLoader("tokentrial", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": format_amount, "without_gaps": _without_gaps, "inline": inline, "row": row}
    return environment.get_template("template.html").render(
        report=report,
        figures=drawings,
        narrative=narrative,
        text_report=text_report,
        contrast_table=contrast_table,
        next_steps=next_steps(report, folder or Path("outputs", report["trial"])),
        format_number=format_number,
        stage_labels=STAGE_LABELS,
        arm_numbers={arm: arm_number(report, arm) for arm in report["arms"]},
        settings=yaml.safe_dump(report["settings"], sort_keys=False, width=100),
    )


def _without_gaps(completion: str) -> str:
    """A completion with runs of empty lines shortened."""
    return re.sub(r"\n\s*\n\s*\n", "\n⋮\n", completion.strip())
