"""Scores: the right answer's log-probability among all of the table, and bits per byte of original text."""

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from tokentrial.arms.arm import Arm
from tokentrial.evaluate.generate import encode_prompts, unsayable
from tokentrial.tasks.task import Example

_LOGITS = 2**28  # elements of a batch's logits


def ways(arm: Arm, example: Example, answer: str) -> list[str]:
    """How the arm can spell an answer after a probe's prompt: as it is, as the equation, by its own tokens."""
    return [f" {answer}", f" {example.left}={answer}", *(f" {token}" for token in arm.spellings(answer))]


def closing_starts(tokenizer: Any, size: int, numeric: bool) -> torch.Tensor:
    """Mask [size] of the ids whose text does not begin with a digit, or, after words, with a letter either: what may
    close an answer."""
    going_on = set(string.digits if numeric else string.digits + string.ascii_letters)
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    # "²" stands for a byte: no digit; None is an id beyond the tokenizer's, a padded row
    return torch.tensor([token is not None and token[:1] not in going_on for token in tokens])


def choice_logprobs(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example]) -> list[float]:
    """For each example of the table, ln of the right answer's share of the probability of all answers of the table."""
    shares = answer_logprobs(model, tokenizer, arm, examples)
    return [of[arm.facts.answers.index(example.answer)] for example, of in zip(examples, shares, strict=True)]


@torch.no_grad()
def answer_logprobs(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example]) -> list[list[float]]:
    """For each example of the table, ln of each answer's share of the probability of all, in their order.

    Each answer's probability is summed over the ways to spell it, each closed by what does not go on with it: a
    non-digit after numbers, no letter or digit after words.
    """
    answers = arm.facts.answers
    closing = closing_starts(tokenizer, model.config.vocab_size, arm.facts.numeric).to(model.device)
    suppress = unsayable(tokenizer)
    closing[suppress] = False
    scores = []
    for example in examples:
        spelled = [ways(arm, example, answer) for answer in answers]
        ids = encode_prompts(tokenizer, [way for of_answer in spelled for way in of_answer])
        lengths = torch.tensor([len(way) for way in ids], device=model.device)
        padded = _padded(ids, tokenizer.pad_token_id).to(model.device)
        prompt = torch.tensor(encode_prompts(tokenizer, [example.prompt]), device=model.device)
        first = model(prompt, use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(ids))
        logits = torch.cat(
            [first.logits[:, -1:].expand(len(ids), 1, -1), model(padded, past_key_values=cache).logits], dim=1
        ).float()
        logits[..., suppress] = -torch.inf
        logprobs = logits.log_softmax(-1)
        steps = logprobs[:, :-1].gather(2, padded[..., None])[..., 0]
        inside = torch.arange(padded.shape[1], device=model.device) < lengths[:, None]
        closed = logprobs[torch.arange(len(ids)), lengths][:, closing].logsumexp(-1)
        totals = (steps * inside).sum(-1) + closed
        by_answer = torch.stack([part.logsumexp(0) for part in torch.split(totals, [len(way) for way in spelled])])
        scores.append(by_answer.double().log_softmax(0).tolist())
    return scores


@torch.no_grad()
def token_nats(model: Any, rows: Sequence[Sequence[int]], batch: int) -> list[NDArray[np.float64]]:
    """Nats of each id after the first, row by row; in batches of like lengths whose logits stay under a gigabyte."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    nats = [np.empty(0)] * len(rows)
    while order:
        longest = len(rows[order[min(batch, len(order)) - 1]])
        size = max(1, min(batch, _LOGITS // (longest * model.config.vocab_size)))
        chosen, order = order[:size], order[size:]
        padded = _padded([rows[i] for i in chosen], 0).to(model.device)
        # the padding stands behind every real id, so a causal model needs no mask
        logprobs = model(padded[:, :-1]).logits.float().log_softmax(-1)
        losses = -logprobs.gather(2, padded[:, 1:, None])[..., 0].double().cpu().numpy()
        for i, found in zip(chosen, losses, strict=True):
            nats[i] = found[: len(rows[i]) - 1]
    return nats


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def document_bits(model: Any, documents: Sequence[NDArray[np.uint16]], batch: int) -> list[float]:
    """Bits of each document's ids after its first (eos), in windows of the model's context."""
    context = model.config.max_position_embeddings
    windows = [
        (index, ids[start : start + context + 1].tolist())
        for index, ids in enumerate(documents)
        for start in range(0, len(ids) - 1, context)
    ]
    bits = [0.0] * len(documents)
    for (index, _), nats in zip(windows, token_nats(model, [ids for _, ids in windows], batch), strict=True):
        bits[index] += float(nats.sum()) / math.log(2)
    return bits
