"""Nats of text, for training and evaluation alike; and validation during training: the arm's own loss, and bits per
byte of original held-out text, by which arms compare.

One rank measures, with the bare model, while the others wait: no bucket of gradients is touched."""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import TEXT, Ids
from tokentrial.corpus.stream import Stream, heldout_documents
from tokentrial.pretrain.gpt import GPT

LOGITS = 2**27  # elements of a batch's logits at most, half a gigabyte
_VAL_TOKENS = 20_000
_VAL_BYTES = 50_000
_CPU_POSITIONS = 2**13  # of a batch on a CPU: activations of more leave its caches, which costs a fifth of the time
_VAL_BATCH = 8  # windows at a time, so that it takes no more memory than a training step


class Scored(NamedTuple):
    """A causal model as scores see it: `logits` gives (B, T, ids) of ids (B, T)."""

    logits: Callable[[Tensor], Tensor]
    ids: int  # of its vocabulary
    context: int
    device: torch.device


@torch.no_grad()
def token_nats(model: Scored, rows: Sequence[Sequence[int]], batch: int) -> list[NDArray[np.float64]]:
    """Nats of each id after the first, row by row, in batches of like lengths with at most `LOGITS` logits."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of like length waste the least on padding
    nats = [np.empty(0)] * len(rows)
    while order:
        longest = len(rows[order[min(batch, len(order)) - 1]])
        most = LOGITS // model.ids if model.device.type != "cpu" else min(LOGITS // model.ids, _CPU_POSITIONS)
        size = max(1, min(batch, most // longest))
        chosen, order = order[:size], order[size:]
        # the padding stands behind every real id, so a causal model needs no mask
        padded = pad_sequence([torch.tensor(rows[i]) for i in chosen], batch_first=True).to(model.device)
        logprobs = model.logits(padded[:, :-1]).float().log_softmax(-1)  # (B, T, ids)
        losses = -logprobs.gather(2, padded[:, 1:, None])[..., 0].cpu().double().numpy()
        for i, row_losses in zip(chosen, losses, strict=True):
            nats[i] = row_losses[: len(rows[i]) - 1]
    return nats


def document_nats(model: Scored, documents: Sequence[Ids], batch: int) -> list[float]:
    """Nats of each document's ids after its first (eos), each given all ids before it or at least a quarter of a
    context.

    A document longer than the context is read in windows that overlap by a quarter of it, and only what is new in a
    window is scored. In windows side by side the first ids of each would be guessed from nothing, and an arm whose text
    is longer in ids would pay for more of them.
    """
    overlap = model.context // 4
    windows = [
        (index, start, ids[start : start + model.context + 1].tolist())
        for index, ids in enumerate(documents)
        # the last window is the first that reaches the document's end
        for start in range(0, max(len(ids) - 1 - overlap, min(1, len(ids) - 1)), model.context - overlap)
    ]
    nats = [0.0] * len(documents)
    losses = token_nats(model, [ids for *_, ids in windows], batch)
    for (index, start, _), window_losses in zip(windows, losses, strict=True):
        nats[index] += float(window_losses[overlap if start else 0 :].sum())
    return nats


def validate(model: GPT, stream: Stream, device: torch.device) -> dict[str, float]:
    """`val_loss`, and bits per byte of the documents that the arm rewrites and of those it does not."""
    arm, scored = arms.get_arm(stream.arm, stream.facts), _scored(model, device)
    documents = list(heldout_documents(stream.folder, TEXT, stream.vocabulary, arm, _VAL_BYTES))
    nats = document_nats(scored, [document.ids for document in documents], _VAL_BATCH)
    bits: defaultdict[str, float] = defaultdict(float)
    sizes: defaultdict[str, int] = defaultdict(int)
    for document, its_nats in zip(documents, nats, strict=True):
        subset = "rewritten" if document.rewritten else "untouched"
        bits[subset] += its_nats / math.log(2)
        sizes[subset] += document.bytes
    by_subset = {f"bits_per_byte_{subset}": bits[subset] / sizes[subset] for subset in bits}
    return {"val_loss": validation_loss(model, stream, device)} | by_subset


def validation_loss(model: GPT, stream: Stream, device: torch.device) -> float:
    """Nats a token of the arm's own val text, the first 20,000 as one text; arms are not to be compared by it."""
    arm, parts = arms.get_arm(stream.arm, stream.facts), [np.empty(0, np.uint16)]
    for document in heldout_documents(stream.folder, TEXT, stream.vocabulary, arm, sys.maxsize):
        parts.append(document.ids)
        if sum(map(len, parts)) >= _VAL_TOKENS:
            break
    ids = np.concatenate(parts)[:_VAL_TOKENS]
    [nats] = document_nats(_scored(model, device), [ids], _VAL_BATCH)
    return nats / (len(ids) - 1)


def _scored(model: GPT, device: torch.device) -> Scored:
    return Scored(model.logits, model.config.vocab, model.config.context, device)
