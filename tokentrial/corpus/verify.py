"""Verification: an arm's documents derived again from the source, by the slow road, and compared with the shards."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, open_shard
from tokentrial.corpus.text import SPLITS, DocumentFilter
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
    inputs = plan.source.input_splits(plan.trial.corpus.task_bytes, in_one=plan.trial.corpus.documents is not None)
    shards_of_task = read_json(plan.folder / "text.json")["shards_of_task"]
    compared = 0
    sampled = sorted(rng.sample(range(len(shards_of_task)), min(_TASKS, len(shards_of_task))))
    for rank in sampled:
        paths: dict[str, list[Path]] = {}
        for split in SPLITS:
            first = sum(counts[split] for counts in shards_of_task[:rank])
            numbers = range(first, first + shards_of_task[rank][split])
            paths[split] = [plan.folder / f"{TEXT}_{split}_{number:06d}.npy" for number in numbers]
        source = DocumentFilter(inputs[rank], plan.trial.corpus, plan.facts)
        count, differences = _compare(plan, source, paths, -(-documents // len(sampled)), rng)
        compared += count
        problems += differences
    if problems:
        raise TrialError(f"{plan.folder}: does not verify:\n  " + "\n  ".join(problems[:20]))
    return {"documents": compared, "tasks": len(sampled), "arms": plan.trial.arms, "checksums": full}


def _compare(
    plan: CorpusPlan, source: DocumentFilter, paths: dict[str, list[Path]], documents: int, rng: random.Random
) -> tuple[int, list[str]]:
    """Compare a sample of a task's documents with its shards, in every arm: how many, and what differs."""
    eos = plan.vocabulary.eos
    shards = {path: open_shard(path, eos) for split in SPLITS for path in paths[split]}
    places = {split: [(path, i) for path in paths[split] for i in range(len(shards[path]))] for split in SPLITS}
    texts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for batch, splits in source.batches():
        for text, split in zip(batch, splits, strict=True):
            texts[split].append(text)
    problems = [
        f"{', '.join(map(str, paths[split]))}: {len(places[split])} documents, the source gives {len(texts[split])}"
        for split in SPLITS
        if len(texts[split]) != len(places[split])
    ]
    if problems:
        return 0, problems
    pairs = [(*place, text) for split in SPLITS for place, text in zip(places[split], texts[split], strict=True)]
    sample = rng.sample(pairs, min(documents, len(pairs)))
    for arm in (arms.get_arm(name, plan.facts) for name in plan.trial.arms):
        served = {path: open_shard(path, eos, plan.patch_path(arm.name, path)) for path in shards}
        for path, index, text in sample:
            expected = np.append(eos, plan.vocabulary.encode_arm(arm, text.decode()))
            if not np.array_equal(served[path].document(index), expected):
                problems.append(f"{path}, document {index}: {arm.name} serves other ids than the source gives")
    return len(sample), problems
