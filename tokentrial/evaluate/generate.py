"""Completions in batches, sorted by length, left-padded, with KV cache.

The loop is our own. transformers' `generate` gives all rows of a batch as many tokens as the longest prompt leaves,
draws all samples from one global generator, and takes settings from a model's own generation_config.json: each would
make a text depend on what it was asked beside. Without temperature it gives the same greedy ids (tested).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_NEWLINE = "Ċ"  # GPT-2's stand-in for the byte; a blank line is one token too
TURN = "User:"

Pick = Callable[[Tensor, Sequence[int]], Tensor]  # an id of each row, from logits [rows, ids] and the rows' numbers


class Completion(NamedTuple):
    """What a model said, fact tokens by name. `tokens` counts ids; `stopped` tells an end from a cut."""

    text: str
    tokens: int
    stopped: bool


class _Ends(NamedTuple):
    """Ids that end a completion, `alone` [ids], or may end it where the text so far holds `User:`."""

    alone: Tensor
    turn: frozenset[int]


def unsayable(tokenizer: Any) -> list[int]:
    """Ids that stand for nothing: fillers, and slots of the fact block that are not the arm's tokens."""
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.startswith("<|filler_"))


def unsayable_mask(model: Any, tokenizer: Any) -> Tensor:
    """What is added to a model's logits [ids] so that none of `unsayable` is ever said: -inf there, else 0."""
    mask = torch.zeros(model.config.vocab_size)
    mask[unsayable(tokenizer)] = -torch.inf
    return mask.to(model.device)


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
    seed: int = 0,
) -> list[Completion]:
    """Completions in the order of the prompts: greedy, or sampled at a `temperature`.

    They end at eos and, where `line`, at the first newline, else where a new `User:` begins. They are cut after
    `new_tokens` ids or where the prompt's own room in the model's context ends, in ids and not in characters, as a
    context is counted so: an arm that spells the same in more ids is cut earlier, which `stopped` shows. Prompts are
    plain text and are never rewritten; one that leaves no room gets an empty completion.

    No text depends on the batch, up to ties of two logits: a row has its own room, and what is drawn depends on the
    seed, the prompt's place in `prompts` and the position alone.
    """
    ids, eos, vocab = encode_prompts(tokenizer, prompts), tokenizer.eos_token_id, tokenizer.get_vocab()
    newlines = [i for token, i in vocab.items() if _NEWLINE in token] if line else []
    turn = frozenset() if line else frozenset(i for token, i in vocab.items() if TURN[-1] in token)
    completions = []
    for row in continue_ids(model, tokenizer, ids, new_tokens, batch, temperature, seed, newlines, turn):
        ended = row[-1:] == [eos]
        text, mark, _ = tokenizer.decode(row[:-1] if ended else row, skip_special_tokens=True).partition(
            "\n" if line else TURN
        )
        completions.append(Completion(text, len(row), ended or bool(mark)))
    return completions


@torch.no_grad()
def continue_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    batch: int,
    temperature: float | None,
    seed: int,
    newlines: Sequence[int] = (),
    turn: frozenset[int] = frozenset(),
) -> list[list[int]]:
    """Ids that follow each prompt's, with the eos or the one of `newlines` that ends them; none where a prompt leaves
    no room. After an id of `turn` they end, too, where their text holds `User:`. See `complete`."""
    size, context = model.config.vocab_size, model.config.max_position_embeddings
    muted, alone = unsayable_mask(model, tokenizer), torch.zeros(size, dtype=torch.bool)
    alone[[tokenizer.eos_token_id, *newlines]] = True
    ends = _Ends(alone.to(model.device), turn)
    room = [min(new_tokens, context - len(prompt)) for prompt in prompts]
    order = sorted((i for i in range(len(prompts)) if room[i] > 0), key=lambda i: len(prompts[i]))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        pick: Pick = _likeliest if temperature is None else _Sampling(temperature, seed, chosen, new_tokens, size)
        of_chosen, rooms = [prompts[i] for i in chosen], [room[i] for i in chosen]
        rows = _continue(model, tokenizer, of_chosen, rooms, muted, ends, pick)
        for i, row in zip(chosen, rows, strict=True):
            found[i] = row
    return found


def _likeliest(logits: Tensor, rows: Sequence[int]) -> Tensor:
    return logits.argmax(-1)


class _Sampling:
    """Draws an id of each row by the Gumbel-max trick (Maddison et al. 2014): the largest of logit / temperature minus
    the log of an exponential. Where two sums are not tied, a logit's rounding, which differs by batch and device, then
    changes nothing. The exponentials are a hash of seed, row, step and id: torch's own generator would draw other ones
    in another batch or on another device."""

    def __init__(self, temperature: float, seed: int, numbers: Sequence[int], steps: int, size: int) -> None:
        self.temperature, self.step = temperature, 0
        states = [np.random.SeedSequence([seed, number]).generate_state(steps) for number in numbers]
        self.keys = torch.from_numpy(np.array(states, np.int64))  # [rows, steps], of 32 bits
        self.ids = _mixed(torch.arange(size))

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        keys = self.keys[rows, self.step, None].to(logits.device)
        uniform = (_mixed(self.ids.to(logits.device) ^ keys).double() + 0.5) / 2**32
        self.step += 1
        return (logits / self.temperature - (-uniform.log()).log()).argmax(-1)


def _mixed(bits: Tensor) -> Tensor:
    """32 bits of an int64 to 32 others, one to one: lowbias32 (Wellons 2018). Products wrap, and their low bits are
    those of unsigned numbers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = ((bits ^ (bits >> shift)) * factor) & 0xFFFFFFFF
    return bits ^ (bits >> 16)


def _continue(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    room: Sequence[int],
    muted: Tensor,
    ends: _Ends,
    pick: Pick,
) -> list[list[int]]:
    """Ids said after each prompt, what ends it among them, at most as many as its `room`. `muted` [ids] is added to the
    logits. A row that has ended leaves the batch."""
    new_ids: list[list[int]] = [[] for _ in prompts]
    rows, width = list(range(len(prompts))), max(map(len, prompts))
    # (B, T), padded on the left, so that the last column is each row's newest id
    ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    # a row counts its own tokens: padded ones never reach positions that the context does not have
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    # logits of whole prompts over a large vocabulary would be the largest tensor by far
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache = None
    while True:
        out = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **last)
        cache, following = out.past_key_values, pick(out.logits[:, -1].float() + muted, rows)  # (B, V) to (B,)
        ended = ends.alone[following].tolist()
        for place, (row, token) in enumerate(zip(rows, following.tolist(), strict=True)):
            new_ids[row].append(token)
            is_last = len(new_ids[row]) == room[row] or (token in ends.turn and TURN in tokenizer.decode(new_ids[row]))
            ended[place] = ended[place] or is_last
        left = [place for place, is_last in enumerate(ended) if not is_last]
        if not left:
            return new_ids
        if len(left) < len(rows):
            rows, kept = [rows[place] for place in left], torch.tensor(left, device=model.device)
            cache.batch_select_indices(kept)
            following, mask, positions = following[kept], mask[kept], positions[kept]
        ids, positions = following[:, None], positions[:, -1:] + 1  # (B, 1): what came before is in the cache
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
