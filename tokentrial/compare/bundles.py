"""A bundle, a run folder's results in one zip file, opened for a comparison. Nothing in it is trusted.

The whole bundle is refused where any member's name leaves the folder, is a link, stands twice or is encrypted, where it
would unpack to more than a run's results can be, or where a hash differs. Only what a comparison reads is unpacked.
"""

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile, ZipInfo

import orjson

from tokentrial.compare.files import refuse
from tokentrial.errors import TrialError

HASHES = "hashes.json"  # of the bundle's own files under `bundle`, and of the run's steps under `run`
SUFFIX = ".zip"
# what a comparison reads, here and in compare/runs.py
READ = re.compile(
    r"trial\.yaml|declared\.json|comparison_report\.json"
    r"|[A-Za-z0-9_]+/seed[0-9]{1,9}/eval_(?:pretrain|sft|grpo)/(?:samples\.jsonl|heldout_text\.json)"
)
_MOST_FILES = 100_000
_MOST_BYTES = 2_000_000_000


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths with each bundle among them replaced by a folder of its results, which goes with the block."""
    with TemporaryDirectory(prefix="tokentrial-") as temporary:
        made = []
        for number, path in enumerate(paths):
            if path.suffix == SUFFIX and path.is_file():
                folder = Path(temporary) / str(number) / path.stem
                _unpack(path, folder)
                made.append(folder)
            else:
                made.append(path)
        yield made


def _unpack(path: Path, folder: Path) -> None:
    try:
        with ZipFile(path) as bundle:
            members = bundle.infolist()
            _check(path, members)
            hashes = _hashes(path, bundle)
            for member in members:
                if READ.fullmatch(member.filename):
                    data = _bytes(bundle, member)
                    if hashlib.sha256(data).hexdigest() != hashes.get(member.filename):
                        raise refuse(path, f"{member.filename}: its bytes differ from {HASHES}; get the bundle again")
                    file = folder / member.filename
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise refuse(path, f"cannot be read as a bundle ({error}); get it again, or make it anew") from None
    if not (folder / "trial.yaml").is_file():
        raise refuse(path, "no trial.yaml in it; expected what `tokentrial bundle OUT` writes")


def _check(path: Path, members: Sequence[ZipInfo]) -> None:
    """Refuse before anything is unpacked, by what the members say of themselves."""
    if len(members) > _MOST_FILES:
        raise refuse(path, f"{len(members)} files in it, expected at most {_MOST_FILES}; it is no bundle")
    total = sum(member.file_size for member in members)
    if total > _MOST_BYTES:
        raise refuse(path, f"it unpacks to {total / 1e9:.1f} GB, expected at most {_MOST_BYTES / 1e9:.0f}; not opened")
    names: set[str] = set()
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not _stays(member.filename) or kind not in (0, stat.S_IFREG):
            raise _refused(path, member, "a bundle holds plain files below its own folder")
        if member.filename in names:
            raise _refused(path, member, "each name stands once in a bundle")
        if member.flag_bits & 1:
            raise _refused(path, member, "a bundle is not encrypted")
        names.add(member.filename)


def _stays(name: str) -> bool:
    """Whether a name stays below the folder that it is put in, on any system."""
    inside = all(part not in ("", ".", "..") for part in name.split("/"))
    return inside and name.isprintable() and not set(name) & set("\\:")


def _bytes(bundle: ZipFile, member: ZipInfo) -> bytes:
    """A member's bytes, never more than it says: `ZipFile.read` would inflate all that is there before it looks."""
    with bundle.open(member) as file:
        return file.read(member.file_size + 1)


def _refused(path: Path, member: ZipInfo, expected: str) -> TrialError:
    return refuse(path, f"found {member.filename!r} in it, but {expected}; not opened")


def _hashes(path: Path, bundle: ZipFile) -> dict[str, str]:
    try:
        found = orjson.loads(_bytes(bundle, bundle.getinfo(HASHES)))["bundle"]
    except (KeyError, TypeError, orjson.JSONDecodeError):
        raise refuse(path, f"no {HASHES} that can be read; expected what `tokentrial bundle OUT` writes") from None
    if not isinstance(found, dict):
        raise refuse(path, f"{HASHES}: found {type(found).__name__} under `bundle`, expected a hash for each file")
    return found
