"""What stands in a run folder or a storage, as a look from outside sees it, and how two runs differ."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import orjson

# in these two runs of a trial differ: clocks, speeds, where it was computed
VARIES = re.compile(
    ".*seconds|time|since|first|last|workers|executor|storage|provenance|memory_gb"
    "|sha256_of_content|tokens_per_s|tflops_per_s|mfu|.*_runtime|.*_per_second|step_time"
)
WAY = re.compile(r'/[^"]*/(?=sources/)')  # to the sources: places are absolute in a run
NOT_COMPARED = re.compile(r"trial\.yaml|sources\.json|report\.(md|html)|figures/.*|(.*/)?(\.[^/]*|log\.txt)")


class Step(NamedTuple):
    """A finished step: what its manifest says, and those of its files that are not as it says."""

    manifest: str
    damaged: tuple[str, ...]


def steps(folder: Path) -> dict[str, Step]:
    """Every finished step below a run folder or a storage, by its name."""
    found = {}
    # not rglob, which raises where a folder is renamed under it: commands may be at work
    for path in (Path(root, "manifest.json") for root, _, names in os.walk(folder) if "manifest.json" in names):
        name = path.parent.relative_to(folder).as_posix()
        if re.search(r"\.partial|\.checkpoints|corpus\.tasks", name):
            continue
        try:
            manifest = json.loads(path.read_bytes())
            seal = manifest.pop("sha256_of_content")
            sound = hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest() == seal
            pruned = manifest.pop("pruned", [])  # weights that wait in the storage
            files = {file: entry["sha256"] for file, entry in manifest["files"].items() if file not in pruned}
            damaged = [] if sound else ["manifest.json"]
            damaged += [file for file, digest in files.items() if sha256(path.parent / file) != digest]
            found[name] = Step(json.dumps(manifest, sort_keys=True), tuple(damaged))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found[name] = Step("", ("manifest.json",))
    return found


def whole(folder: Path) -> dict[str, Step]:
    """Those whose files are all as their manifests say."""
    return {name: step for name, step in steps(folder).items() if not step.damaged}


def sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def hashes(folder: Path) -> dict[str, str | None]:
    """Of every file of a run that its twin has alike, or nearly so."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: sha256(path) for name, path in files.items() if not NOT_COMPARED.fullmatch(name)}


def differences(twin: Path, folder: Path) -> list[str]:
    """What of a finished run is not as in its twin: all bytes, but for times in JSON."""
    theirs, ours = hashes(twin), hashes(folder)
    for path in folder.rglob("manifest.json"):
        for file in json.loads(path.read_bytes()).get("pruned", []):
            theirs.pop((path.parent / file).relative_to(folder).as_posix(), None)
    found = [f"{name}: only in the {'twin' if name in theirs else 'run'}" for name in theirs.keys() ^ ours.keys()]
    unlike = [name for name in theirs.keys() & ours.keys() if theirs[name] != ours[name]]
    return found + [f"{name}: differs" for name in unlike if _content(twin / name) != _content(folder / name)]


def _content(path: Path) -> Any:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = WAY.sub("", path.read_text())
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    values = [_without_times(json.loads(line)) for line in lines]
    return values if path.name != "manifest.json" else values[0] | {"files": sorted(values[0]["files"]), "pruned": 0}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(of) for key, of in value.items() if not VARIES.fullmatch(key)}
    return [_without_times(of) for of in value] if isinstance(value, list) else value
