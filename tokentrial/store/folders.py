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
_LOCKED_EVERY_S = 0.2


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


def _files(folder: Path) -> tuple[str, dict[str, tuple[int, str]], list[str]]:
    """The fingerprint of a step, its files by name, bytes and sha256, and the names of those that were pruned."""
    path = folder / MANIFEST
    manifest = read_json(path, "fingerprint", "files")
    try:
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise TrialError(f"{path}: its files are not listed as bytes and sha256; delete it and run again") from None
    return manifest["fingerprint"], files, list(manifest.get("pruned", ()))


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a result with all its files, whatever it was made from."""
    return (folder / MANIFEST).exists() and is_done(folder, _files(folder)[0])


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
    made = partial(folder)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    yield made
    write_manifest(made, wanted, **record, seconds=round(time.monotonic() - begun, 3))
    replace(made, folder)


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


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of a step whose bytes no longer match its manifest."""
    _, files, pruned = _files(folder)
    return [
        name
        for name, (_, made) in files.items()
        if name not in pruned and (not (folder / name).is_file() or file_hash(folder / name) != made)
    ]


def require_intact(folder: Path) -> None:
    """Raises TrialError where the bytes of a step no longer match its manifest, before anything is made from it."""
    for name in damaged_files(folder):
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
