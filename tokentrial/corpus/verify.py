"""Verification: an arm's documents derived again from the source, by the slow road, and compared with the shards."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, open_shard, patched
from tokentrial.corpus.text import SPLITS, Selection
from tokentrial.errors import TrialError
from tokentrial.store.files import read_json
from tokentrial.store.folders import damaged_files

_TASKS = 8


def verify(plan: CorpusPlan, full: bool, documents: int, seed: int) -> dict[str, Any]:
    """Encode about `documents` sampled documents of the source by tiktoken, as each arm rewrites them, and compare with
    what the loader serves. `full`: every file's checksum first. Raises TrialError with all that differs."""
    if not plan.done:
        raise TrialError(f"{plan.folder}: not ready; run `tokentrial corpus` with the same trial first")
    rng = random.Random(f"verify {seed}")
    folders = [folder for folder, _ in plan.steps] if full else []
    problems = [f"{folder / name}: its checksum differs" for folder in folders for name in damaged_files(folder)]
    units = plan.source.units(plan.trial.corpus.task_bytes, in_one=plan.trial.corpus.documents is not None)
    shards_of_task = read_json(plan.folder / "text.json")["shards_of_task"]
    compared = 0
    chosen = sorted(rng.sample(range(len(shards_of_task)), min(_TASKS, len(shards_of_task))))
    for rank in chosen:
        paths: dict[str, list[Path]] = {}
        for split in SPLITS:
            first = sum(counts[split] for counts in shards_of_task[:rank])
            numbers = range(first, first + shards_of_task[rank][split])
            paths[split] = [plan.folder / f"{TEXT}_{split}_{number:06d}.npy" for number in numbers]
        selection = Selection(units[rank], plan.trial.corpus, plan.facts)
        found, differing = _compare(plan, selection, paths, -(-documents // len(chosen)), rng)
        compared += found
        problems += differing
    if problems:
        raise TrialError(f"{plan.folder}: does not verify:\n  " + "\n  ".join(problems[:20]))
    return {"documents": compared, "tasks": len(chosen), "arms": plan.trial.arms, "checksums": full}


def _compare(
    plan: CorpusPlan, selection: Selection, paths: dict[str, list[Path]], documents: int, rng: random.Random
) -> tuple[int, list[str]]:
    """Walk a task's pieces in the order of the source; compare some of them with the task's shards, in every arm."""
    shards = {path: open_shard(path, plan.vocabulary.eos) for split in SPLITS for path in paths[split]}
    places = {split: [(path, i) for path in paths[split] for i in range(len(shards[path]))] for split in SPLITS}
    numbers = [(split, n) for split in SPLITS for n in range(len(places[split]))]
    wanted = set(rng.sample(numbers, min(documents, len(numbers))))
    chosen: list[tuple[Path, int, bytes]] = []
    seen = dict.fromkeys(SPLITS, 0)
    for texts, splits in selection.batches():
        for text, split in zip(texts, splits, strict=True):
            if (split, seen[split]) in wanted:
                chosen.append((*places[split][seen[split]], text))
            seen[split] += 1
    problems = [
        f"{', '.join(map(str, paths[split]))}: {len(places[split])} documents, the source gives {seen[split]}"
        for split in SPLITS
        if seen[split] != len(places[split])
    ]
    if problems:
        return 0, problems
    for arm in (arms.find(name, plan.facts) for name in plan.trial.arms):
        patches = plan.patch_folder(arm.name)
        served = {path: patched(shard, patches / f"{path.stem}.npz") for path, shard in shards.items()}
        for path, index, text in chosen:
            expected = np.append(plan.vocabulary.eos, plan.vocabulary.encode_arm(arm, text.decode()))
            if not np.array_equal(served[path].document(index), expected):
                problems.append(f"{path}, document {index}: {arm.name} serves other ids than the source gives")
    return len(chosen), problems
