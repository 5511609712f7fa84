"""`state.json` of a storage: whose it is, and the small files between the steps (what was declared and decided, ...),
one object with a hash of its own.

Two machines may have gone on from one storage. `.storage.json` in the run folder holds the hashes of what folder and
storage last had in common, and of what was being brought: the side that is neither is newer, and is taken to the other.
Where both decided something since, the run is refused; of the rest the storage's stays, which its corpus was made from.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import orjson

from tokentrial.errors import TrialError
from tokentrial.store.files import canonical, read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST
from tokentrial.store.objects import Objects

STATE = "state.json"
_HISTORY = ".storage.json"
_DECISIONS = ("declared.json", "grpo_decision.json", "tuned.json")
_FILES = (
    *_DECISIONS,
    "sources.json",
    "inputs.json",
    "start.json",
    *(f"corpus/{name}.json" for name in ("bytes", "exposure", "audit", "meta")),
)


class State:
    """The small files of a run folder, here and in its storage. Raises TrialError where the storage is another trial's,
    and where the decisions of folder and storage differ."""

    def __init__(self, objects: Objects, folder: Path, trial: str) -> None:
        self.objects, self.folder, self.trial = objects, folder, trial

    def claim(self) -> None:
        """Make a storage that is nobody's this trial's; send the small files."""
        self.objects.create(STATE, self._packed({}))
        self.send()  # reads it: of two trials that came at once one is refused

    def send(self) -> None:
        """Send what changed here; what is newer there stays."""
        local, remote, newer = self._compare()
        merged = remote | {name: text for name, text in local.items() if name not in newer}
        if merged != remote:
            self.objects.write(STATE, self._packed(merged))
        self._remember({name: text for name, text in merged.items() if name not in newer})

    def fetch(self, changed: bool = False) -> None:
        """Bring what the folder lacks; with `changed`, as a run begins, also what is newer there."""
        local, remote, newer = self._compare()
        wanted = sorted(newer if changed else newer - local.keys())
        self._remember({}, {name: remote[name] for name in wanted})  # first: after a kill it is still known what came
        for name in wanted:
            write_bytes(self.folder / name, remote[name].encode())
        self._remember({name: remote[name] for name in wanted})

    def _compare(self) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """The files here, those there, and names of those that are newer there."""
        paths = {name: self.folder / name for name in _FILES}
        local = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
        remote, common = self._read(), self._history()
        newer = {name for name in remote if name not in local}
        for name in (name for name in remote if name in local and local[name] != remote[name]):
            is_known = _sha256(local[name]) in common.get(name, ()), _sha256(remote[name]) in common.get(name, ())
            if is_known == (False, False) and name in _DECISIONS:
                raise TrialError(
                    f"{self.folder / name} and {name} in the storage {self.objects.url} are not the same, and neither "
                    "came from the other: two runs used it; give output=OTHER_FOLDER to go on from the storage, or "
                    "another storage to go on from the folder"
                )
            newer |= {name} if is_known != (False, True) else set()
        return local, remote, newer

    def _read(self) -> dict[str, str]:
        """The files there. Raises TrialError where they are damaged or gone: they say what was declared."""
        url = self.objects.url
        if (data := self.objects.read(STATE)) is None:
            if any(name.endswith(MANIFEST) for name in self.objects.find("")):  # it is there before anything else
                raise TrialError(f"storage: {url}/{STATE} is gone; put back a copy of it, or give another storage")
            return {}
        try:
            state = orjson.loads(data)
            trial, files = state.get("trial", self.trial), {name: str(text) for name, text in state["files"].items()}
            is_sound = state["sha256"] == _sha256(canonical(files).decode())
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            is_sound = False
        if not is_sound:
            raise TrialError(f"storage: {url}/{STATE} is damaged; put back a copy of it, or give another storage")
        if trial != self.trial:
            raise TrialError(f"storage: {url} holds the trial {trial!r}, this is {self.trial!r}; give another")
        return {name: text for name, text in files.items() if name in _FILES}

    def _packed(self, files: dict[str, str]) -> bytes:
        return canonical({"trial": self.trial, "sha256": _sha256(canonical(files).decode()), "files": files})

    def _history(self) -> dict[str, list[str]]:
        path = self.folder / _HISTORY
        kept = read_json(path, "root", "files") if path.exists() else {}
        return dict(kept["files"]) if kept.get("root") == self.objects.root else {}

    def _remember(self, common: dict[str, str], coming: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write down what both sides have now, and what is about to be brought beside what they had."""
        before = self._history()
        history = before | {name: [_sha256(text)] for name, text in common.items()}
        history |= {name: [*before.get(name, ())[:1], _sha256(text)] for name, text in coming.items()}
        if self.objects.root and history != before:
            write_json(self.folder / _HISTORY, {"root": self.objects.root, "files": history})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
