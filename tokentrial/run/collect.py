"""Cells of one declaration that ran on several machines, joined in one run folder. Nothing is computed: what is joined
are finished steps, each with the manifest that says where it was made."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokentrial.errors import TrialError
from tokentrial.run.declaration import manifests
from tokentrial.run.run_folder import open_run
from tokentrial.steps.grpo import DECISION
from tokentrial.store.files import read_json, sealed, write_bytes, write_json
from tokentrial.store.folders import MANIFEST, is_whole, link_folder, lock, read_manifest
from tokentrial.store.tuned import TUNED
from tokentrial.trial.declaration import DECLARED, differences
from tokentrial.trial.sweep import to_run

_SHARED = ("corpus", "start")  # steps of all cells


def collect(sources: Sequence[Path], into: Path) -> list[str]:
    """Join the cells of run folders in `into`, a new folder or one of them; returns the names of the steps that came.

    Raises TrialError where a folder is of another declaration, was made from another corpus or start, or decided
    otherwise on GRPO or the tuning.
    """
    if (into / "trial.yaml").exists() and not (into / DECLARED).exists():
        raise TrialError(f"{into}: holds a run without a declaration; give a new folder, or one of the folders to join")
    holds_some = (into / "trial.yaml").exists()
    folders = list(dict.fromkeys([*([into] if holds_some else []), *sources]))
    trial, *_ = [open_run(folder) for folder in folders]  # what is no run is named
    if without := next((folder for folder in folders if not (folder / DECLARED).exists()), None):
        raise TrialError(f"{without / DECLARED}: not found, so nothing says which cells may be joined; copy it as well")
    below = ["", *(str(variant.trial.folder.relative_to(trial.folder)) for variant in to_run(trial))]
    joined: list[str] = []
    with lock(into):
        for name in below:
            declared = [folder / name for folder in folders if (folder / name / DECLARED).exists()]
            if declared:
                joined += [f"{name}/{step}".lstrip("/") for step in _join(declared, into / name)]
    return joined


def _join(folders: Sequence[Path], into: Path) -> list[str]:
    first, *others = folders
    declared = [read_json(folder / DECLARED, "sha256", "declaration", "amendments") for folder in folders]
    for folder, other in zip(others, declared[1:], strict=True):
        _same_declaration(first, declared[0], folder, other)
    for name in _SHARED:
        _same_files([folder / name for folder in folders if (folder / name / MANIFEST).exists()])
    if not (corpora := [folder for folder in folders if (folder / _SHARED[0] / MANIFEST).exists()]):
        raise TrialError(f"{first}: no corpus there, nor in the other folders; give one that has it")
    _same_choice([folder / TUNED for folder in folders if (folder / TUNED).exists()])
    decision = _decision([folder / DECISION for folder in folders if (folder / DECISION).exists()])
    joined, finished = [], {folder: _finished(folder) for folder in folders}
    for cell in dict.fromkeys(cell for by_cell in finished.values() for cell in by_cell):
        steps = _steps(cell, {folder: by_cell[cell] for folder, by_cell in finished.items() if cell in by_cell})
        if steps.keys() & finished.get(into, {}).get(cell, ()) and into not in steps.values():
            raise TrialError(f"{into / cell}: another machine ran this cell earlier; give a new folder as --to")
        for step, folder in steps.items():
            place = into / cell / step  # an interrupted attempt, with other folders, may have left something there
            if folder != into and not (is_whole(place) and _files(place) == _files(folder / cell / step)):
                link_folder(folder / cell / step, place)
                joined.append(f"{cell}/{step}")
    for name in _SHARED:
        holder = next((folder for folder in (*corpora, *folders) if (folder / name / MANIFEST).exists()), None)
        if holder and not (into / name / MANIFEST).exists():
            link_folder(holder / name, into / name)
    # what departs anywhere departs here
    amendments = {str(change): change for record in declared for change in record["amendments"]}
    in_order = sorted(amendments.values(), key=lambda amendment: str(amendment["time"]))
    write_json(into / DECLARED, declared[0] | {"amendments": in_order})
    if decision:
        write_json(into / DECISION, sealed(decision))
    for name in ("sources.json", "inputs.json", TUNED, "trial.yaml"):  # the last says that the declaration is there
        holder = next((folder for folder in folders if (folder / name).exists()), None)
        if holder and not (into / name).exists():
            write_bytes(into / name, (holder / name).read_bytes())
    return joined


def _steps(cell: str, finished: Mapping[Path, Sequence[str]]) -> dict[str, Path]:
    """The steps of a cell, and where each is taken from, of the folders that have some `finished`. A cell that two
    machines ran is that of the one which finished its first step earlier, whatever came out: nobody chooses."""
    files = {folder: {step: _files(folder / cell / step) for step in steps} for folder, steps in finished.items()}
    times = {folder: min(_time(folder / cell / step) for step in steps) for folder, steps in finished.items()}
    folder_of: dict[str, Path] = {}
    for folder in sorted(finished, key=times.__getitem__):
        if all(files[folder_of[step]][step] == hashes for step, hashes in files[folder].items() if step in folder_of):
            folder_of |= {step: folder for step in files[folder] if step not in folder_of}
        else:
            print(f"{folder / cell}: left out, as another machine ran it earlier", file=sys.stderr)
    return folder_of


def _files(folder: Path) -> Any:
    manifest = read_manifest(folder)
    return manifest["fingerprint"], manifest["files"]


def _time(folder: Path) -> str:
    return str(read_manifest(folder)["provenance"]["time"])


def _decision(paths: Sequence[Path]) -> dict[str, Any] | None:
    """One decision on GRPO, from what each machine saw of it."""
    decisions = [read_json(path, "go_on", "pass_at_k") for path in paths]
    for path, decision in zip(paths, decisions, strict=True):
        if decision["go_on"] != decisions[0]["go_on"]:
            raise TrialError(f"{path}: its decision on GRPO differs from {paths[0]}; their cells cannot be joined")
    pass_at_k = {cell: share for decision in decisions for cell, share in decision["pass_at_k"].items()}
    return decisions[0] | {"pass_at_k": pass_at_k} if decisions else None


def _same_choice(paths: Sequence[Path]) -> None:
    """One choice of what each arm is trained with."""
    chosen = [read_json(path, "chosen")["chosen"] for path in paths]
    for path, choice in zip(paths, chosen, strict=True):
        if choice != chosen[0]:
            raise TrialError(f"{path}: its tuning differs from {paths[0]}; tune on one machine, copy its folder first")


def _finished(folder: Path) -> dict[str, list[str]]:
    """Cell: its steps that are whole."""
    steps: dict[str, list[str]] = {}
    for path in manifests(folder):
        if is_whole(path.parent):
            steps.setdefault(path.parent.parent.relative_to(folder).as_posix(), []).append(path.parent.name)
    return steps


def _same_declaration(first: Path, declared: Any, folder: Path, other: Any) -> None:
    if declared["sha256"] != other["sha256"]:
        name, _ = next(differences(declared["declaration"], other["declaration"]), ("edited", ""))
        raise TrialError(
            f"{folder}: its declaration {other['sha256'][:12]} is not {declared['sha256'][:12]} of {first}: they "
            f"differ in {name}; only cells of one declaration are joined"
        )


def _same_files(folders: Sequence[Path]) -> None:
    """What all cells share is the same wherever it is there."""
    for folder in folders[1:]:
        if read_manifest(folder)["files"] != read_manifest(folders[0])["files"]:
            raise TrialError(f"{folder}: differs from {folders[0]}; their cells were made from different files")
