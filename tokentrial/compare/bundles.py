"""A bundle, a run folder's results in one zip file, unpacked for a comparison. Nothing in it is trusted.

The whole bundle is refused where any member's name leaves the folder, is a link, occurs twice or is encrypted, where it
would unpack to more than a run's results can be, or where a hash differs. Only what a comparison reads is unpacked.
"""

import hashlib
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile, ZipInfo

import orjson

from tokentrial.compare.files import file_error, validate

HASHES = "hashes.json"  # of the bundle's own files under `bundle`, and of the run's steps under `run`
# what a comparison reads, in runs.py and run_report.py
_FILES = r"(?:step_[0-9]{6,12}/)?(?:samples\.jsonl|heldout_text\.json)"
_OF_A_CELL = rf"[A-Za-z0-9_]+/seed[0-9]{{1,10}}/eval_[A-Za-z0-9_]+/{_FILES}"
_NEEDED = re.compile(rf"trial\.yaml|comparison_report\.json|{_OF_A_CELL}")
_MAX_FILES = 100_000
_MAX_BYTES = 2_000_000_000
_EXPECTED = "expected what `tokentrial bundle OUT` writes"


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths with each bundle among them replaced by a temporary folder of its results."""
    with TemporaryDirectory(prefix="tokentrial-") as temporary:
        folders = list(paths)
        for number, path in enumerate(paths):
            if path.suffix == ".zip" and path.is_file():
                folders[number] = Path(temporary) / str(number) / path.stem
                _unpack(path, folders[number])
        yield folders


def _unpack(path: Path, folder: Path) -> None:
    try:
        with ZipFile(path) as bundle:
            members = bundle.infolist()
            _check(path, members)
            hashes = _hashes(path, bundle)
            for member in members:
                if _NEEDED.fullmatch(member.filename):
                    data = _read(bundle, member)
                    if hashlib.sha256(data).hexdigest() != hashes.get(member.filename):
                        problem = f"{member.filename}: its bytes differ from {HASHES}; get the bundle again"
                        raise file_error(path, problem)
                    file = folder / member.filename
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise file_error(path, f"cannot be read as a bundle ({error}); get it again, or write it again") from None
    if not (folder / "trial.yaml").is_file():
        raise file_error(path, f"no trial.yaml in it; {_EXPECTED}")


def _check(path: Path, members: Sequence[ZipInfo]) -> None:
    """Refuse before anything is unpacked, by what the zip's directory lists."""
    size = sum(member.file_size for member in members)
    if len(members) > _MAX_FILES or size > _MAX_BYTES:
        size_words, limits = f"{len(members)} files of {size:,} bytes", f"{_MAX_FILES} files and {_MAX_BYTES:,} bytes"
        raise file_error(path, f"found {size_words} in it, expected at most {limits}; not opened")
    occurrences = Counter(member.filename for member in members)
    for member in members:
        is_file = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
        encrypted = member.flag_bits & 1
        if not is_file or encrypted or not _stays_inside(member.filename) or occurrences[member.filename] > 1:
            expected = "plain files below the bundle's own folder, each once, not encrypted"
            raise file_error(path, f"found {member.filename!r} in it, expected {expected}; not opened")


def _stays_inside(name: str) -> bool:
    """Whether a name stays below the folder that it is written to, on any system."""
    no_parent = all(part not in ("", ".", "..") for part in name.split("/"))
    return no_parent and name.isprintable() and not set(name) & set("\\:")


def _read(bundle: ZipFile, member: ZipInfo) -> bytes:
    # never more than the size that was checked: `ZipFile.read` would inflate a bomb whole before it looks at the size
    with bundle.open(member) as file:
        return file.read(member.file_size + 1)


def _hashes(path: Path, bundle: ZipFile) -> dict[str, str]:
    try:
        content = orjson.loads(_read(bundle, bundle.getinfo(HASHES)))["bundle"]
    except (KeyError, TypeError, orjson.JSONDecodeError):
        raise file_error(path, f"no readable {HASHES}; {_EXPECTED}") from None
    return validate(path, dict[str, str], content, f"{HASHES}: ")
