"""Steps: folders that are whole or absent, with a manifest of what they hold, and one writer at a time.

A step is a folder written to `<name>.partial`, renamed when whole, its `manifest.json` written last inside.
A step is done when its manifest carries the fingerprint asked for and every file it lists has its size, or was pruned:
weights that nothing still to do reads may be deleted, and the manifest then says so (`pruned`). A stage that needs them
later has them fetched from the trial's storage, or made again (`cell.run_cell`).
"""

import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokentrial.errors import TrialError
from tokentrial.store.files import file_hash, read_json, write_json
from tokentrial.store.provenance import provenance

MANIFEST = "manifest.json"
_LOCK_POLL_S = 0.2


def is_done(folder: Path, wanted: str, *, whole: bool = False) -> bool:
    """Whether `folder` holds the result of the step with this fingerprint; with `whole`, what may be pruned too."""
    if not (folder / MANIFEST).exists():
        return False
    fingerprint, files, pruned = _files(folder)
    may_lack = () if whole else pruned
    return fingerprint == wanted and all(
        name in may_lack or ((folder / name).is_file() and (folder / name).stat().st_size == size)
        for name, (size, _) in files.items()
    )


def _files(folder: Path) -> tuple[str, dict[str, tuple[int, str]], list[str]]:
    """The fingerprint of a step, its files by name, bytes and sha256, and the names of those that were pruned."""
    path = folder / MANIFEST
    manifest = read_json(path, "fingerprint", "files")
    try:
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise TrialError(f"{path}: its files are not listed as bytes and sha256; delete it and run again") from None
    return manifest["fingerprint"], files, list(manifest.get("pruned", ()))


def step_fingerprint(folder: Path) -> str:
    """The fingerprint that a finished step was made with."""
    return _files(folder)[0]


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a result with all its files, whatever it was made from."""
    return (folder / MANIFEST).exists() and is_done(folder, step_fingerprint(folder))


def is_weights(name: str) -> bool:
    """Whether a file of a step may be pruned, and is fetched only when it is needed."""
    return name.endswith(".safetensors")


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
    partial_folder = partial(folder)
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    yield partial_folder
    # last, and renamed after: whenever a kill comes, a folder with a manifest is whole
    write_manifest(partial_folder, wanted, **record, seconds=round(time.monotonic() - begun, 3))
    replace(partial_folder, folder)


def write_manifest(folder: Path, wanted: str, **record: Any) -> None:
    """Write the manifest of a folder whose files are all there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:  # hashing lets the other threads run
        hashes = pool.map(file_hash, files)
        entries = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, hashes, strict=True)
        }
    write_json(folder / MANIFEST, {"fingerprint": wanted, **record, "files": entries, "provenance": provenance()})


def replace(partial_folder: Path, folder: Path) -> None:
    """Let a whole folder take the place of another."""
    if folder.exists():
        # renamed away before it is deleted, so that a kill leaves no half-deleted folder under the name
        replaced = folder.with_name(folder.name + ".old.partial")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        partial_folder.rename(folder)
        shutil.rmtree(replaced)
    else:
        partial_folder.rename(folder)


def prune(folder: Path, names: Sequence[str]) -> None:
    """Delete files of a finished step; its manifest says so first."""
    manifest = read_json(folder / MANIFEST)
    # first: a kill in between leaves files that nobody misses, and not a step that looks damaged
    write_json(folder / MANIFEST, manifest | {"pruned": sorted({*manifest.get("pruned", ()), *names})})
    for name in names:
        (folder / name).unlink(missing_ok=True)


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of a step whose bytes no longer match its manifest."""
    _, files, pruned = _files(folder)
    return [
        name
        for name, (_, digest) in files.items()
        if name not in pruned and (not (folder / name).is_file() or file_hash(folder / name) != digest)
    ]


def require_intact(folder: Path) -> None:
    """Raises TrialError where the bytes of a step no longer match its manifest, before anything is made from it."""
    for name in damaged_files(folder):
        raise TrialError(
            f"{folder / name}: its bytes differ from its manifest; delete {folder} and run the same command again"
        )


def is_held(folder: Path, name: str = ".lock") -> bool:
    """Whether some process holds the folder's lock."""
    if not (folder / name).exists():
        return False
    with (folder / name).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def lock(folder: Path, name: str = ".lock", patience_s: float = 0.0) -> Iterator[None]:
    """Hold a folder, or what the name stands for in it, for one writer; the lock is the kernel's and dies with the
    process. Raises TrialError where another still holds it after so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_s
    with (folder / name).open("a") as file:  # never deleted: a second writer might lock a file that has lost its name
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TrialError(
                        f"{folder}: another tokentrial writes here; wait for it, or give output=OTHER_FOLDER"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
