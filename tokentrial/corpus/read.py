"""Reading a source's files: batches of documents as UTF-8 bytes, with what could not be read in its place.

Batches and not documents one by one: an object a document would cost more than encoding it does.
"""

import codecs
import gzip
import io
import json
import lzma
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import orjson

from tokentrial.errors import SettingsError, TrialError
from tokentrial.tokenizer.vocabulary import well_formed

_ROWS = 1000
_BATCH_BYTES = 8_000_000
_LINE_BYTES = 100_000_000  # a longer line is no document
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)

T = TypeVar("T")


class Unit(NamedTuple):
    """What one task reads: whole files, or row groups `groups[0]` to `groups[1]` - 1 of one parquet file."""

    kind: str
    files: tuple[str, ...]
    groups: tuple[int, int] | None
    bytes: int


class Bad(NamedTuple):
    """What could not be read: a document, or the rest of a file."""

    where: str
    why: str


Batch = list[bytes | Bad]


def documents(unit: Unit, text_column: str, skip: bool) -> Iterator[Batch]:
    """The documents of a unit in order. What cannot be read is a TrialError that names file and place, or, with
    `skip`, a Bad among the documents."""
    readers: dict[str, Callable[..., Iterator[Batch]]] = {"sotu": _text, "parquet": _parquet, "jsonl": _jsonl}
    read = readers[unit.kind]
    for path in unit.files:
        for batch in read(path, text_column, unit.groups):
            if not skip:
                for bad in batch:
                    if isinstance(bad, Bad):
                        raise TrialError(f"{bad.where}: {bad.why}; mend it, or give corpus.on_bad=skip")
            yield batch


def patiently(work: Callable[[], T], path: str) -> T:
    """The result of `work` on a remote path, tried again with growing waits while the network fails; at once on a
    local one. What is not there or not allowed is no matter for patience."""
    failures = 0
    while True:
        try:
            return work()
        except Exception as error:
            if not _of_network(error):
                raise
            _wait(error, path, failures, "cannot be read")
            failures += 1


def _of_network(error: Exception) -> bool:
    """Whether an error is of a disk or a network client. httpx, aiohttp and botocore have errors of their own."""
    clients = ("httpx", "httpx2", "aiohttp", "botocore", "requests", "urllib3")
    return isinstance(error, OSError) or any(kind.__module__.split(".")[0] in clients for kind in type(error).__mro__)


def _of_data(error: Exception, path: str) -> bool:
    """Whether an error of a local file is of what it holds: pyarrow says so by an OSError without a number."""
    return "://" not in path and isinstance(error, OSError) and error.errno is None


def _wait(error: Exception, path: str, failures: int, what: str) -> None:
    """Wait before another try, longer after each failure in a row. Raises TrialError where no try would help."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = status is not None and 400 <= status < 500 and status not in (408, 429)
    absent = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    if "://" not in path or absent or refused or failures == len(_WAITS_S):
        advice = "; check corpus.source, or give a copy of your own: parquet:FOLDER" if "://" in path else ""
        raise TrialError(f"{path}: {what}: {error}{advice}") from error
    print(f"{path}: {error}; trying again in {_WAITS_S[failures]:.0f} s", file=sys.stderr)
    time.sleep(_WAITS_S[failures])


def _open(path: str) -> Any:
    """A file in bytes, decompressed by its ending."""
    import fsspec

    if path.endswith(".zst"):
        return io.BufferedReader(_Zstandard(fsspec.open(path, "rb").open()), 1 << 20)
    return fsspec.open(path, "rb", compression="infer").open()


class _Zstandard(io.RawIOBase):
    """Decompresses frame after frame. Raises EOFError where the last one is cut off, which zstandard's own reader
    passes over in silence."""

    def __init__(self, file: Any) -> None:
        import zstandard

        self._file, self._make = file, zstandard.ZstdDecompressor().decompressobj
        self._frame, self._left, self._out, self._error = self._make(), b"", memoryview(b""), zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._out:
            data = self._left or self._file.read(1 << 20)
            if not data:
                if not self._frame.eof:
                    raise EOFError("the last frame is not whole")
                return 0
            if self._frame.eof:
                self._frame = self._make()
            try:
                self._out = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise ValueError(str(error)) from error
            self._left = self._frame.unused_data if self._frame.eof else b""
        size = min(len(buffer), len(self._out))
        buffer[:size], self._out = self._out[:size], self._out[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _text(path: str, *_: object) -> Iterator[Batch]:
    with patiently(lambda: _open(path), path) as file:
        yield [file.read().decode("utf-8", "replace").encode()]


def row_groups(path: str, size: int, task_bytes: int) -> list[Unit]:
    """A large parquet file cut between its row groups, into units of about `task_bytes` of its `size`."""
    import pyarrow

    try:
        with _parquet_file(path) as file:
            groups = file.metadata.num_row_groups
    except pyarrow.ArrowInvalid:
        return [Unit("parquet", (path,), None, size)]  # read as a whole, where it is a Bad
    parts = max(1, min(groups, round(size / task_bytes)))
    cuts = [groups * i // parts for i in range(parts + 1)]
    return [Unit("parquet", (path,), (a, b), size * (b - a) // groups) for a, b in pairwise(cuts)]


def expansion(unit: Unit, column: str) -> float:
    """Bytes of text for each byte of a unit's files, about: of parquet by its footer, of what is compressed 3."""
    import pyarrow

    path = unit.files[0]
    if unit.kind != "parquet":
        return 1.0 if path.endswith((".jsonl", ".json", ".txt")) else 3.0
    try:
        with _parquet_file(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    except pyarrow.ArrowInvalid:
        return 2.0
    whole = sum(each.total_compressed_size for each in columns)
    text: int = sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)
    return float(text / max(1, whole))


def _parquet_file(path: str) -> Any:
    import pyarrow.parquet

    if "://" not in path:
        return patiently(lambda: pyarrow.parquet.ParquetFile(path), path)
    return patiently(lambda: pyarrow.parquet.ParquetFile(_open(path), pre_buffer=True), path)


def _parquet(path: str, column: str, groups: tuple[int, int] | None) -> Iterator[Batch]:
    import pyarrow

    try:
        file = _parquet_file(path)
    except pyarrow.ArrowInvalid as error:
        yield [Bad(path, f"not a whole parquet file: {error}")]
        return
    with file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise SettingsError(
                f"corpus.text_column: {path} has no column {column!r}; there are {', '.join(schema.names)}"
            )
        kind = schema.field(column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise SettingsError(f"corpus.text_column: {path}: {column!r} is {kind}, expected text")
        for group in range(*(groups or (0, file.metadata.num_row_groups))):
            yield from _row_group(file, path, column, group)


def _row_group(file: Any, path: str, column: str, group: int) -> Iterator[Batch]:
    """One row group; where the network fails it is read again from its first row, and what was given is left out."""
    import pyarrow

    def rows(given: int) -> Iterator[Batch]:
        reopened = _parquet_file(path) if given else file
        seen = 0
        for batch in reopened.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column], use_threads=False):
            seen += len(batch)
            if seen > given:
                yield _texts(batch.column(0), f"{path}, row group {group}", seen - len(batch))

    try:
        yield from _resumed(rows, path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and not _of_data(error, path):
            raise
        yield [Bad(f"{path}, row group {group}", f"cannot be read: {error}")]


def _resumed(begin: Callable[[int], Iterator[Batch]], path: str) -> Iterator[Batch]:
    """Batches of `begin(0)`; where the network fails, after a wait, of `begin(documents given)`. Only so many failures
    in a row are borne, and none of a local path."""
    given = failures = 0
    reader = begin(0)
    while True:
        try:
            batch = next(reader, None)
        except Exception as error:
            if not _of_network(error) or _of_data(error, path):
                raise
            _wait(error, path, failures, f"broke off after {given} documents")
            reader, failures = begin(given), failures + 1
            continue
        if batch is None:
            return
        given, failures = given + len(batch), 0
        yield batch


def _texts(column: Any, where: str, first: int) -> Batch:
    """A column's texts as bytes; null is empty. Arrow does not check UTF-8 as it reads: we do, all of it at once."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts = column.cast(pyarrow.large_binary()).to_pylist()
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid:
        return [_checked(text or b"", f"{where}, row {first + i}") for i, text in enumerate(texts)]
    return [text or b"" for text in texts]


def _checked(text: bytes, where: str) -> bytes | Bad:
    try:
        codecs.utf_8_decode(text, "strict", True)
    except UnicodeDecodeError as error:
        return Bad(where, f"not valid UTF-8: {error.reason} at byte {error.start}")
    return text


def _jsonl(path: str, column: str, *_: object) -> Iterator[Batch]:
    def rows(given: int) -> Iterator[Batch]:
        number, held, size = 0, Batch(), 0
        with patiently(lambda: _open(path), path) as file:
            while True:
                try:
                    line = file.readline(_LINE_BYTES)
                except (EOFError, zlib.error, lzma.LZMAError, ValueError, gzip.BadGzipFile) as error:
                    held.append(Bad(f"{path}, after line {number}", f"broken off, the rest is lost: {error}"))
                    break
                if not line:
                    break
                number += 1
                if number > given:
                    held.append(_parsed(line, column, f"{path}, line {number}"))
                    size += len(line)
                if len(held) == _ROWS or size > _BATCH_BYTES:
                    yield held
                    held, size = Batch(), 0
        if held:
            yield held

    yield from _resumed(rows, path)


def _parsed(line: bytes, column: str, where: str) -> bytes | Bad:
    """The text of one JSON line. orjson refuses lone surrogates, json reads them."""
    try:
        try:
            text = orjson.loads(line)[column]
        except orjson.JSONDecodeError:
            text = json.loads(line)[column]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Bad(where, f"expected a JSON object with {column!r}: {error!r}")
    if not isinstance(text, str):
        return Bad(where, f"{column!r} is {text!r:.100}, expected text")
    return well_formed(text).encode()
