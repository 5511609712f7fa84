"""Completions in batches, sorted by length, left-padded, with KV cache.

The loop is our own. transformers' `generate` gives all rows of a batch as many tokens as the longest prompt leaves,
draws all samples from one global generator, and takes settings from a model's own generation_config.json: each would
make a text depend on what it was asked beside. Without temperature it gives the same greedy ids (tested).
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokentrial.pretrain.validate import LOGITS

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


def limits(model: Any) -> tuple[int, int]:
    """How many ids a causal model's vocabulary has, and how many its context holds: `sys.maxsize` where its
    configuration names no limit, as of recurrent models and of ALiBi."""
    config = model.config.get_text_config()
    lengths = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return config.vocab_size, next((length for length in lengths if length and length > 0), sys.maxsize)


def unsayable(tokenizer: Any) -> list[int]:
    """Ids that stand for nothing: fillers, and slots of the fact block that are not the arm's tokens."""
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.startswith("<|filler_"))


def unsayable_mask(model: Any, tokenizer: Any) -> Tensor:
    """What is added to a model's logits [ids] so that none of `unsayable` is ever said: -inf there, else 0."""
    mask = torch.zeros(limits(model)[0])
    mask[unsayable(tokenizer)] = -torch.inf
    return mask.to(model.device)


def encode_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain text: a literal `<|endoftext|>` in it is text like any other."""
    ids: list[list[int]] = tokenizer(list(texts), split_special_tokens=True, add_special_tokens=False)["input_ids"]
    return ids


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain text after what the tokenizer itself puts first: bos with most, nothing with GPT-2's and ours. So
    does EleutherAI's harness by default; a model that was trained with bos is another one without it."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    begins = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    first = whole[: next(begins, 0)]
    return [[*first, *ids] for ids in encode_plain(tokenizer, texts)]


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
    size, context = limits(model)
    muted, alone = unsayable_mask(model, tokenizer), torch.zeros(size, dtype=torch.bool)
    # a tokenizer may have no eos, or more ids than the model
    alone[[i for i in (tokenizer.eos_token_id, *newlines) if i is not None and i < size]] = True
    ends = _Ends(alone.to(model.device), turn)
    room = [min(new_tokens, context - len(prompt)) for prompt in prompts]
    order = sorted((i for i in range(len(prompts)) if room[i] > 0), key=lambda i: len(prompts[i]))
    continuations: list[list[int]] = [[] for _ in prompts]
    if order and model not in _reads_from_cache:
        _reads_from_cache[model] = _reads_on_from_cache(model)
    reading = _Cached if _reads_from_cache.get(model) else _Anew
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        pick: Pick = _likeliest if temperature is None else _Sampling(temperature, seed, chosen, new_tokens, size)
        of_chosen, rooms = [prompts[i] for i in chosen], [room[i] for i in chosen]
        rows = _continue(reading(model, of_chosen), tokenizer, rooms, muted, ends, pick)
        for i, row in zip(chosen, rows, strict=True):
            continuations[i] = row
    return continuations


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


_reads_from_cache: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # of the models that were asked so far


class _Cached:
    """Prompts as a model reads them with a cache: padded on the left, so that the last column is each row's newest id,
    and then one id at a time."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        width, self.model, self.cache = max(map(len, prompts)), model, None
        self.ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts], device=model.device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        # a row counts its own tokens: padded ones never reach positions that the context does not have
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        accepted = inspect.signature(model.forward).parameters
        # logits of whole prompts over a large vocabulary would be the largest tensor by far
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.takes_positions = "position_ids" in accepted

    def logits(self) -> Tensor:
        """Of the id after each row, (B, V)."""
        positions = {"position_ids": self.positions} if self.takes_positions else {}
        out = self.model(
            self.ids, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **positions, **self.last
        )
        self.cache, newest = out.past_key_values, out.logits[:, -1]
        return newest  # type: ignore[no-any-return]

    def keep(self, kept: Tensor) -> None:
        """Drop the other rows."""
        self.cache.batch_select_indices(kept)  # type: ignore[attr-defined]
        self.mask, self.positions = self.mask[kept], self.positions[kept]

    def append(self, following: Tensor) -> None:
        """Go on with an id (B,) a row: what came before is in the cache."""
        self.ids, self.positions = following[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(following), 1)], dim=1)


class _Anew:
    """The same without a cache, all of a row read again for each id: slow, and right of whatever is causal."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model, self.rows = model, [[*prompt] for prompt in prompts]

    def logits(self) -> Tensor:
        size = max(1, LOGITS // (limits(self.model)[0] * max(map(len, self.rows))))
        newest = []
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            # the padding stands behind every real id, so a causal model needs no mask
            ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.model.device)
            logits = self.model(ids, use_cache=False).logits  # (B, T, V)
            newest.append(logits[range(len(rows)), [len(row) - 1 for row in rows]])
        return torch.cat(newest)

    def keep(self, kept: Tensor) -> None:
        self.rows = [self.rows[place] for place in kept.tolist()]

    def append(self, following: Tensor) -> None:
        for row, token in zip(self.rows, following.tolist(), strict=True):
            row.append(token)


def _reads_on_from_cache(model: Any) -> bool:
    """Whether a row that was padded on the left, and whose batch shrank, goes on from the cache as it does alone. Not
    so of recurrent models, whose state has read the padding, nor of models that keep no cache or one of their own."""
    try:
        reading = _Cached(model, [[1, 2], [1, 2, 3, 4]])
        reading.logits()
        reading.keep(torch.tensor([0], device=model.device))
        reading.append(torch.tensor([5], device=model.device))
        cached = reading.logits()[0]
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # in as many ways as there are models
        return False
    return is_alike(cached, model(torch.tensor([[1, 2, 5]], device=model.device), use_cache=False).logits[0, -1])


def is_alike(logits: Tensor, expected: Tensor) -> bool:
    """Whether two rows of logits differ by rounding alone: by 1 % of their spread at most."""
    return bool((logits - expected).abs().max() <= 0.01 * (expected - expected.mean()).abs().max())


def _continue(
    reading: _Cached | _Anew, tokenizer: Any, room: Sequence[int], muted: Tensor, ends: _Ends, pick: Pick
) -> list[list[int]]:
    """Ids said after each prompt, what ends it among them, at most as many as its `room`. `muted` [ids] is added to the
    logits. A row that has ended leaves the batch."""
    new_ids: list[list[int]] = [[] for _ in room]
    rows = list(range(len(room)))
    while True:
        following = pick(reading.logits().float() + muted, rows)  # (B, V) to (B,)
        ended = ends.alone[following].tolist()
        for place, (row, token) in enumerate(zip(rows, following.tolist(), strict=True)):
            new_ids[row].append(token)
            is_last = len(new_ids[row]) == room[row] or (token in ends.turn and TURN in tokenizer.decode(new_ids[row]))
            ended[place] = ended[place] or is_last
        left = [place for place, is_last in enumerate(ended) if not is_last]
        if not left:
            return new_ids
        if len(left) < len(rows):
            rows, kept = [rows[place] for place in left], torch.tensor(left, device=muted.device)
            reading.keep(kept)
            following = following[kept]
        reading.append(following)
