"""Verification: an arm's documents derived again from the source, by the slow road, and compared with the shards."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial import store
from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, Shard, open_shard, patched
from tokentrial.corpus.text import SPLITS, Selection
from tokentrial.errors import TrialError

_TASKS = 8


def verify(plan: CorpusPlan, full: bool, documents: int, seed: int) -> dict[str, Any]:
    """Encode about `documents` sampled documents of the source by tiktoken, as each arm rewrites them, and compare with
    what the loader serves. `full`: every file's checksum first. Raises TrialError with all that differs."""
    if not plan.done:
        raise TrialError(f"{plan.folder}: not ready; run `tokentrial corpus` with the same trial first")
    rng = random.Random(f"verify {seed}")
    problems = _checksums(plan) if full else []
    units = plan.source.units(plan.trial.corpus.task_bytes, in_one=plan.trial.corpus.documents is not None)
    shards_of_task = store.read_json(plan.folder / "text.json")["shards_of_task"]
    compared = 0
    chosen = sorted(rng.sample(range(len(shards_of_task)), min(_TASKS, len(shards_of_task))))
    for rank in chosen:
        before = {split: sum(counts[split] for counts in shards_of_task[:rank]) for split in SPLITS}
        shards = {
            split: [
                plan.folder / f"{TEXT}_{split}_{before[split] + i:06d}.npy" for i in range(shards_of_task[rank][split])
            ]
            for split in SPLITS
        }
        selection = Selection(units[rank], plan.trial.corpus, plan.facts)
        found, differing = _compare(plan, selection, shards, -(-documents // len(chosen)), rng)
        compared += found
        problems += differing
    if problems:
        raise TrialError(f"{plan.folder}: does not verify:\n  " + "\n  ".join(problems[:20]))
    return {"documents": compared, "tasks": len(chosen), "arms": plan.trial.arms, "checksums": full}


def _checksums(plan: CorpusPlan) -> list[str]:
    folders = [plan.folder, plan.survey_folder, *plan.beside(*plan.trial.arms)]
    return [f"{folder / name}: its checksum differs" for folder in folders for name in store.verify(folder)]


def _compare(
    plan: CorpusPlan, selection: Selection, paths: dict[str, list[Path]], documents: int, rng: random.Random
) -> tuple[int, list[str]]:
    """Walk a task's pieces in the order of the source; compare some of them with the task's shards, in every arm."""
    shards = {split: [open_shard(path, plan.vocabulary.eos) for path in paths[split]] for split in SPLITS}
    numbers = [(split, n) for split in SPLITS for n in range(sum(map(len, shards[split])))]
    wanted = set(rng.sample(numbers, min(documents, len(numbers))))
    chosen: list[tuple[Path, int, bytes]] = []
    problems: list[str] = []
    seen = dict.fromkeys(SPLITS, 0)
    for texts, splits in selection.batches():
        for text, split in zip(texts, splits, strict=True):
            number, seen[split] = seen[split], seen[split] + 1
            if (split, number) not in wanted:
                continue
            chosen.append((*_place(paths[split], shards[split], number), text))
    for split in SPLITS:
        if seen[split] != sum(map(len, shards[split])):
            problems.append(
                f"{', '.join(map(str, paths[split]))}: {sum(map(len, shards[split]))} documents, the source gives "
                f"{seen[split]}"
            )
    if problems:
        return 0, problems
    for arm in (arms.find(name, plan.facts) for name in plan.trial.arms):
        with_patch = {
            path: patched(shard, plan.patch_folder(arm.name) / f"{path.stem}.npz")
            for split in SPLITS
            for path, shard in zip(paths[split], shards[split], strict=True)
        }
        for path, index, text in chosen:
            expected = np.append(plan.vocabulary.eos, plan.vocabulary.encode_arm(arm, text.decode()))
            if not np.array_equal(with_patch[path].document(index), expected):
                problems.append(f"{path}, document {index}: {arm.name} serves other ids than the source gives")
    return len(chosen), problems


def _place(paths: Sequence[Path], shards: Sequence[Shard], number: int) -> tuple[Path, int]:
    for path, shard in zip(paths, shards, strict=True):
        if number < len(shard):
            return path, number
        number -= len(shard)
    raise AssertionError("the number was drawn from these shards")
