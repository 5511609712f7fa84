"""Reading a source's files: batches of documents as UTF-8 bytes, with what could not be read in its place.

Batches and not documents one by one: an object a document would cost more than encoding it does.
"""

import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.network import is_data_error, with_retries
from tokentrial.store.rows import parse_json

_BATCH_ROWS = 1000
_BATCH_BYTES = 8_000_000
_LINE_BYTES = 100_000_000  # a longer line is no document


class InputSplit(NamedTuple):
    """What one task reads: whole files, or row groups `row_groups[0]` to `row_groups[1]` - 1 of one parquet file."""

    kind: str
    files: tuple[str, ...]
    row_groups: tuple[int, int] | None
    bytes: int


class BadDocument(NamedTuple):
    """What could not be read: a document, or the rest of a file."""

    where: str
    why: str


Batch = list[bytes | BadDocument]


def read_batches(source: InputSplit, text_column: str, skip_bad: bool, max_bytes: int = sys.maxsize) -> Iterator[Batch]:
    """The documents of an input in order. What cannot be read, or is longer than `max_bytes`, is a TrialError that
    names file and place, or, with `skip_bad`, a BadDocument among the documents."""
    readers: dict[str, Callable[..., Iterator[Batch]]] = {"sotu": _text, "parquet": _parquet, "jsonl": _jsonl}
    for path in source.files:
        for batch in readers[source.kind](path, text_column, source.row_groups, max_bytes):
            for document in batch if not skip_bad else ():
                if isinstance(document, BadDocument):
                    raise TrialError(f"{document.where}: {document.why}; correct it, or give corpus.on_bad=skip")
            yield batch


_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def file_system(path: str) -> tuple[Any, str]:
    """fsspec's file system of a path, and the path's name there. A path without `://` is one of this machine, whatever
    letters it has: `x::y` is no chain of file systems."""
    import fsspec

    if "://" not in path:
        return fsspec.filesystem("file"), os.path.abspath(path)
    system, name = fsspec.core.url_to_fs(path)
    return system, str(name)


def _open(path: str) -> Any:
    """A file in bytes, decompressed by its ending. Raises EOFError where a compressed one is empty."""
    system, name = file_system(path)
    if path.endswith(_COMPRESSED):
        with system.open(name, "rb") as file:
            if not file.read(1):
                raise EOFError("the file is empty")
    if path.endswith(".zst"):
        import pyarrow

        # zstandard's own reader silently passes over a last frame that is cut off
        return io.BufferedReader(pyarrow.CompressedInputStream(system.open(name, "rb"), "zstd"), 1 << 20)
    return system.open(name, "rb", compression="infer")


def _text(path: str, *_: object) -> Iterator[Batch]:
    with with_retries(lambda: _open(path), path) as file:
        yield [file.read().decode("utf-8", "replace").encode()]


def split_row_groups(path: str, size: int, task_bytes: int) -> list[InputSplit]:
    """A large parquet file cut between its row groups, into inputs of about `task_bytes` of its `size`."""
    footer = _footer(path)
    groups = footer.num_row_groups if footer else 0
    if not groups:
        return [InputSplit("parquet", (path,), None, size)]  # read as a whole: it holds no row, or is a BadDocument
    parts = max(1, min(groups, round(size / task_bytes)))
    bounds = [groups * i // parts for i in range(parts + 1)]
    return [InputSplit("parquet", (path,), (a, b), size * (b - a) // groups) for a, b in pairwise(bounds)]


def text_ratio(source: InputSplit, column: str) -> float:
    """Bytes of text for each byte of an input's files, about: of parquet by its footer, of what is compressed 3."""
    path = source.files[0]
    if source.kind != "parquet":
        return 3.0 if path.endswith(_COMPRESSED) else 1.0
    footer = _footer(path)
    if footer is None:
        return 2.0
    groups = map(footer.row_group, range(footer.num_row_groups))
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    stored = sum(chunk.total_compressed_size for chunk in columns)
    text = sum(chunk.total_uncompressed_size for chunk in columns if chunk.path_in_schema == column)
    return float(text / max(1, stored))


def _footer(path: str) -> Any:
    """Metadata of a parquet file; None where it is none."""
    import pyarrow

    try:
        with with_retries(lambda: _parquet_file(path), path) as file:
            return file.metadata
    except pyarrow.ArrowInvalid:
        return None


def _parquet_file(path: str) -> Any:
    """An open parquet file. Raises ArrowInvalid where it is none."""
    import pyarrow.parquet

    try:
        if "://" not in path:
            file = pyarrow.parquet.ParquetFile(path)
        else:
            file = pyarrow.parquet.ParquetFile(_open(path), pre_buffer=True)
        file.schema_arrow.names  # noqa: B018 - decodes them
        return file
    except UnicodeDecodeError as error:  # a column's name
        raise pyarrow.ArrowInvalid(str(error)) from error
    except OSError as error:
        if is_data_error(error):
            raise pyarrow.ArrowInvalid(str(error)) from error
        raise


def _parquet(path: str, column: str, row_groups: tuple[int, int] | None, max_bytes: int) -> Iterator[Batch]:
    import pyarrow

    try:
        file = with_retries(lambda: _parquet_file(path), path)
    except pyarrow.ArrowInvalid as error:
        yield [BadDocument(path, f"not a valid parquet file: {error}")]
        return
    with file:
        _check_column(file.schema_arrow, column, path)
        for group in range(*(row_groups or (0, file.metadata.num_row_groups))):
            yield from _row_group(file, path, column, group, max_bytes)


def _check_column(schema: Any, column: str, path: str) -> None:
    from pyarrow import types

    if column not in schema.names:
        raise SettingsError(f"corpus.text_column: {path} has no column {column!r}; there are {', '.join(schema.names)}")
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise SettingsError(f"corpus.text_column: {path}: {column!r} is {kind}, expected text")


def _row_group(file: Any, path: str, column: str, group: int, max_bytes: int) -> Iterator[Batch]:
    import pyarrow

    where = f"{path}, row group {group}"

    def read(again: bool) -> Iterator[Batch]:
        reader, row = _parquet_file(path) if again else file, 0
        which = {"row_groups": [group], "columns": [column]}
        for batch in reader.iter_batches(batch_size=_BATCH_ROWS, use_threads=False, **which):
            yield _texts(batch.column(0), where, row, max_bytes)
            row += len(batch)

    try:
        yield from _resumed(read, path, where)
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and not is_data_error(error):
            raise
        yield [BadDocument(where, f"cannot be read: {error}")]


def _resumed(read: Callable[[bool], Iterator[Batch]], path: str, where: str) -> Iterator[Batch]:
    """Batches of `read(False)`; where the network fails, after a wait, those of `read(True)` that were not yielded yet.
    Only so many failures in a row are borne, and none of a local path."""
    yielded, batches = 0, read(False)

    def following() -> Batch | None:
        nonlocal batches
        try:
            return next(batches, None)
        except Exception:
            batches = islice(read(True), yielded, None)  # the same batches again: their bounds depend on the file alone
            raise

    documents = 0
    while (batch := with_retries(following, path, f"{where}: broke off after {documents} documents")) is not None:
        yielded += 1
        documents += len(batch)
        yield batch


def _texts(column: Any, where: str, first: int, max_bytes: int) -> Batch:
    """A column's texts as bytes; null is empty. Arrow does not check UTF-8 as it reads: we do, all of it at once."""
    import pyarrow

    column = column.cast(pyarrow.large_string())  # of the ways in which Arrow keeps text
    stored: list[bytes] = [text or b"" for text in column.cast(pyarrow.large_binary()).to_pylist()]
    try:
        column.validate(full=True)
        texts: Batch = [*stored]
    except pyarrow.ArrowInvalid:
        texts = [_checked(text, f"{where}, row {first + i}") for i, text in enumerate(stored)]
    return [_limited(text, f"{where}, row {first + i}", max_bytes) for i, text in enumerate(texts)]


def _checked(text: bytes, where: str) -> bytes | BadDocument:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return BadDocument(where, f"not valid UTF-8: {error.reason} at byte {error.start}")
    return text


def _limited(text: bytes | BadDocument, where: str, max_bytes: int) -> bytes | BadDocument:
    if isinstance(text, BadDocument) or len(text) <= max_bytes:
        return text
    return BadDocument(where, f"{len(text):,} bytes, more than corpus.max_document_bytes, {max_bytes:,}")


def _jsonl(path: str, column: str, _: object, max_bytes: int) -> Iterator[Batch]:
    def read(again: bool) -> Iterator[Batch]:
        number, batch, size = 0, Batch(), 0
        try:
            with _open(path) if again else with_retries(lambda: _open(path), path) as file:
                while line := file.readline(_LINE_BYTES):
                    number += 1
                    if line.isspace():
                        continue  # a blank line holds no document, the last one least of all
                    where = f"{path}, line {number}"
                    if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                        batch.append(BadDocument(where, f"longer than {_LINE_BYTES:,} bytes"))
                        while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                            pass
                    else:
                        batch.append(_parsed(line, column, where, max_bytes))
                    size += len(line)
                    if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
                        yield batch
                        batch, size = Batch(), 0
        except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
            if isinstance(error, OSError) and not (is_data_error(error) or isinstance(error, gzip.BadGzipFile)):
                raise
            if "requires too much memory" in str(error):  # the file is sound: nothing of it is to be skipped
                raise TrialError(
                    f"{path}: compressed with `zstd --long` and a window of more than 128 MB, which is not read here; "
                    f"write it anew: zstd -d --long=31 -c FILE | zstd -o NEW.zst"
                ) from error
            batch.append(BadDocument(f"{path}, after line {number}", f"broken off, the rest is lost: {error}"))
        if batch:
            yield batch

    yield from _resumed(read, path, path)


def _parsed(line: bytes, column: str, where: str, max_bytes: int) -> bytes | BadDocument:
    """The text of one JSON line."""
    expected = f"expected a JSON object with {column!r}"
    try:
        row = parse_json(line)
    except UnicodeDecodeError:
        return BadDocument(where, f"{expected}, found invalid UTF-8")
    except ValueError as error:
        return BadDocument(where, f"{expected}: {error!r}")
    if not isinstance(row, dict):
        return BadDocument(where, f"{expected}, found {type(row).__name__}")
    if column not in row:
        return BadDocument(where, f"no {column!r}, which corpus.text_column names; there are {', '.join(row):.200}")
    if not isinstance(text := row[column], str):
        return BadDocument(where, f"{column!r} is {text!r:.100}, expected text")
    return _limited(text.encode(), where, max_bytes)
