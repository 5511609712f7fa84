"""What a trial's tokens are about, as settings: a family of facts, or the rows of a CSV file."""

import csv
import io
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_COLUMNS = (["left", "operator", "right", "result"], ["question", "answer"])
_EXPECTED = " or ".join(", ".join(known) for known in _COLUMNS)


class FactSettings(BaseModel):
    """What the tokens are about: a family of facts over a range of numbers, or the rows of a CSV file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    family: Literal["multiplication", "addition", "squares", "units", "csv"] = "multiplication"
    """what the facts are: products, sums, squares, units, or the rows of a CSV file"""
    range: tuple[Annotated[int, Field(ge=0, le=100)], Annotated[int, Field(ge=0, le=100)]] = (1, 9)
    """lowest and highest number in the facts"""
    csv: str | None = None
    """a CSV file of facts, with the header question,answer or left,operator,right,result"""
    rows: tuple[tuple[str, ...], ...] = ()
    """rows of that file; a run's trial.yaml holds them, so it no longer needs the file"""

    @model_validator(mode="before")
    @classmethod
    def rows_read(cls, data: Any) -> Any:
        """YAML knows no tuples; and the rows of a file are read, unless they are given."""
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("range"), list):
            data = data | {"range": tuple(data["range"])}
        if isinstance(data.get("rows"), list):
            data = data | {"rows": tuple(tuple(row) if isinstance(row, list) else row for row in data["rows"])}
        if isinstance(data.get("csv"), str) and not data.get("rows"):
            data = data | {"rows": read_rows(Path(os.path.expanduser(data["csv"])))}
        return data | ({"family": "csv"} if "family" not in data and (data.get("csv") or data.get("rows")) else {})

    @model_validator(mode="after")
    def hold_facts(self) -> "FactSettings":
        if self.range[0] > self.range[1]:
            raise ValueError(f"range is {list(self.range)}, expected the lowest and the highest number")
        if (self.family == "csv") != bool(self.rows):
            raise ValueError(f"family is {self.family!r} with {len(self.rows)} rows; expected rows with 'csv' only")
        if self.rows and self.range != (1, 9):
            raise ValueError(f"range is {list(self.range)}; it is for families of numbers; leave it out with rows")
        _check_rows(self.rows)
        return self


def read_rows(path: Path) -> tuple[tuple[str, ...], ...]:
    """Rows of a CSV file of facts, in the order of its columns' known names; other columns and empty rows are left out.
    Raises ValueError that names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"csv: {path}: {error}; expected a CSV file in UTF-8") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [" ".join(name.split()) for name in next(lines, [])]
        columns = next((known for known in _COLUMNS if all(head.count(name) == 1 for name in known)), None)
        if columns is None:
            raise ValueError(f"csv: {path}: columns are {head}, expected {_EXPECTED}, separated by commas")
        rows = []
        for cells in ([" ".join(cell.split()) for cell in line] for line in lines):
            if any(cell and not name for cell, name in zip_longest(cells, head)):
                raise ValueError(
                    f"csv: {path}, line {lines.line_num}: found {cells} in the columns {head}; put a text that holds a "
                    "comma between quotation marks"
                )
            if any(cells):
                rows.append(tuple(dict(zip(head, cells, strict=False)).get(name, "") for name in columns))
        return tuple(rows)
    except csv.Error as error:
        raise ValueError(f"csv: {path}, line {lines.line_num}: {error}") from None


def _check_rows(rows: Sequence[Sequence[str]]) -> None:
    """What no text could state is refused; what it could not tell apart, where the facts are made of it."""
    if len(rows) > 10_000:
        raise ValueError(f"rows: {len(rows)} facts, expected at most 10,000: each has an id of 16 bits")
    for number, row in enumerate(rows, 1):
        if len(row) not in (2, 4) or not all(row):
            raise ValueError(
                f"rows: fact {number} is {list(row)}, expected {' or '.join(map(str, _COLUMNS))}, none empty"
            )
        marks = ("=", "<", "User:")  # of an equation, of a token, of a question
        if any(len(cell) > 200 or not cell.isprintable() or any(mark in cell for mark in marks) for cell in row):
            raise ValueError(
                f"rows: fact {number} is {list(row)}, expected at most 200 characters, none of {', '.join(marks)}"
            )
