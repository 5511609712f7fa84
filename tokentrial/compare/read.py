"""A path of results to the systems that it holds, whatever wrote it. Nothing is unpickled or evaluated."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokentrial.compare import runs, theirs
from tokentrial.compare.files import json_file, json_lines, refuse
from tokentrial.compare.system import Items, System, single
from tokentrial.errors import SettingsError
from tokentrial.report.tables import one_line

_EXPECTED = (
    "expected a run folder (OUT, OUT/ARM, OUT/ARM/seedK or its eval_STAGE), a bundle, a folder or file of "
    "`<task>_results.json`, lm-eval's `results_*.json` or `samples_*.jsonl`, or GSM8K's example_model_solutions.jsonl"
)


def read(paths: Sequence[Path]) -> list[list[System]]:
    """The systems of each path, in order; names that would be the same are told apart by their paths."""
    of_runs = [runs.find(path) for path in paths]
    ours = iter(runs.read([found for group in of_runs for found in group]))
    groups = [
        [next(ours) for _ in group] if group else _others(path) for path, group in zip(paths, of_runs, strict=True)
    ]
    names = [system.name for group in groups for system in group]
    return [
        [
            system if names.count(system.name) == 1 else replace(system, name=one_line(f"{path}: {system.name}"))
            for system in group
        ]
        for path, group in zip(paths, groups, strict=True)
    ]


def counts(words: Sequence[str], task: str | None) -> list[list[System]]:
    """Bare counts such as 5/81, of a task whose floors are known where it is the multiplication table."""
    groups = []
    for word in words:
        parts = word.split("/")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise SettingsError(f"--counts {word!r}: expected right answers of all, such as 5/81")
        if max(map(len, parts)) > 8 or not int(parts[0]) <= int(parts[1]) or int(parts[1]) == 0:
            raise SettingsError(f"--counts {word!r}: expected at most 99999999 items, and no more right than there are")
        correct, total = map(int, parts)
        items = theirs.table(correct, total) if task == theirs.TABLE else Items(correct, total)
        if items is None:
            raise SettingsError(f"--counts {word!r} --task {task}: expected 81 items, or 64 without those of 1")
        groups.append([single(word, {f"{task or 'counts'}/all/accuracy": items})])
    return groups


def _others(path: Path) -> list[System]:
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise SettingsError(f"{path}: not found; {_EXPECTED}")
    if path.suffix == ".jsonl":
        first = next((row for _, row in json_lines(path)), None)
        if isinstance(first, dict) and {"doc_id", "metrics"} <= first.keys():
            return [single(path.stem, *theirs.read_harness([path]))]
        if theirs.solvers(first):
            return [*theirs.read_solutions(path)]
    else:
        value = json_file(path)
        if isinstance(value, dict) and "results" in value:
            return [single(path.stem, *theirs.read_harness([path]))]
        if _has_metrics(value):
            return [single(path.resolve().parent.name, *theirs.read_results(path))]
    raise refuse(path, f"not recognised; {_EXPECTED}")


def _folder(path: Path) -> list[System]:
    """One model of the files `<task>_results.json`, else one of each folder, this one and those in it, of lm-eval's."""
    files = [file for file in sorted(path.glob(f"*{theirs.RESULTS}")) if _has_metrics(json_file(file))]
    if files:
        items: dict[str, Items] = {}
        notes = []
        for file in files:
            of_file, said = theirs.read_results(file)
            items |= of_file
            notes += said
        return [single(path.resolve().name, items, notes)]
    systems = []
    for folder in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        totals, samples = sorted(folder.glob("results_*.json")), sorted(folder.glob("samples_*.jsonl"))
        if len(totals) > 1:
            raise SettingsError(f"{folder}: {len(totals)} files results_*.json of several runs; give one of them")
        if totals or samples:
            systems.append(single(folder.resolve().name, *theirs.read_harness([*totals, *samples])))
    if not systems:
        raise SettingsError(f"{path}: no results there; {_EXPECTED}")
    return systems


def _has_metrics(value: Any) -> bool:
    return isinstance(value, dict) and "metrics" in value
