"""A path of results to the systems that it holds, whatever wrote it. Nothing is unpickled or evaluated."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokentrial.compare import external_formats as external
from tokentrial.compare import runs
from tokentrial.compare.files import file_error
from tokentrial.compare.system import ItemResults, System, single_model
from tokentrial.errors import SettingsError
from tokentrial.report.formats import one_line
from tokentrial.store.rows import read_json_file, read_rows

_COUNT = re.compile(r"([0-9]{1,8})/([0-9]{1,8})")
_EXPECTED = (
    "expected a run folder (OUT, OUT/ARM, OUT/ARM/seedK or its eval_STAGE), a bundle, a folder or file of "
    "`<task>_results.json`, lm-eval's `results_*.json` or `samples_*.jsonl`, or GSM8K's example_model_solutions.jsonl"
)


def read_systems(paths: Sequence[Path]) -> list[list[System]]:
    """The systems of each path, in order; where several have one name, the path is put before it."""
    in_runs = [runs.find_systems(path) for path in paths]
    # all at once: which documents are untouched depends on the arms of every run
    loaded = iter(runs.load_systems([found for group in in_runs for found in group]))
    groups = [
        [next(loaded) for _ in found] if found else _read_external(path)
        for path, found in zip(paths, in_runs, strict=True)
    ]
    names = [system.name for group in groups for system in group]
    return [
        [s if names.count(s.name) == 1 else replace(s, name=one_line(f"{path}: {s.name}")) for s in group]
        for path, group in zip(paths, groups, strict=True)
    ]


def parse_counts(words: Sequence[str], task: str | None) -> list[list[System]]:
    """Bare counts such as 5/81, of a task whose floors are known where it is the multiplication table."""
    groups = []
    for word in words:
        counts = _COUNT.fullmatch(word)
        correct, total = map(int, counts.groups()) if counts else (0, 0)
        if not correct <= total or total == 0:
            raise SettingsError(f"--counts {word!r}: expected RIGHT/TOTAL, such as 5/81, with at most 99999999 items")
        items = ItemResults(correct, total) if task != external.TABLE else external.table_items(correct, total)
        if items is None:
            raise SettingsError(f"--counts {word!r} --task {task}: expected 81 items, or 64 without those of 1")
        groups.append([single_model(word, {f"{task or 'counts'}/all/accuracy": items})])
    return groups


def _read_external(path: Path) -> list[System]:
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise SettingsError(f"{path}: not found; {_EXPECTED}")
    first = next(read_rows(path)).fields
    if {"doc_id", "metrics"} <= first.keys():
        return [single_model(path.stem, *external.read_lm_eval([], [path]))]
    if external.solution_systems(first):
        return external.read_solutions(path)
    if "results" in first:
        return [single_model(path.stem, *external.read_lm_eval([path], []))]
    if _has_metrics(first):
        return [single_model(path.resolve().parent.name, *external.read_results(path))]
    raise file_error(path, f"not recognised; {_EXPECTED}")


def _read_folder(path: Path) -> list[System]:
    """One model of the files `<task>_results.json`, else one of each folder, this one and those in it, of lm-eval's."""
    files = [file for file in sorted(path.glob(f"*{external.RESULTS_SUFFIX}")) if _has_metrics(read_json_file(file))]
    if files:
        items: dict[str, ItemResults] = {}
        notes = []
        for file in files:
            items_of_file, notes_of_file = external.read_results(file)
            items |= items_of_file
            notes += notes_of_file
        return [single_model(path.resolve().name, items, notes)]
    systems = []
    for folder in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        totals, samples = sorted(folder.glob("results_*.json")), sorted(folder.glob("samples_*.jsonl"))
        if len(totals) > 1:
            raise SettingsError(f"{folder}: {len(totals)} files results_*.json of several runs; give one of them")
        if totals or samples:
            systems.append(single_model(folder.resolve().name, *external.read_lm_eval(totals, samples)))
    if not systems:
        raise SettingsError(f"{path}: no results there; {_EXPECTED}")
    return systems


def _has_metrics(value: Any) -> bool:
    return isinstance(value, dict) and "metrics" in value
