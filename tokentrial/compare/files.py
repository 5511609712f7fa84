"""Files that others wrote: JSON and JSON lines, checked field by field before anything is read from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tokentrial.errors import TrialError
from tokentrial.report.tables import one_line

Count = Annotated[int, Field(ge=0, le=10**8)]
Checked = TypeVar("Checked")


class Fields(BaseModel):
    """The fields that are read; others may stand beside them."""

    model_config = ConfigDict(strict=True, extra="ignore")


def refuse(path: Path, problem: str) -> TrialError:
    return TrialError(one_line(f"{path}: {problem}"))


def json_file(path: Path) -> Any:
    return _parse(path, _bytes(path), "")


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's number and value; empty lines are passed over."""
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        if line.strip():
            yield number, _parse(path, line, f"line {number}: ")


def checked(path: Path, shape: type[Checked], value: Any, where: str = "") -> Checked:
    """`value` as `shape`; the error names the file, the field, what was found and what was expected."""
    try:
        return TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise refuse(path, f"{where}{field or 'the value'}: found {found}, expected: {first['msg']}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse(path, f"cannot be read ({error.strerror}); give a file of results") from None


def _parse(path: Path, data: bytes, where: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise refuse(path, f"{where}not valid JSON ({error}); give a whole file of results") from None
