"""A path of results to the systems that it holds, whatever wrote it. Nothing is unpickled or evaluated."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokentrial.compare import harness, reference, runs, solutions
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
        [system if names.count(system.name) == 1 else _renamed(system, f"{path}: {system.name}") for system in group]
        for path, group in zip(paths, groups, strict=True)
    ]


def counts(words: Sequence[str], task: str | None) -> list[list[System]]:
    """Bare counts such as 5/81, of a task whose floors are known where it is the multiplication table."""
    groups = []
    for word in words:
        correct, slash, total = word.partition("/")
        if not (slash and correct.isascii() and correct.isdigit() and total.isascii() and total.isdigit()):
            raise SettingsError(f"--counts {word!r}: expected right answers of all, such as 5/81")
        if len(total) > 8 or len(correct) > 8 or not int(correct) <= int(total) or int(total) == 0:
            raise SettingsError(f"--counts {word!r}: expected at most 99999999 items, and no more right than there are")
        items = Items(int(correct), int(total))
        if task == reference.TABLE:
            known = reference.table(items.total, items.correct)
            if known is None:
                raise SettingsError(f"--counts {word!r} --task {task}: expected 81 items, or 64 without those of 1")
            items = known
        groups.append([single(word, {f"{task or 'counts'}/all/accuracy": items})])
    return groups


def _renamed(system: System, name: str) -> System:
    return replace(system, name=one_line(name))


def _others(path: Path) -> list[System]:
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise SettingsError(f"{path}: not found; {_EXPECTED}")
    if path.suffix == ".jsonl":
        first = next((row for _, row in json_lines(path)), None)
        if harness.is_samples(first):
            return [_harness(path.stem, [path])]
        if solutions.is_solutions(first):
            return solutions.read(path)
        raise refuse(path, f"not recognised; {_EXPECTED}")
    value = json_file(path)
    if harness.is_results(value):
        return [_harness(path.stem, [path])]
    if _has_metrics(value):
        items, notes = reference.read(path)
        return [single(path.resolve().parent.name, items, notes)]
    raise refuse(path, f"not recognised; {_EXPECTED}")


def _folder(path: Path) -> list[System]:
    files = [file for file in sorted(path.glob(f"*{reference.SUFFIX}")) if _has_metrics(json_file(file))]
    if files:
        read_files = [reference.read(file) for file in files]
        items = {outcome: made for found, _ in read_files for outcome, made in found.items()}
        return [single(path.resolve().name, items, [note for _, notes in read_files for note in notes])]
    systems = []
    for folder in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        totals, samples = sorted(folder.glob("results_*.json")), sorted(folder.glob("samples_*.jsonl"))
        if len(totals) > 1:
            raise SettingsError(f"{folder}: {len(totals)} files results_*.json of several runs; give one of them")
        if totals or samples:
            systems.append(_harness(folder.resolve().name, [*totals, *samples]))
    if not systems:
        raise SettingsError(f"{path}: no results there; {_EXPECTED}")
    return systems


def _has_metrics(value: Any) -> bool:
    return isinstance(value, dict) and "metrics" in value


def _harness(name: str, files: Sequence[Path]) -> System:
    items, notes = harness.read(files)
    return single(name, items, notes)
