"""The run folder: steps that are whole or absent, fingerprints, manifests, one writer, provenance, disk.

A step is a folder written to `<name>.partial`, renamed when whole, its `manifest.json` written last inside.
A step is done when its manifest carries the fingerprint asked for and every file it lists has its size.
"""

import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from tokentrial.errors import TrialError

MANIFEST = "manifest.json"
_LOCKED_EVERY_S = 0.2
_NOTHING = 100_000  # bytes free: a file that failed may have left so many
_PACKAGES = ("tokentrial", "torch", "numpy", "transformers", "tokenizers", "tiktoken", "scipy")


def canonical(value: Any) -> bytes:
    """JSON bytes that do not depend on the order of keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def fingerprint(step: str, version: int, /, **inputs: Any) -> str:
    """Name of a step's result: its settings, its inputs' fingerprints, and a version bumped by hand."""
    return hashlib.sha256(canonical([step, version, inputs])).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(path: Path, to: Path) -> None:
    """The same file under another name, so that a kill loses nothing; a copy where the disk knows no links."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity become null."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file, an object with `keys` where any are given; the error names the file."""
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise TrialError(f"{path}: not found") from None
    except orjson.JSONDecodeError as error:
        raise TrialError(f"{path}: not valid JSON ({error}); delete it and run again") from None
    if keys and not (isinstance(value, dict) and value.keys() >= {*keys}):
        raise TrialError(f"{path}: expected an object with {', '.join(keys)}; delete it and run again")
    return value


def _files(folder: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    """The fingerprint of a step, and its files by name: bytes and sha256."""
    path = folder / MANIFEST
    manifest = read_json(path, "fingerprint", "files")
    try:
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise TrialError(f"{path}: its files are not listed as bytes and sha256; delete it and run again") from None
    return manifest["fingerprint"], files


def is_done(folder: Path, wanted: str) -> bool:
    """Whether `folder` holds the whole result of the step with this fingerprint."""
    if not (folder / MANIFEST).exists():
        return False
    made, files = _files(folder)
    return made == wanted and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, (size, _) in files.items()
    )


@contextmanager
def machine_errors(folder: Path) -> Iterator[None]:
    """Within the block a full or unwritable disk and a lack of memory are a TrialError that says what to do; what was
    done before is kept."""
    try:
        yield
    except TrialError:
        raise
    except Exception as error:
        if (fault := _fault(error, folder)) is None:
            raise
        raise TrialError(f"{fault}; then run the same command again: what is done is kept") from error


def _fault(error: Exception, folder: Path) -> str | None:
    """What of the machine an error is of, and what to do about it; None where it is of something else. safetensors and
    torch have errors of their own for a full disk."""
    number = error.errno if isinstance(error, OSError) else None
    where = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or _free(where) < _NOTHING:
        return f"{folder}: No space left on device; free some space or give output=OTHER_FOLDER"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error}; make it writable, or give output=OTHER_FOLDER"
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        return f"{folder}: out of memory; give fewer workers=N, or a smaller pretrain.micro_batch or evaluate.batch"
    return None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def partial(folder: Path) -> Path:
    """Where a step is written until it is whole."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def step(folder: Path, wanted: str, **record: Any) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it takes the place of `folder`, whole.

    A folder of another fingerprint is replaced, nested steps with it: they were made from it.
    """
    made = partial(folder)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    yield made
    files = sorted(path for path in made.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:  # hashing lets the other threads run
        hashes = pool.map(file_hash, files)
        entries = {
            str(path.relative_to(made)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, hashes, strict=True)
        }
    write_json(made / MANIFEST, {"fingerprint": wanted, **record, "files": entries, "provenance": provenance()})
    if folder.exists():
        # renamed away before it is deleted, so that a kill leaves no half-deleted folder under the name
        doomed = folder.with_name(folder.name + ".old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        made.rename(folder)
        shutil.rmtree(doomed)
    else:
        made.rename(folder)


def verify(folder: Path) -> list[str]:
    """Names of the files of a step whose bytes no longer match its manifest."""
    _, files = _files(folder)
    return [
        name for name, (_, made) in files.items() if not (folder / name).is_file() or file_hash(folder / name) != made
    ]


def intact(folder: Path) -> None:
    """Raises TrialError where the bytes of a step no longer match its manifest, before anything is made from it."""
    for name in verify(folder):
        raise TrialError(
            f"{folder / name}: its bytes differ from its manifest; delete {folder} and run the same command again"
        )


@contextmanager
def lock(folder: Path, name: str = ".lock", patience_s: float = 0.0) -> Iterator[None]:
    """Hold a folder, or what the name stands for in it, for one writer; the lock is the kernel's and dies with the
    process. Raises TrialError where another still holds it after so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_s
    with (folder / name).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TrialError(
                        f"{folder}: another tokentrial writes here; wait for it, or give output=OTHER_FOLDER"
                    ) from None
                time.sleep(_LOCKED_EVERY_S)
        yield


def need_disk(folder: Path, needed: int, what: str, reserve_gb: float) -> None:
    """Refuse before writing when `needed` bytes and a reserve do not fit on the folder's disk."""
    folder.mkdir(parents=True, exist_ok=True)
    free = _free(folder)
    if free < needed + reserve_gb * 1e9:
        raise TrialError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB and a reserve of {reserve_gb:g} GB (disk_reserve_gb), "
            f"{free / 1e9:.2f} GB are free; free some space or give output=OTHER_FOLDER"
        )


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible, told without importing torch (3.5 s)."""
    return Path("/proc/driver/nvidia/gpus").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def provenance() -> dict[str, Any]:
    """What made a result: time, versions, machine. Never part of a fingerprint."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "versions": versions,
        "commit": _commit(),
    }


@cache
def _commit() -> str | None:
    """The git commit of this package's checkout, `-dirty` where files differ from it; None where it is no checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None  # installed, perhaps below somebody else's repository
    words = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here
    return told.stdout.strip() or None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
