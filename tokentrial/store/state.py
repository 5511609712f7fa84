"""`state.json` of a storage: whose it is, and the small files between the steps (what was declared and decided, ...),
one object with a hash of its own.

Two machines may have gone on from one storage. `.storage.json` in the run folder holds the hashes of what folder and
storage last had in common, and so tells which of them changed since: it is taken to the other. Where both changed, the
run is refused.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import orjson

from tokentrial.errors import TrialError
from tokentrial.store.files import canonical, read_json, write_bytes, write_json
from tokentrial.store.objects import Objects

STATE = "state.json"
_COMMON = ".storage.json"
_FILES = (
    "sources.json",
    "declared.json",
    "grpo_decision.json",
    *(f"corpus/{n}.json" for n in ("exposure", "audit", "meta")),
)


class _Compared(NamedTuple):
    here: dict[str, str]
    there: dict[str, str]
    newer: set[str]  # in the storage: the folder lacks them, or has what both once had


class State:
    """The small files of a run folder, here and in its storage. Raises TrialError where the storage is another trial's,
    and where a file was changed in both."""

    def __init__(self, objects: Objects, folder: Path, trial: str) -> None:
        self.objects, self.folder, self.trial = objects, folder, trial

    def claim(self) -> None:
        """Make a storage that is nobody's this trial's; send the small files."""
        self.objects.create(STATE, self._packed({}))
        self.send()  # reads it: of two trials that came at once one is refused

    def send(self) -> None:
        """Send what changed here; what is newer there stays."""
        here, there, newer = self._compare()
        merged = there | {name: text for name, text in here.items() if name not in newer}
        if merged != there:
            self.objects.write(STATE, self._packed(merged))
        self._keep_common({name: text for name, text in merged.items() if name not in newer})

    def fetch(self, lacking: bool = True) -> None:
        """Bring what is newer there; with `lacking` no file that is here, in whatever form."""
        here, there, newer = self._compare()
        for name in sorted(newer - here.keys() if lacking else newer):
            write_bytes(self.folder / name, there[name].encode())
        if not lacking:
            self._keep_common(there)

    def _compare(self) -> _Compared:
        paths = {name: self.folder / name for name in _FILES}
        here = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
        there, common = self._read(), self._common()
        newer = {name for name in there if name not in here or common.get(name) == _sha256(here[name])}
        for name in sorted(here.keys() & there.keys() - newer):
            if here[name] != there[name] and common.get(name) != _sha256(there[name]):
                raise TrialError(
                    f"{self.folder / name} and {name} in the storage {self.objects.url} are not the same, and neither "
                    "came from the other: two runs used it; give output=OTHER_FOLDER to go on from the storage, or "
                    "another storage to go on from the folder"
                )
        return _Compared(here, there, {name for name in newer if here.get(name) != there[name]})

    def _read(self) -> dict[str, str]:
        """The files there. Raises TrialError where they are damaged: they say what was declared."""
        if (data := self.objects.read(STATE)) is None:
            return {}
        try:
            state = orjson.loads(data)
            trial, files = state["trial"], {name: str(text) for name, text in state["files"].items()}
            is_sound = state["sha256"] == _sha256(canonical(files).decode())
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            is_sound = False
        url = self.objects.url
        if not is_sound:
            raise TrialError(f"storage: {url}/{STATE} is damaged; put back a copy of it, or give another storage")
        if trial != self.trial:
            raise TrialError(f"storage: {url} is of the trial {trial!r}, this is {self.trial!r}; give another")
        return {name: text for name, text in files.items() if name in _FILES}

    def _packed(self, files: dict[str, str]) -> bytes:
        return canonical({"trial": self.trial, "sha256": _sha256(canonical(files).decode()), "files": files})

    def _common(self) -> dict[str, str]:
        path = self.folder / _COMMON
        kept = read_json(path, "root", "files") if path.exists() else {}
        return dict(kept["files"]) if kept.get("root") == self.objects.root else {}

    def _keep_common(self, files: dict[str, str]) -> None:
        common = self._common() | {name: _sha256(text) for name, text in files.items()}
        if self.objects.root and common != self._common():
            write_json(self.folder / _COMMON, {"root": self.objects.root, "files": common})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
