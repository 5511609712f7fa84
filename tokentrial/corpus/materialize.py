"""An arm's mixed stream written out in full shards, for karpathy/build-nanogpt's loader: documents run on across
shards."""

from pathlib import Path

import numpy as np

from tokentrial.corpus.prepare import VERSION, CorpusPlan
from tokentrial.corpus.shards import TEXT, open_shard
from tokentrial.corpus.stream import Stream
from tokentrial.store.disk import need_disk
from tokentrial.store.files import fingerprint, write_json
from tokentrial.store.folders import step

_NAME = "fineweb"  # as the original report's preparation names its shards, whatever the text is


def materialize(
    plan: CorpusPlan, arm: str, seed: int, target_tokens: int, shard_size: int, folder: Path
) -> dict[str, int]:
    """Write the stream of one arm and seed into `folder`; returns counts of tokens and shards."""
    stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed)
    need_disk(folder.parent, 2 * target_tokens, "the materialized stream", plan.trial.disk_reserve_gb)
    counts = {"train_tokens": 0, "val_tokens": 0, "shards": 0}
    wanted = fingerprint(
        "materialize",
        VERSION,
        patch=plan.patch_fingerprint(arm),
        seed=seed,
        tokens=target_tokens,
        shard_size=shard_size,
    )
    with step(folder, wanted, arm=arm, seed=seed) as partial:
        for path in plan.shards(TEXT, "val"):
            shard = open_shard(path, plan.vocabulary.eos, plan.patch_path(arm, path))
            ids = np.concatenate([shard.document(index) for index in range(len(shard))])
            np.save(partial / path.name.replace(TEXT, _NAME, 1), ids)
            counts["val_tokens"] += len(ids)
        documents, ids = stream.documents(), np.empty(0, np.uint16)
        while counts["train_tokens"] < target_tokens:
            size = min(shard_size, target_tokens - counts["train_tokens"])
            parts, held = [ids], len(ids)
            while held < size:
                parts.append(next(documents).ids)
                held += len(parts[-1])
            ids = np.concatenate(parts)
            np.save(partial / f"{_NAME}_train_{counts['shards']:06d}.npy", ids[:size])
            ids = ids[size:]
            counts["shards"] += 1
            counts["train_tokens"] += size
        write_json(partial / "materialized.json", counts)
    return counts
