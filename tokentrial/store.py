"""The run folder: steps that are whole or absent, fingerprints, manifests, one writer, provenance, disk.

A step is a folder written to `<name>.partial`, renamed when whole, its `manifest.json` written last inside.
A step is done when its manifest carries the fingerprint asked for and every file it lists has its size, or was pruned:
weights that nothing still to do reads may be deleted, and the manifest then says so (`pruned`). A stage that needs them
later has them fetched from the trial's storage, or made again (`cell.run_cell`).
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
from collections.abc import Iterator, Sequence
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


def _files(folder: Path) -> tuple[str, dict[str, tuple[int, str]], list[str]]:
    """The fingerprint of a step, its files by name, bytes and sha256, and the names of those that were pruned."""
    path = folder / MANIFEST
    manifest = read_json(path, "fingerprint", "files")
    try:
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise TrialError(f"{path}: its files are not listed as bytes and sha256; delete it and run again") from None
    return manifest["fingerprint"], files, list(manifest.get("pruned", ()))


def is_done(folder: Path, wanted: str, *, whole: bool = False) -> bool:
    """Whether `folder` holds the result of the step with this fingerprint; with `whole`, what may be pruned too."""
    if not (folder / MANIFEST).exists():
        return False
    made, files, pruned = _files(folder)
    gone = () if whole else pruned
    return made == wanted and all(
        name in gone or ((folder / name).is_file() and (folder / name).stat().st_size == size)
        for name, (size, _) in files.items()
    )


def is_weights(name: str) -> bool:
    """Whether a file of a step may be pruned, and is fetched only when it is needed."""
    return name.endswith(".safetensors")


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
    number, named = (error.errno, Path(str(error.filename))) if isinstance(error, OSError) else (None, folder)
    where = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or _free(where) < _NOTHING:
        return f"{folder}: No space left on device; free some space or give output=OTHER_FOLDER"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error}; make it writable, or give output=OTHER_FOLDER"
    if number == errno.ENOTDIR or (number == errno.EEXIST and named.is_file()):
        return f"{named}: found a file, expected a folder; move it, or give another folder"
    if isinstance(error, MemoryError) or re.search("can't allocate memory|out of memory", str(error)):
        return f"{folder}: out of memory; give fewer workers=N, or a smaller pretrain.micro_batch or evaluate.batch"
    return None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def partial(folder: Path) -> Path:
    """Where a step is written until it is whole."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def step(folder: Path, wanted: str, begun: float | None = None, **record: Any) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it takes the place of `folder`, whole, and its manifest
    says how many seconds it took, from the block's begin or the `time.monotonic()` of `begun`: of a step that went on
    from a checkpoint, those of its last attempt.

    A folder of another fingerprint is replaced, nested steps with it: they were made from it.
    """
    begun = time.monotonic() if begun is None else begun
    made = partial(folder)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    yield made
    seal(made, wanted, **record, seconds=round(time.monotonic() - begun, 3))
    replace(made, folder)


def seal(folder: Path, wanted: str, **record: Any) -> None:
    """Write the manifest of a folder whose files are all there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:  # hashing lets the other threads run
        hashes = pool.map(file_hash, files)
        entries = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, hashes, strict=True)
        }
    write_json(folder / MANIFEST, {"fingerprint": wanted, **record, "files": entries, "provenance": provenance()})


def replace(made: Path, folder: Path) -> None:
    """Let a whole folder take the place of another."""
    if folder.exists():
        # renamed away before it is deleted, so that a kill leaves no half-deleted folder under the name
        doomed = folder.with_name(folder.name + ".old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        made.rename(folder)
        shutil.rmtree(doomed)
    else:
        made.rename(folder)


def prune(folder: Path, names: Sequence[str]) -> None:
    """Delete files of a finished step; its manifest says so first."""
    manifest = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, manifest | {"pruned": sorted({*manifest.get("pruned", ()), *names})})
    for name in names:
        (folder / name).unlink(missing_ok=True)


def verify(folder: Path) -> list[str]:
    """Names of the files of a step whose bytes no longer match its manifest."""
    _, files, pruned = _files(folder)
    return [
        name
        for name, (_, made) in files.items()
        if name not in pruned and (not (folder / name).is_file() or file_hash(folder / name) != made)
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
            f"{folder}: {what} needs {needed / 1e9:.3g} GB and a reserve of {reserve_gb:g} GB (disk_reserve_gb), "
            f"{free / 1e9:.3g} GB are free; free some space or give output=OTHER_FOLDER"
        )


def held_bytes(folder: Path) -> int:
    """Bytes on the disk of all files below a folder that others may be writing; a file of two names counts once."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                entry = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            found[entry.st_ino] = entry.st_blocks * 512
    return sum(found.values())


def need_within(folder: Path, needed: int, what: str, limit_gb: float | None) -> None:
    """Refuse before writing what would bring the run folder beyond its limit; None: there is none."""
    if limit_gb is not None and (held := held_bytes(folder)) + needed > limit_gb * 1e9:
        raise TrialError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, {held / 1e9:.2f} GB are held, and disk_limit_gb is "
            f"{limit_gb:g}; give more, fewer workers, or storage=PATH; what is done is kept"
        )


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible, told without importing torch (3.5 s)."""
    return Path("/proc/driver/nvidia/gpus").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def provenance() -> dict[str, Any]:
    """What made a result: time, versions, machine. Never part of a fingerprint."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds")} | _maker()


@cache
def _maker() -> dict[str, Any]:
    """This process's code and machine, of which 17 ms are reading the versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "versions": versions,
        "commit": _commit(),
    }


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
