"""Greedy completions in batches, sorted by length, left-padded, with KV cache, through transformers."""

from collections.abc import Sequence
from typing import Any

import torch

from tokentrial.arms.arm import Arm

_NEWLINE = "Ċ"  # GPT-2's stand-in for the byte; a blank line is one token too


def unsayable(tokenizer: Any, arm: Arm, size: int) -> list[int]:
    """Ids that the arm cannot say: fillers, and slots of the fact block that are not its tokens."""
    said = set(tokenizer.convert_tokens_to_ids(list(arm.tokens)))
    return [i for i in range(tokenizer.eos_token_id + 1, size) if i not in said]


@torch.no_grad()
def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], new_tokens: int, batch: int, suppress: Sequence[int]
) -> list[str]:
    """Completions in the order of the prompts, fact tokens by name, cut at eos and at the first newline.

    Prompts are plain text and are never rewritten. Each must leave room in the model's context.
    """
    ids: list[list[int]] = tokenizer(list(prompts), split_special_tokens=True, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    stops = [tokenizer.eos_token_id, *(i for token, i in tokenizer.get_vocab().items() if _NEWLINE in token)]
    done = [""] * len(ids)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(ids[i]) for i in chosen)
        padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids[i])) + ids[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
        out = model.generate(
            padded.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=min(new_tokens, model.config.n_positions - width),
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=list(suppress) or None,
        )
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            done[i] = text.partition("\n")[0]
    return done
