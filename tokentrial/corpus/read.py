"""Reading a source's files: batches of documents as UTF-8 bytes, with what could not be read in its place.

Batches and not documents one by one: an object a document would cost more than encoding it does.
"""

import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import orjson

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.network import of_data, with_retries
from tokentrial.tokenizer.vocabulary import well_formed

_ROWS = 1000
_BATCH_BYTES = 8_000_000
_LINE_BYTES = 100_000_000  # a longer line is no document

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


def documents(unit: Unit, text_column: str, skip: bool, most_bytes: int = sys.maxsize) -> Iterator[Batch]:
    """The documents of a unit in order. What cannot be read, or is longer than `most_bytes`, is a TrialError that names
    file and place, or, with `skip`, a Bad among the documents."""
    readers: dict[str, Callable[..., Iterator[Batch]]] = {"sotu": _text, "parquet": _parquet, "jsonl": _jsonl}
    read = readers[unit.kind]
    for path in unit.files:
        for batch in read(path, text_column, unit.groups, most_bytes):
            if not skip:
                for bad in batch:
                    if isinstance(bad, Bad):
                        raise TrialError(f"{bad.where}: {bad.why}; mend it, or give corpus.on_bad=skip")
            yield batch


_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def _open(path: str) -> Any:
    """A file in bytes, decompressed by its ending. Raises EOFError where a compressed one is empty."""
    import fsspec

    if path.endswith(_COMPRESSED):
        with fsspec.open(path, "rb") as file:
            if not file.read(1):
                raise EOFError("the file is empty")
    if path.endswith(".zst"):
        import pyarrow

        # zstandard's own reader passes over a last frame that is cut off in silence
        return io.BufferedReader(pyarrow.CompressedInputStream(fsspec.open(path, "rb").open(), "zstd"), 1 << 20)
    return fsspec.open(path, "rb", compression="infer").open()


def _text(path: str, *_: object) -> Iterator[Batch]:
    with with_retries(lambda: _open(path), path) as file:
        yield [file.read().decode("utf-8", "replace").encode()]


def row_groups(path: str, size: int, task_bytes: int) -> list[Unit]:
    """A large parquet file cut between its row groups, into units of about `task_bytes` of its `size`."""
    footer = _footer(path)
    if footer is None:
        return [Unit("parquet", (path,), None, size)]  # read as a whole, where it is a Bad
    groups = footer.num_row_groups
    parts = max(1, min(groups, round(size / task_bytes)))
    cuts = [groups * i // parts for i in range(parts + 1)]
    return [Unit("parquet", (path,), (a, b), size * (b - a) // groups) for a, b in pairwise(cuts)]


def expansion(unit: Unit, column: str) -> float:
    """Bytes of text for each byte of a unit's files, about: of parquet by its footer, of what is compressed 3."""
    path = unit.files[0]
    if unit.kind != "parquet":
        return 1.0 if path.endswith((".jsonl", ".json", ".txt")) else 3.0
    footer = _footer(path)
    if footer is None:
        return 2.0
    groups = map(footer.row_group, range(footer.num_row_groups))
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    whole = sum(each.total_compressed_size for each in columns)
    text: int = sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)
    return float(text / max(1, whole))


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
            return pyarrow.parquet.ParquetFile(path)
        return pyarrow.parquet.ParquetFile(_open(path), pre_buffer=True)
    except OSError as error:
        if of_data(error):
            raise pyarrow.ArrowInvalid(str(error)) from error
        raise


def _parquet(path: str, column: str, groups: tuple[int, int] | None, most_bytes: int) -> Iterator[Batch]:
    import pyarrow

    try:
        file = with_retries(lambda: _parquet_file(path), path)
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
        texts = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
        if not any(is_text(kind) for is_text in texts):
            raise SettingsError(f"corpus.text_column: {path}: {column!r} is {kind}, expected text")
        for group in range(*(groups or (0, file.metadata.num_row_groups))):
            yield from _row_group(file, path, column, group, most_bytes)


def _row_group(file: Any, path: str, column: str, group: int, most_bytes: int) -> Iterator[Batch]:
    """One row group; where the network fails it is read again from its first row, and what was given is left out."""
    import pyarrow

    where = f"{path}, row group {group}"

    def rows(given: int, again: bool) -> Iterator[Batch]:
        opened = _parquet_file(path) if again else file
        seen = 0
        for batch in opened.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column], use_threads=False):
            seen += len(batch)
            if seen > given:
                yield _texts(batch.column(0), where, seen - len(batch), most_bytes)

    try:
        yield from _resumed(rows, path, where)
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and not of_data(error):
            raise
        yield [Bad(where, f"cannot be read: {error}")]


def _resumed(begin: Callable[[int, bool], Iterator[Batch]], path: str, where: str) -> Iterator[Batch]:
    """Batches of `begin(0, False)`; where the network fails, after a wait, of `begin(documents given, True)`. Only so
    many failures in a row are borne, and none of a local path."""
    given, reader = 0, begin(0, False)

    def following() -> Batch | None:
        nonlocal reader
        try:
            return next(reader, None)
        except Exception:
            reader = begin(given, True)
            raise

    while (batch := with_retries(following, path, f"{where}: broke off after {given} documents")) is not None:
        given += len(batch)
        yield batch


def _texts(column: Any, where: str, first: int, most_bytes: int) -> Batch:
    """A column's texts as bytes; null is empty. Arrow does not check UTF-8 as it reads: we do, all of it at once."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_string_view(column.type):
        column = column.cast(pyarrow.large_string())
    texts = column.cast(pyarrow.large_binary()).to_pylist()
    try:
        column.validate(full=True)
        found: Batch = [text or b"" for text in texts]
    except pyarrow.ArrowInvalid:
        found = [_checked(text or b"", f"{where}, row {first + i}") for i, text in enumerate(texts)]
    return [
        text
        if isinstance(text, Bad) or len(text) <= most_bytes
        else _too_long(text, most_bytes, f"{where}, row {first + i}")
        for i, text in enumerate(found)
    ]


def _checked(text: bytes, where: str) -> bytes | Bad:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return Bad(where, f"not valid UTF-8: {error.reason} at byte {error.start}")
    return text


def _too_long(text: bytes, most_bytes: int, where: str) -> Bad:
    return Bad(where, f"{len(text):,} bytes, more than corpus.max_document_bytes, {most_bytes:,}")


def _jsonl(path: str, column: str, _: object, most_bytes: int) -> Iterator[Batch]:
    def rows(given: int, again: bool) -> Iterator[Batch]:
        number, held, size = 0, Batch(), 0
        try:
            with _open(path) if again else with_retries(lambda: _open(path), path) as file:
                while line := file.readline(_LINE_BYTES):
                    number += 1
                    document = _parsed(line, column, f"{path}, line {number}", most_bytes)
                    if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                        document = Bad(f"{path}, line {number}", f"longer than {_LINE_BYTES:,} bytes")
                        while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                            pass
                    if number > given:
                        held.append(document)
                        size += len(line)
                    if len(held) == _ROWS or size > _BATCH_BYTES:
                        yield held
                        held, size = Batch(), 0
        except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
            if isinstance(error, OSError) and not (of_data(error) or isinstance(error, gzip.BadGzipFile)):
                raise
            held.append(Bad(f"{path}, after line {number}", f"broken off, the rest is lost: {error}"))
        if held:
            yield held

    yield from _resumed(rows, path, path)


def _parsed(line: bytes, column: str, where: str, most_bytes: int) -> bytes | Bad:
    """The text of one JSON line. orjson refuses lone surrogates, json reads them."""
    try:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = json.loads(line)
    except UnicodeDecodeError:
        return Bad(where, f"expected a JSON object with {column!r}, found no UTF-8")
    except (ValueError, RecursionError) as error:
        return Bad(where, f"expected a JSON object with {column!r}: {error!r}")
    if not isinstance(row, dict):
        return Bad(where, f"expected a JSON object with {column!r}, found {type(row).__name__}")
    if column not in row:
        return Bad(where, f"no {column!r}, which corpus.text_column names; there are {', '.join(row):.200}")
    text = row[column]
    if not isinstance(text, str):
        return Bad(where, f"{column!r} is {text!r:.100}, expected text")
    document = well_formed(text).encode()
    return document if len(document) <= most_bytes else _too_long(document, most_bytes, where)
