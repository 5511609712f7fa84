"""Validation during training: the arm's own loss, and bits per byte of original held-out text, by which arms compare.

One rank measures, with the bare model, while the others wait: no bucket of gradients is touched."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import TEXT, open_shard, shard_paths
from tokentrial.corpus.stream import Stream, heldout
from tokentrial.pretrain.gpt import GPT

_VAL_TOKENS = 20_000
_VAL_BYTES = 50_000


def validate(model: GPT, stream: Stream, device: torch.device) -> dict[str, float]:
    """`val_loss`, and bits per byte of the documents that the arm rewrites and of those it does not."""
    bits: dict[str, float] = {}
    sizes: dict[str, int] = {}
    arm = arms.find(stream.arm, stream.facts)
    for document in heldout(stream.folder, TEXT, stream.vocabulary, arm, _VAL_BYTES):
        subset = "rewritten" if document.rewritten else "untouched"
        windows = (
            document.ids[i : i + model.config.context + 1] for i in range(0, len(document.ids), model.config.context)
        )
        nats = sum(_nats(model, window, device) for window in windows)
        bits[subset] = bits.get(subset, 0.0) + nats / math.log(2)
        sizes[subset] = sizes.get(subset, 0) + document.bytes
    by_subset = {f"bits_per_byte_{subset}": bits[subset] / sizes[subset] for subset in bits}
    return {"val_loss": validation_loss(model, stream, device)} | by_subset


@torch.no_grad()
def _nats(model: GPT, window: np.ndarray[Any, Any], device: torch.device) -> float:
    """Nats of all ids of a window but its first."""
    ids = torch.from_numpy(window.astype(np.int64)).to(device)[None]
    return float(model(ids[:, :-1], ids[:, 1:])) * (len(window) - 1) if len(window) > 1 else 0.0


@torch.no_grad()
def validation_loss(model: GPT, stream: Stream, device: torch.device) -> float:
    """Nats a token of the arm's own val text, its first 20,000 tokens; arms are not to be compared by it."""
    windows = list(_val_windows(stream, model.config.context))
    return sum(_nats(model, window, device) for window in windows) / sum(len(window) - 1 for window in windows)


def _val_windows(stream: Stream, context: int) -> Iterator[np.ndarray[Any, Any]]:
    tokens = np.empty(0, np.uint16)
    for path in shard_paths(stream.folder, TEXT, "val"):
        patch = stream.folder / "patches" / stream.arm / f"{path.stem}.npz"
        shard = open_shard(path, stream.vocabulary.eos, patch)
        tokens = np.concatenate([tokens, *(shard.document(index) for index in range(len(shard)))])
        if len(tokens) > _VAL_TOKENS:
            break
    tokens = tokens[:_VAL_TOKENS]
    for start in range(0, len(tokens) - 1, context):
        yield tokens[start : start + context + 1]
