"""Files that others wrote: JSON and JSON lines, validated field by field before anything is read from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tokentrial.errors import TrialError
from tokentrial.report.formats import one_line

Count = Annotated[int, Field(ge=0, le=10**8)]
T = TypeVar("T")


class ExternalRecord(BaseModel):
    """The fields that are read, of the types that they must have; a file may hold others."""

    model_config = ConfigDict(strict=True, extra="ignore")


def file_error(path: Path, problem: str) -> TrialError:
    return TrialError(one_line(f"{path}: {problem}"))


def load_json(path: Path) -> Any:
    return _parse(path, _read(path), "")


def load_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's number and value; empty lines are skipped."""
    for number, line in enumerate(_read(path).split(b"\n"), 1):
        if line.strip():
            yield number, _parse(path, line, f"line {number}: ")


def validate(path: Path, schema: type[T], value: Any, where: str = "") -> T:
    """`value` as `schema`; the error names the file, the field, what was found and what was expected."""
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the value"
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise file_error(path, f"{where}{field}: found {found}, expected: {first['msg']}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise file_error(path, f"cannot be read ({error.strerror}); give a file of results") from None


def _parse(path: Path, data: bytes, where: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise file_error(path, f"{where}not valid JSON ({error}); give a whole file of results") from None
