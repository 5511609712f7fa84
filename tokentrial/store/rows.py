"""Rows that others wrote: JSON lines, a JSON list or parquet, told apart by what a file holds, plain or compressed.

Word problems, rows for fine-tuning and results of others are read by this one reader, which holds a file whole. The
corpus, which streams, parses its lines by `parse_json`.
"""

import io
import json
import lzma
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokentrial.errors import TrialError

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
COMPRESSED = r"\.(gz|bz2|zst|xz)\Z"  # how a compressed file's name ends
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One object of a file. `where` names the file and the line for an error."""

    where: str
    fields: dict[str, Any]

    def field(self, name: str) -> Any:
        """A field that must be there. Raises TrialError."""
        if name not in self.fields:
            raise TrialError(f"{self.where}: no {name!r}; its fields are {', '.join(self.fields):.200}")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A field that must be text. Raises TrialError."""
        if not isinstance(value := self.field(name), str):
            raise TrialError(f"{self.where}: {name} is {reprlib.repr(value)}, expected text")
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in order; blank lines are skipped. Raises TrialError, which names the file and the line, where
    it cannot be read whole, where a row is no object, and where there is no row."""
    data = read_file(path).removeprefix(_BOM)
    row = None
    for where, value in _parquet(path, data) if data.startswith(b"PAR1") else _json(path, data):
        if not isinstance(value, dict):
            raise TrialError(f"{where}: found {reprlib.repr(value)}, expected an object with named fields")
        row = Row(where, value)
        yield row
    if row is None:
        raise TrialError(f"{path}: found no rows; give a file with rows")


def read_json_file(path: Path) -> Any:
    """The one value that a JSON file holds. Raises TrialError that names it."""
    return _parsed(path, read_file(path))


def read_file(path: Path) -> bytes:
    """A file's bytes, decompressed as its ending says. Raises TrialError where it is cut off or cannot be read."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".xz":
                return lzma.open(file).read()
            if path.suffix in _CODECS:
                import pyarrow

                decompressed: bytes = pyarrow.input_stream(file, compression=_CODECS[path.suffix]).read()
                return decompressed
            return file.read()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise TrialError(f"{path}: cannot be read: {error}") from None


def parse_json(data: bytes) -> Any:
    """JSON as orjson reads it and, beyond that, as others write it: after a byte order mark, with NaN and Infinity, and
    with halves of surrogate pairs, for which U+FFFD stands. Raises ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass  # Python's own reader knows more, and says as well what is wrong
    try:
        text = json.dumps(json.loads(data.decode("utf-8-sig")), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _parsed(path: Path, data: bytes, line: int = 1) -> Any:
    """The JSON that begins at this line of a file; an error names the line that it is at."""
    try:
        return parse_json(data)
    except json.JSONDecodeError as error:
        at, problem = line + error.lineno - 1, f"{error.msg} at column {error.colno}"
    except UnicodeDecodeError as error:
        at, problem = line + data.count(b"\n", 0, error.start), f"not UTF-8: {error.reason}"
    except ValueError as error:
        at, problem = line, str(error)
    raise TrialError(f"{path}, line {at}: not valid JSON ({problem}); give a whole file in UTF-8")


def _json(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    lines = ((n, line.strip()) for n, line in enumerate(io.BytesIO(data), 1) if line.strip())
    number, first = next(lines, (1, b"[]"))
    try:
        value = parse_json(first)
    except ValueError:  # one value over several lines; or it is broken, and the error names the place
        yield from _listed(path, _parsed(path, data))
        return
    yield from _listed(path, value) if isinstance(value, list) else [(f"{path}, line {number}", value)]
    for number, line in lines:
        yield f"{path}, line {number}", _parsed(path, line, number)


def _listed(path: Path, value: Any) -> Iterator[tuple[str, Any]]:
    """Rows of one JSON value: of a list its items, else the value itself."""
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield f"{path}, row {number}", item


def _parquet(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        yield from _listed(path, parquet.read_table(BufferReader(data)).to_pylist())
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise TrialError(f"{path}: not a valid parquet file: {error}") from None
