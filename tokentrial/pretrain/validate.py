"""Validation during training: the arm's own loss, and bits per byte of original held-out text, by which arms compare.

One rank measures, with the bare model, while the others wait: no bucket of gradients is touched."""

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import TEXT, Ids, open_shard, shard_paths
from tokentrial.corpus.stream import Stream, heldout
from tokentrial.pretrain.gpt import GPT

_VAL_TOKENS = 20_000
_VAL_BYTES = 50_000


def validate(model: GPT, stream: Stream, device: torch.device) -> dict[str, float]:
    """`val_loss`, and bits per byte of the documents that the arm rewrites and of those it does not."""
    bits: defaultdict[str, float] = defaultdict(float)
    sizes: defaultdict[str, int] = defaultdict(int)
    arm = arms.find(stream.arm, stream.facts)
    for document in heldout(stream.folder, TEXT, stream.vocabulary, arm, _VAL_BYTES):
        subset = "rewritten" if document.rewritten else "untouched"
        bits[subset] += _nats(model, document.ids, device) / math.log(2)
        sizes[subset] += document.bytes
    by_subset = {f"bits_per_byte_{subset}": bits[subset] / sizes[subset] for subset in bits}
    return {"val_loss": validation_loss(model, stream, device)} | by_subset


def validation_loss(model: GPT, stream: Stream, device: torch.device) -> float:
    """Nats a token of the arm's own val text, its first 20,000 tokens; arms are not to be compared by it."""
    parts, held = [np.empty(0, np.uint16)], 0
    for document in _val_documents(stream):
        parts.append(document)
        held += len(document)
        if held >= _VAL_TOKENS:
            break
    ids = np.concatenate(parts)[:_VAL_TOKENS]
    return _nats(model, ids, device) / (len(ids) - 1)


def _val_documents(stream: Stream) -> Iterator[Ids]:
    for path in shard_paths(stream.folder, TEXT, "val"):
        shard = open_shard(path, stream.vocabulary.eos, stream.folder / "patches" / stream.arm / f"{path.stem}.npz")
        yield from map(shard.document, range(len(shard)))


@torch.no_grad()
def _nats(model: GPT, ids: Ids, device: torch.device) -> float:
    """Nats of all ids but the first, in windows of the context that share an id."""
    nats, context = 0.0, model.config.context
    for start in range(0, len(ids) - 1, context):
        window = torch.from_numpy(ids[start : start + context + 1].astype(np.int64)).to(device)[None]
        nats += float(model(window[:, :-1], window[:, 1:])) * (window.shape[1] - 1)
    return nats
