"""`storage`, the lasting copy of a run folder on any path that fsspec opens; the folder is the working copy.

A step stands there under the names it has in the folder. Its manifest is sent last and deleted first, so that a step is
whole there or absent; what comes from there is checked against its manifest, size and sha256, before it takes its
place, and a damaged step counts as absent: it is done again. The small files between the steps (what was declared and
decided, ...) are one object, `state.json`, with a hash of its own. One run at a time may use a storage.
"""

import hashlib
import math
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import orjson
import yaml

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.disk import need_within
from tokentrial.store.files import canonical, file_hash, read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST, is_done, is_weights, lock, partial, replace
from tokentrial.store.network import is_transient_io
from tokentrial.trial.trial import Trial

T = TypeVar("T")
STATE = "state.json"
_STATE_FILES = (
    "sources.json",
    "declared.json",
    "grpo_decision.json",
    *(f"corpus/{n}.json" for n in ("exposure", "audit", "meta")),
)
_REPORT = ("comparison_report.json", "report.html", "report.md", "figures/*")
_WAITS_S = 0.5, 2.0, 5.0  # a stopped machine gives 30


class Storage:
    """The storage of a trial; where it has none, nothing is sent and nothing is there. Raises TrialError where it fails
    again and again."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.folder, self.url = trial, trial.folder, trial.storage
        if self.url is None:
            return
        import fsspec

        local = fsspec.utils.get_protocol(self.url) in ("file", "local")
        try:
            self.system, self.root = fsspec.core.url_to_fs(self.url, **({"auto_mkdir": True} if local else {}))
        except (ImportError, ValueError) as error:
            raise SettingsError(f"storage: {self.url}: {error}") from None
        folder, root = self.folder.resolve(), Path(self.root).resolve()
        if local and (folder.is_relative_to(root) or root.is_relative_to(folder)):
            raise SettingsError(
                f"storage: {self.url} and output, {self.folder}, lie in each other; give another folder"
            )

    def open(self) -> None:
        """Refuse the storage of another trial; bring the small files that the folder lacks."""
        if self.url is None:
            return
        data = self._read("trial.yaml")
        try:
            name = self.trial.name if data is None else yaml.safe_load(data)["name"]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
            raise TrialError(f"storage: {self.url}/trial.yaml: not a trial; give another storage") from None
        if name != self.trial.name:
            raise TrialError(f"storage: {self.url} is of the trial {name!r}, this is {self.trial.name!r}; give another")
        self.fetch_state()

    def sync(self, folder: Path, wanted: str) -> None:
        """Bring a step that is finished on one side alone to the other; weights stay there until they are needed."""
        if self.url is None:
            return
        if is_done(folder, wanted):
            self.send(folder)
        else:
            self.fetch(folder, wanted, weights=False)

    def holds(self, folder: Path, wanted: str) -> bool:
        """Whether a step stands there with all its weights."""
        stored = None if self.url is None else self.manifest(folder)
        return stored is not None and stored["fingerprint"] == wanted and not stored.get("pruned")

    def send(self, folder: Path) -> None:
        """Send a finished step, unless it is there. What was pruned here never takes the place of what is whole."""
        if self.url is None:
            return
        local, stored = read_json(folder / MANIFEST), self.manifest(folder) or {"fingerprint": None, "files": {}}
        pruned = local.get("pruned", [])
        is_same = stored["fingerprint"] == local["fingerprint"]
        if is_same and (pruned or (stored["files"] == local["files"] and not stored.get("pruned"))):
            return
        # first, so that a step that is being sent counts as absent until its manifest comes, the last of its files
        self._delete(f"{self._name(folder)}/{MANIFEST}")
        names = [name for name in local["files"] if name not in pruned]
        for name in stored["files"]:
            if name not in names:
                self._delete(f"{self._name(folder)}/{name}")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self._put(folder / name), names))
        self._write(f"{self._name(folder)}/{MANIFEST}", (folder / MANIFEST).read_bytes())

    def fetch(self, folder: Path, wanted: str, weights: bool = True) -> bool:
        """Bring a step of this fingerprint; without `weights` they are marked as pruned. Returns whether it came."""
        if self.url is None or (manifest := self.manifest(folder)) is None or manifest["fingerprint"] != wanted:
            return False
        files = manifest["files"]
        pruned = {*manifest.get("pruned", ()), *(name for name in files if not weights and is_weights(name))}
        names = [name for name in files if name not in pruned]
        # one fetch at a time on this machine: two cells that need the corpus would write one partial folder
        with lock(self.folder, ".fetch", math.inf):
            if is_done(folder, wanted, whole=weights):  # another worker of this machine was faster
                return True
            needed = sum(files[name]["bytes"] for name in names)
            need_within(self.folder, needed, f"{self._name(folder)} of the storage", self.trial.disk_limit_gb)
            to = partial(folder)
            shutil.rmtree(to, ignore_errors=True)
            with ThreadPoolExecutor(8) as pool:
                whole = pool.map(lambda name: self._get(f"{self._name(folder)}/{name}", to / name, files[name]), names)
                if not all(list(whole)):
                    shutil.rmtree(to, ignore_errors=True)
                    return False
            write_json(to / MANIFEST, manifest | ({"pruned": sorted(pruned)} if pruned else {}))
            replace(to, folder)
        return True

    def send_checkpoint(self, newest: Path) -> None:
        """Send a checkpoint; those beside it that were pruned here are then deleted there."""
        if self.url is None:
            return
        self.send(newest)
        for name in self._below(newest.parent):
            if not (self.folder / name).exists():
                self.drop(self.folder / name)

    def fetch_checkpoints(self, folder: Path) -> None:
        """Bring the checkpoints below a folder that are not here."""
        if self.url is None:
            return
        for name in self._below(folder):
            stored = self.manifest(self.folder / name)
            if stored and not is_done(self.folder / name, stored["fingerprint"]):
                self.fetch(self.folder / name, stored["fingerprint"])

    def drop(self, folder: Path) -> None:
        """Delete the steps below a folder there, manifests first."""
        if self.url is None:
            return
        for name in self._below(folder):
            self._delete(f"{name}/{MANIFEST}")
        self._if_present(lambda: self.system.rm(f"{self.root}/{self._name(folder)}", recursive=True))

    def send_state(self) -> None:
        """Send the small files, in one object."""
        if self.url is None:
            return
        files = {name: (self.folder / name).read_text() for name in _STATE_FILES if (self.folder / name).exists()}
        data = canonical({"sha256": hashlib.sha256(canonical(files)).hexdigest(), "files": files})
        if self._read(STATE) != data:
            self._write(STATE, data)

    def fetch_state(self) -> None:
        """Bring the small files that the folder lacks. Raises TrialError where they are damaged: they say what was
        declared."""
        if self.url is None or (data := self._read(STATE)) is None:
            return
        try:
            state = orjson.loads(data)
            files, sound = state["files"], state["sha256"] == hashlib.sha256(canonical(state["files"])).hexdigest()
        except (orjson.JSONDecodeError, KeyError, TypeError):
            sound = False
        if not sound:
            raise TrialError(f"storage: {self.url}/{STATE} is damaged; put back a copy of it, or give another storage")
        for name in _STATE_FILES:
            if name in files and not (self.folder / name).exists():
                write_bytes(self.folder / name, files[name].encode())

    def send_report(self) -> None:
        """Send trial and report, for whoever looks there."""
        if self.url is not None:
            for path in [path for name in ("trial.yaml", *_REPORT) for path in sorted(self.folder.glob(name))]:
                self._put(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _below(self, folder: Path) -> list[str]:
        """Names of the folders below a folder, itself among them, that hold a manifest there."""
        self.system.invalidate_cache()
        found = self._if_present(lambda: self.system.find(f"{self.root}/{self._name(folder)}")) or []
        names = [path[len(self.root) :].strip("/") for path in found]
        return [_safe(name.removesuffix(f"/{MANIFEST}")) for name in names if name.endswith(f"/{MANIFEST}")]

    def manifest(self, folder: Path) -> dict[str, Any] | None:
        """The manifest of a step there; None where there is none or it is damaged."""
        if self.url is None:
            return None
        name = f"{self._name(folder)}/{MANIFEST}"
        data = self._read(name)
        if data is None:
            return None
        try:
            manifest = orjson.loads(data)
            listed = [manifest["fingerprint"], *manifest.get("pruned", ())]
            listed += [text for name, entry in manifest["files"].items() for text in (name, entry["sha256"])]
            sound = all(isinstance(text, str) for text in listed)
            sound = sound and all(type(entry["bytes"]) is int for entry in manifest["files"].values())
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            self._damaged(name)
            return None
        for file in manifest["files"]:
            _safe(file)
        return dict(manifest)

    def _damaged(self, name: str) -> None:
        print(f"storage: {self.url}/{name} is damaged: it counts as absent, its step is done again", file=sys.stderr)

    def _get(self, name: str, to: Path, entry: dict[str, Any]) -> bool:
        """Whether a file came as its manifest says."""
        path = f"{self.root}/{name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        size = self._if_present(lambda: self.system.info(path)["size"])
        if size == entry["bytes"]:
            self._if_present(lambda: self.system.get_file(path, str(to)))
            if to.is_file() and file_hash(to) == entry["sha256"]:
                return True
        self._damaged(name)
        return False

    def _put(self, path: Path) -> None:
        self._retried(lambda: self.system.put_file(str(path), f"{self.root}/{self._name(path)}"))

    def _write(self, name: str, data: bytes) -> None:
        """A small object, whole or not at all where the file system can rename."""
        path = f"{self.root}/{name}"
        self._retried(lambda: self.system.pipe_file(f"{path}.partial", data))
        self._retried(lambda: self.system.mv(f"{path}.partial", path))

    def _read(self, name: str) -> bytes | None:
        return self._if_present(lambda: bytes(self.system.cat_file(f"{self.root}/{name}")))

    def _delete(self, name: str) -> None:
        self._if_present(lambda: self.system.rm_file(f"{self.root}/{name}"))

    def _if_present(self, work: Callable[[], T]) -> T | None:
        def tried() -> T | None:
            try:
                return work()
            except FileNotFoundError:
                return None

        return self._retried(tried)

    def _retried(self, work: Callable[[], T]) -> T:
        """The result of `work`, tried again with growing waits while disk or network fail."""
        for wait in (*_WAITS_S, None):
            try:
                return work()
            except Exception as error:
                if not is_transient_io(error):
                    raise
                if wait is None:
                    raise TrialError(
                        f"storage: {self.url}: {type(error).__name__}: {error}; what is done is kept in {self.folder}: "
                        "run the same command again when the storage answers"
                    ) from error
                time.sleep(wait)
        raise AssertionError


def _safe(name: str) -> str:
    """A name that stays within its folder, whatever a manifest says."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name:
        raise TrialError(f"storage: a manifest names the file {name!r}, outside of its folder; the storage is not ours")
    return name
