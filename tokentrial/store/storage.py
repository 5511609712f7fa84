"""`storage`, the lasting copy of a run folder on any path that fsspec opens; the folder is the working copy.

A step stands there under the names it has in the folder. Its manifest is sent last and deleted first, so that a step is
whole there or absent; what comes from there is checked against its manifest, size and sha256, before it takes its
place, and a damaged step counts as absent: it is done again. Whose it is, and the small files between the steps, are
one object (`state.py`). One run at a time may use a storage.
"""

import math
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from tokentrial.errors import SettingsError
from tokentrial.store.disk import need_within, translate_os_errors
from tokentrial.store.files import file_hash, json_bytes, write_json
from tokentrial.store.folders import (
    MANIFEST,
    checked,
    is_done,
    is_usable,
    is_weights,
    lock,
    partial,
    read_manifest,
    replace,
)
from tokentrial.store.objects import NoObjects, Objects
from tokentrial.store.state import State
from tokentrial.trial.trial import Trial

_REPORT = ("trial.yaml", "comparison_report.json", "report.html", "report.md", "figures/*")


class Storage:
    """The storage of a trial; where it has none, nothing is sent and nothing is there. Raises TrialError where it fails
    again and again."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.folder = trial, trial.folder
        advice = f"; what is done is kept in {self.folder}: run the same command again when the storage answers"
        self.objects = Objects(trial.storage, advice) if trial.storage else NoObjects()
        self.state = State(self.objects, self.folder, trial.name)
        folder, stored_in = self.folder.resolve(), self.objects.folder
        if stored_in and (folder.is_relative_to(stored_in) or stored_in.is_relative_to(folder)):
            raise SettingsError(f"storage: {trial.storage} and output, {self.folder}, overlap; give another folder")

    def sync(self, folder: Path, wanted: str) -> None:
        """Copy a step that only one side has finished to the other; weights stay in the storage until needed."""
        if is_done(folder, wanted):
            self.send(folder)
        else:
            self.fetch(folder, wanted, weights=False)

    def holds(self, folder: Path, wanted: str) -> bool:
        """Whether a step stands there with all its weights."""
        stored = self.manifest(folder)
        return stored is not None and stored["fingerprint"] == wanted and not stored.get("pruned")

    def send(self, folder: Path) -> None:
        """Send a finished step, unless it is there. What was pruned here never takes the place of what is whole."""
        local, stored = read_manifest(folder), self.manifest(folder) or {"fingerprint": None, "files": {}}
        pruned, sizes = local.get("pruned", []), {name: entry["bytes"] for name, entry in local["files"].items()}
        is_same = stored["fingerprint"] == local["fingerprint"]
        if is_same and (pruned or (stored["files"] == local["files"] and not stored.get("pruned"))):
            return
        # first, so that a step that is being sent counts as absent until its manifest comes, the last of its files
        self.objects.delete(f"{self._name(folder)}/{MANIFEST}")
        names = [name for name in local["files"] if name not in pruned]
        for name in stored["files"]:
            if name not in names:
                self.objects.delete(f"{self._name(folder)}/{name}")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self._put(folder / name), names))
        # of a step whose manifest is damaged there, weights that were pruned here may be whole still: `fetch` checks
        # their hashes
        lacking = [name for name in pruned if self.objects.size(f"{self._name(folder)}/{name}") != sizes[name]]
        manifest = {key: value for key, value in local.items() if key != "pruned"}
        data = json_bytes(manifest | ({"pruned": lacking} if lacking else {}))
        self.objects.write(f"{self._name(folder)}/{MANIFEST}", data)

    def fetch(self, folder: Path, wanted: str, weights: bool = True) -> bool:
        """Bring a step of this fingerprint; without `weights` they are marked as pruned. Returns whether it came."""
        if (manifest := self.manifest(folder)) is None or manifest["fingerprint"] != wanted:
            return False
        files = manifest["files"]
        pruned = {*manifest.get("pruned", ()), *(name for name in files if not weights and is_weights(name))}
        names = [name for name in files if name not in pruned]
        # one fetch at a time on this machine: two cells that need the corpus would write one partial folder
        with translate_os_errors(self.folder), lock(self.folder, ".fetch", math.inf):
            if is_done(folder, wanted, whole=weights):  # another worker of this machine was faster
                return True
            needed = sum(files[name]["bytes"] for name in names)
            need_within(self.folder, needed, f"{self._name(folder)} of the storage", self.trial.disk_limit_gb)
            to = partial(folder)
            shutil.rmtree(to, ignore_errors=True)
            for path in {(to / name).parent for name in (MANIFEST, *names)}:
                path.mkdir(parents=True, exist_ok=True)
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
        self.send(newest)
        for name in self._below(newest.parent):
            if not (self.folder / name).exists():
                self.drop(self.folder / name)

    def fetch_checkpoints(self, folder: Path) -> None:
        """Bring the checkpoints below a folder that are not here, or are damaged here."""
        for name in self._below(folder):
            stored = self.manifest(self.folder / name)
            if stored and not is_usable(self.folder / name, stored["fingerprint"]):
                shutil.rmtree(self.folder / name, ignore_errors=True)  # a damaged file of the right size would stay
                self.fetch(self.folder / name, stored["fingerprint"])

    def drop(self, folder: Path) -> None:
        """Delete the steps below a folder there, manifests first."""
        for name in self._below(folder):
            self.objects.delete(f"{name}/{MANIFEST}")
        self.objects.delete_folder(self._name(folder))

    def has_begun(self) -> bool:
        """Whether any cell has left anything there, a checkpoint of its training at the least."""
        return any("/seed" in name for name in self.objects.find(""))

    def send_report(self) -> None:
        """Send trial and report, for whoever looks there."""
        for path in [path for name in _REPORT for path in sorted(self.folder.glob(name))]:
            self._put(path)

    def manifests(self, folders: Iterable[Path]) -> list[dict[str, Any] | None]:
        """The manifest of each of these steps there."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.manifest, folders))

    def manifest(self, folder: Path) -> dict[str, Any] | None:
        """The manifest of a step there; None where there is none or it is damaged."""
        name = f"{self._name(folder)}/{MANIFEST}"
        if (data := self.objects.read(name)) is None:
            return None
        try:
            return checked(orjson.loads(data), f"storage: {self.objects.url}/{name}")
        except ValueError:
            self._print_damaged(name)
            return None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _below(self, folder: Path) -> list[str]:
        """Names of the folders below a folder, itself among them, that hold a manifest there."""
        names = self.objects.find(self._name(folder))
        return [name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")]

    def _print_damaged(self, name: str) -> None:
        print(f"storage: {self.objects.url}/{name} is damaged and counts as absent", file=sys.stderr)

    def _get(self, name: str, to: Path, entry: dict[str, Any]) -> bool:
        """Whether a file came as its manifest says."""
        is_intact = self.objects.get(name, to, entry["bytes"]) and file_hash(to) == entry["sha256"]
        if not is_intact:
            self._print_damaged(name)
        return is_intact

    def _put(self, path: Path) -> None:
        self.objects.put(path, self._name(path))
