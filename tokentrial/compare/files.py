"""Files that others wrote, validated field by field before anything is read from them."""

import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tokentrial.errors import TrialError
from tokentrial.report.formats import one_line

Count = Annotated[int, Field(ge=0, le=10**8)]
T = TypeVar("T")


class ExternalRecord(BaseModel):
    """The fields that are read, of the types that they must have; a file may hold others."""

    model_config = ConfigDict(strict=True, extra="ignore")


def file_error(where: object, problem: str) -> TrialError:
    """Of a file, or of a place in it as `Row.where` names it."""
    return TrialError(one_line(f"{where}: {problem}"))


def validate(where: object, schema: type[T], value: Any, part: str = "") -> T:
    """`value` as `schema`; the error names the place, the field, what was found and what was expected."""
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the value"
        given = "nothing" if first["type"] == "missing" else reprlib.repr(first["input"])
        raise file_error(where, f"{part}{field}: found {given}, expected: {first['msg']}") from None
