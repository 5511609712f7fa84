"""Steps: folders that are whole or absent, with a manifest of what they hold, and one writer at a time.

A step is a folder written to `<name>.partial`, renamed when whole, its `manifest.json` written last inside.
A step is done when its manifest carries the fingerprint asked for and every file it lists has its size, or was pruned:
weights that nothing still to do reads may be deleted, and the manifest then says so (`pruned`). A stage that needs them
later has them fetched from the trial's storage, or made again (`run/cells.py`).
"""

import errno
import fcntl
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tokentrial.errors import TrialError
from tokentrial.store.files import PARTIAL, REPLACED, file_hash, is_as_sealed, link, read_json, sealed, write_json
from tokentrial.store.provenance import provenance

MANIFEST = "manifest.json"
_LOCK_POLL_S = 0.2
# of a file system without locks: Lustre mounted without `flock`, NFS without its lock service, some of FUSE
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a step. Raises TrialError if it is invalid, or names a file outside of its folder."""
    path = folder / MANIFEST
    try:
        return checked(read_json(path, "fingerprint", "files"), str(path))
    except ValueError as error:
        raise TrialError(f"{path}: {error}; delete it and run again") from None


def checked(manifest: Any, path: str) -> dict[str, Any]:
    """The manifest that was read from `path`. Raises ValueError where it is none, and TrialError where it names a file
    outside of its folder: no manifest of ours does."""
    try:
        files = manifest["files"]
        names = [*files, *manifest.get("pruned", ())]
        texts = [manifest["fingerprint"], *names, *(entry["sha256"] for entry in files.values())]
        is_sound = all(isinstance(text, str) for text in texts)
        is_sound = is_sound and all(type(entry["bytes"]) is int for entry in files.values())
    except (KeyError, TypeError, AttributeError):
        is_sound = False
    if not is_sound:
        raise ValueError("its files are not listed as bytes and sha256")
    if not is_as_sealed(manifest):
        raise ValueError("its content does not match its sha256")
    for name in names:
        if not is_inside(name):
            raise TrialError(f"{path}: names the file {name!r}, outside of its folder; not written by tokentrial")
    return dict(manifest)


def is_inside(name: str) -> bool:
    """Whether a name stays within the folder that it is below, whoever wrote it."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and not set(name) & {"\\", "\0"}


def is_done(folder: Path, wanted: str, *, whole: bool = False) -> bool:
    """Whether `folder` holds the result of the step with this fingerprint; with `whole`, what may be pruned too."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder)
    may_lack = () if whole else manifest.get("pruned", ())
    return bool(manifest["fingerprint"] == wanted) and all(
        name in may_lack or ((folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"])
        for name, entry in manifest["files"].items()
    )


def is_usable(folder: Path, wanted: str) -> bool:
    """Whether a checkpoint is as it was written: `is_done`, with every byte. A damaged one is said, and passed over."""
    try:
        damaged = damaged_files(folder) if is_done(folder, wanted) else None
    except TrialError:
        damaged = [MANIFEST]
    if damaged:
        print(f"{folder / damaged[0]}: damaged; this checkpoint is not used", file=sys.stderr)
    return damaged == []


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a result with all its files, whatever it was made from."""
    return (folder / MANIFEST).exists() and is_done(folder, read_manifest(folder)["fingerprint"])


def is_weights(name: str) -> bool:
    """Whether a file of a step may be pruned, and is fetched only when it is needed."""
    return name.endswith(".safetensors")


def partial(folder: Path) -> Path:
    """Where a step is written until it is whole."""
    return folder.with_name(folder.name + PARTIAL)


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
    manifest = {"fingerprint": wanted, **record, "files": entries, "provenance": provenance()}
    write_json(folder / MANIFEST, sealed(manifest))


def place(partial_folder: Path, folder: Path, *accepted: int) -> bool:
    """Let a folder take a free name; False where another stands there. One call, which of two that come at once, on
    this machine or another, fails for the second. Errors of the `accepted` numbers are a False as well."""
    try:
        partial_folder.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, *accepted):
            raise
        return False
    return True


def replace(partial_folder: Path, folder: Path) -> None:
    """Let a whole folder take the place of another."""
    while not place(partial_folder, folder):
        # renamed away before it is deleted, so that a kill leaves no half-deleted folder under the name; to a name of
        # its own, as what was renamed earlier may still be there
        replaced = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{REPLACED}")
        if place(folder, replaced, errno.ENOENT):  # another may have been faster
            shutil.rmtree(replaced, ignore_errors=True)


def link_folder(folder: Path, to: Path) -> None:
    """A finished folder under another name, whole or not at all; its files are the same ones."""
    shutil.rmtree(partial(to), ignore_errors=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = partial(to) / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        link(path, target)
    replace(partial(to), to)


def prune(folder: Path, names: Sequence[str]) -> None:
    """Delete files of a finished step; its manifest says so first."""
    manifest = read_manifest(folder)
    # first: a kill in between leaves files that nobody misses, and not a step that looks damaged
    write_json(folder / MANIFEST, manifest | {"pruned": sorted({*manifest.get("pruned", ()), *names})})
    for name in names:
        (folder / name).unlink(missing_ok=True)


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of a step whose bytes no longer match its manifest."""
    manifest = read_manifest(folder)
    return [
        name
        for name, entry in manifest["files"].items()
        if name not in manifest.get("pruned", ())
        and (not (folder / name).is_file() or file_hash(folder / name) != entry["sha256"])
    ]


def require_intact(folder: Path) -> None:
    """Raises TrialError where the bytes of a step no longer match its manifest, before anything is made from it."""
    for name in damaged_files(folder):
        raise TrialError(
            f"{folder / name}: its bytes differ from its manifest; delete {folder} and run the same command again"
        )


def read_intact_json(folder: Path, name: str) -> Any:
    """A JSON file of a finished step, whose other files may be gone. Raises TrialError where its bytes no longer match
    the manifest."""
    entry = read_manifest(folder)["files"].get(name)
    if entry is None or not (folder / name).is_file() or file_hash(folder / name) != entry["sha256"]:
        raise TrialError(
            f"{folder / name}: its bytes differ from its manifest; put it back, or delete {folder} and run the trial, "
            "which does this stage again"
        )
    return read_json(folder / name)


def is_held(folder: Path, name: str = ".lock") -> bool:
    """Whether some process holds the folder's lock."""
    try:
        with (folder / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_NO_LOCKS):
            raise
    return False


@contextmanager
def lock(folder: Path, name: str = ".lock", patience_s: float = 2 * _LOCK_POLL_S) -> Iterator[None]:
    """Hold a folder, or what the name stands for in it, for one writer. Raises TrialError where another still holds it
    after so many seconds, by default longer than `is_held` takes to look; and where the file system has no locks, since
    a file that stood for one would outlive a machine that is lost."""
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
                        f"{folder}: in use by another tokentrial; wait for it, or give output=OTHER_FOLDER"
                    ) from None
                time.sleep(_LOCK_POLL_S)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise TrialError(
                    f"{folder}: its file system has no locks ({error.strerror}), so that nothing would keep two runs "
                    f"apart; mount it with them, or give output=FOLDER on a disk of this machine and storage={folder}"
                ) from None
        yield
