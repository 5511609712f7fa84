"""Cells of one declaration that ran on several machines, joined in one run folder. Nothing is computed: what is joined
are finished steps, each with the manifest that says where it was made."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokentrial.errors import TrialError
from tokentrial.run.run_folder import open_run
from tokentrial.steps.grpo import DECISION
from tokentrial.store.files import link, read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST, is_whole, lock, partial, replace
from tokentrial.trial.declaration import DECLARED, differences
from tokentrial.trial.sweep import to_run

_CORPUS = "corpus"


def collect(sources: Sequence[Path], into: Path) -> list[str]:
    """Join the cells of run folders in `into`, a new folder or one of them; returns the names of the steps that came.

    Raises TrialError where a folder is of another declaration, where two hold different results of one step, or decided
    differently on GRPO.
    """
    folders = list(dict.fromkeys([*(into for _ in range((into / DECLARED).exists())), *sources]))
    trial = open_run(folders[0])
    below = ["", *(str(variant.trial.folder.relative_to(trial.folder)) for variant in to_run(trial))]
    came: list[str] = []
    with lock(into):
        for name in below:
            there = [folder / name for folder in folders if (folder / name / DECLARED).exists()]
            if there:
                came += [f"{name}/{step}".lstrip("/") for step in _join(there, into / name)]
    return came


def _join(folders: Sequence[Path], into: Path) -> list[str]:
    first, *others = folders
    declared = [read_json(folder / DECLARED, "sha256", "declaration", "amendments") for folder in folders]
    for folder, other in zip(others, declared[1:], strict=True):
        _same_declaration(first, declared[0], folder, other)
        for name in (f"{_CORPUS}/{MANIFEST}", DECISION):
            _same_file(first / name, folder / name)
    holders: dict[str, list[Path]] = {}
    for folder in folders:
        for name in _finished(folder):
            holders.setdefault(name, []).append(folder)
    for name, holding in holders.items():
        for other in holding[1:]:
            _same_result(holding[0] / name, other / name)
    came = [name for name, holding in holders.items() if into not in holding]
    for name in came:
        _link(holders[name][0] / name, into / name)
    for name in ("trial.yaml", DECISION, "sources.json", "inputs.json"):
        holder = next((folder for folder in folders if (folder / name).exists()), None)
        if holder and not (into / name).exists():
            write_bytes(into / name, (holder / name).read_bytes())
    if not (into / _CORPUS / MANIFEST).exists():
        _link(next(folder for folder in folders if (folder / _CORPUS / MANIFEST).exists()) / _CORPUS, into / _CORPUS)
    amendments = {str(each): each for of in declared for each in of["amendments"]}  # what departs anywhere departs here
    in_order = sorted(amendments.values(), key=lambda amendment: str(amendment["time"]))
    write_json(into / DECLARED, declared[0] | {"amendments": in_order})
    return came


def _finished(folder: Path) -> list[str]:
    paths = sorted(folder.glob(f"*/seed*/*/{MANIFEST}"))
    return [path.parent.relative_to(folder).as_posix() for path in paths if is_whole(path.parent)]


def _same_declaration(first: Path, declared: Any, folder: Path, other: Any) -> None:
    if declared["sha256"] != other["sha256"]:
        name, change = next(differences(declared["declaration"], other["declaration"]), ("it", "edited"))
        raise TrialError(
            f"{folder}: its declaration {other['sha256'][:12]} is not {declared['sha256'][:12]} of {first} ({name}: "
            f"{change}); only cells of one declaration are joined"
        )


def _same_file(one: Path, other: Path) -> None:
    """What all cells share is the same wherever it is there."""
    if not (one.exists() and other.exists()):
        return
    of_one, of_other = (read_json(path) for path in (one, other))
    if one.name == MANIFEST:
        of_one, of_other = of_one["files"], of_other["files"]
    if of_one != of_other:
        raise TrialError(f"{other}: not what {one} says; the cells of the two were made from different ones")


def _same_result(one: Path, other: Path) -> None:
    of_one, of_other = (read_json(path / MANIFEST, "fingerprint", "files") for path in (one, other))
    if (of_one["fingerprint"], of_one["files"]) != (of_other["fingerprint"], of_other["files"]):
        raise TrialError(f"{other} and {one} are different results of one step; delete the one that is not to count")


def _link(folder: Path, to: Path) -> None:
    """A finished folder under another name, whole or not at all."""
    shutil.rmtree(partial(to), ignore_errors=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = partial(to) / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        link(path, place)
    replace(partial(to), to)
