"""Completions in batches, sorted by length, left-padded, with KV cache, through transformers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

_NEWLINE = "Ċ"  # GPT-2's stand-in for the byte; a blank line is one token too
TURN = "User:"


class Completion(NamedTuple):
    """What a model said, fact tokens by name. `tokens` counts ids; `stopped` tells an end from a cut."""

    text: str
    tokens: int
    stopped: bool


def unsayable(tokenizer: Any) -> list[int]:
    """Ids that stand for nothing: fillers, and slots of the fact block that are not the arm's tokens."""
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.startswith("<|filler_"))


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain text: a literal `<|endoftext|>` in it is text like any other."""
    ids: list[list[int]] = tokenizer(list(texts), split_special_tokens=True, add_special_tokens=False)["input_ids"]
    return ids


@torch.no_grad()
def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    new_tokens: int,
    batch: int,
    line: bool = True,
    temperature: float | None = None,
) -> list[Completion]:
    """Completions in the order of the prompts: greedy, or sampled at a `temperature`.

    They end at eos and, where `line`, at the first newline, else where a new `User:` begins. Prompts are plain text
    and are never rewritten; one that leaves no room in the model's context gets an empty completion.
    """
    ids, eos = encode_prompts(tokenizer, prompts), tokenizer.eos_token_id
    context = model.config.max_position_embeddings
    order = sorted((i for i in range(len(ids)) if len(ids[i]) < context), key=lambda i: len(ids[i]))
    newlines = [i for token, i in tokenizer.get_vocab().items() if _NEWLINE in token] if line else []
    done = [Completion("", 0, False)] * len(ids)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(ids[i]) for i in chosen)
        padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids[i])) + ids[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
        out = model.generate(
            padded.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=min(new_tokens, context - width),
            do_sample=temperature is not None,
            temperature=temperature,
            top_k=0 if temperature is not None else None,
            eos_token_id=[eos, *newlines],
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=unsayable(tokenizer) or None,
            **({} if line else {"stop_strings": [TURN], "tokenizer": tokenizer}),
        )
        for i, said in zip(chosen, out[:, width:].tolist(), strict=True):
            stopped = eos in said
            said = said[: said.index(eos)] if stopped else said
            text, ended, _ = tokenizer.decode(said, skip_special_tokens=True).partition("\n" if line else TURN)
            done[i] = Completion(text, len(said) + stopped, stopped or bool(ended))
    return done
