"""Scores: the right answer's log-probability among all of the table, and nats and bits of text."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokentrial.arms.arm import Arm
from tokentrial.evaluate.generate import encode_plain, encode_prompts, is_alike, limits, unsayable, unsayable_mask
from tokentrial.pretrain.validate import LOGITS, Scored, document_nats
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.vocabulary import unicode_to_bytes

_NODES = 512  # of a tree at most: its mask grows with their square
_WAYS = 100_000  # spelled out at a time: of a table of 1 to 100 there are a hundred million in all
# kinds of spellings, by what may not follow them
_BARE, _STATED, _TOKEN = "bare", "stated", "token"

IdPrefix = tuple[int, ...]


class Way(NamedTuple):
    """One spelling of an answer after a prompt."""

    text: str
    answer: str
    kind: str


class _Tree(NamedTuple):
    """The distinct beginnings of some ways to answer one example: `nodes[()]` is 0, the prompt's own end, and every
    other one is an id after what it continues. `ways` are (number of the answer, ids, kind)."""

    example: int
    prompt: list[int]
    ways: list[tuple[int, IdPrefix, str]]
    nodes: dict[IdPrefix, int]


class _Said(NamedTuple):
    """What a way came to: the number of its answer, its kind, and ln of the probability of it, closed."""

    answer: int
    kind: str
    logprob: float


class Spelling:
    """How an arm can spell the answers of the table after a probe's prompt: what of it the reader takes for them."""

    def __init__(self, arm: Arm) -> None:
        self.arm, self.task = arm, Arithmetic(facts=arm.facts)
        alone = [Way(f" {answer}", answer, _BARE) for answer in arm.facts.answers]
        tokens = [
            Way(f" {token}", answer, _TOKEN) for answer in arm.facts.answers for token in arm.answer_tokens(answer)
        ]
        self._of_all = self._read([*alone, *tokens])

    def ways(self, example: Example) -> list[Way]:
        """Each answer as it is, by a token that states it, and as the question's equation; and as the arm writes that:
        with a token in its left side, before its right answer or behind it."""
        left, answers = f" {example.left}=", self.arm.facts.answers
        ways = {way.text: way for way in self._of_all}
        stated = [Way(f"{left}{answer}", answer, _STATED) for answer in answers]
        # what is read after an equation sign does not depend on which answer it is
        if self._read(stated[:1]):
            ways |= {way.text: way for way in stated}
        if example.fact and not self.arm.is_random:
            right = example.fact.answer
            own = self.arm.rewrite(f"{left}{right}")
            written = [Way(own, right, _STATED if own.endswith(right) else _TOKEN)]
            if own.endswith(right) and own not in ways:
                written = [Way(own.removesuffix(right) + answer, answer, _STATED) for answer in answers]
            ways = {way.text: way for way in self._read(written)} | ways
        return list(ways.values())

    def _read(self, ways: Sequence[Way]) -> list[Way]:
        return [way for way in ways if self.task.extract_answer(self.arm.untokenize(way.text)) == way.answer]


def closers(tokenizer: Any, arm: Arm, size: int) -> dict[str, Tensor]:
    """By a way's kind a mask [size] of the ids after which it is the answer, whatever comes then but another way of the
    table (or, after a point or comma, a digit); a kind that is left out needs nothing after it.

    A number ends where no digit follows. One that stands alone is open, too, before an operator and before blanks,
    after which an operator may come: `6*9=54` begins as the answer 6 does. Words end where no letter, digit or `_`
    follows, and neither `=` nor blanks. `untokenize` sets off what follows a number's token.
    """
    if arm.facts.numeric:
        operators = (*"*×x", *arm.facts.operators)
        signs = [re.escape(operator) for operator in operators]
        signs += [re.escape(operator[:length]) + r"\Z" for operator in operators for length in range(1, len(operator))]
        going_on = {_BARE: rf"[0-9]| {{0,2}}(?:{'|'.join(signs)}|\ufffd|\Z)", _STATED: "[0-9]"}
    else:
        going_on = dict.fromkeys((_BARE, _STATED, _TOKEN), r"[\w\ufffd]| *(?:=|\Z)")
    texts, masks = _id_texts(tokenizer, arm, size), {}
    for kind, pattern in going_on.items():
        goes_on = re.compile(pattern).match
        masks[kind] = torch.tensor([text is not None and not goes_on(text) for text in texts])
        masks[kind][unsayable(tokenizer)] = False
    return masks


def _id_texts(tokenizer: Any, arm: Arm, size: int) -> list[str | None]:
    """What each id adds to an answer's plain text; None of a padded row, which the tokenizer does not have. A part of a
    character is U+FFFD."""
    stand_ins, before = unicode_to_bytes(), "0" if arm.facts.numeric else "a"
    own, texts = set(arm.tokens), list[str | None]()
    for token in tokenizer.convert_ids_to_tokens(list(range(size))):
        if token is None:
            texts.append(None)
        elif token in own:  # which `untokenize` sets off from a digit
            texts.append(arm.untokenize(f"{before}{token}")[1:])
        elif all(character in stand_ins for character in token):
            texts.append(bytes(stand_ins[character] for character in token).decode(errors="replace"))
        else:
            texts.append(token.replace("▁", " "))  # the blank of SentencePiece
    return texts


def choice_logprobs(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example]) -> list[float]:
    """For each example of the table, ln of the right answer's share of the probability of all answers of the table."""
    shares = answer_logprobs(model, tokenizer, arm, examples)
    return [row[arm.facts.answers.index(example.answer)] for example, row in zip(examples, shares, strict=True)]


def answer_logprobs(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example]) -> list[list[float]]:
    """For each example of the table, ln of each answer's share of the probability of all, in their order."""
    logprobs = spelled_logprobs(model, tokenizer, arm, examples)
    shares: list[list[float]] = (logprobs - np.logaddexp.reduce(logprobs, axis=1, keepdims=True)).tolist()
    return shares


@torch.no_grad()
def spelled_logprobs(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example]) -> NDArray[np.float64]:
    """For each example of the table, ln of the probability of each answer, [examples, answers].

    It is the probability of all completions that begin with one of the answer's ways (`Spelling`), encoded as the
    tokenizer encodes it, and go on with an id that closes it (`closers`), less those that go on to another way, as
    ` New` to ` New York` or ` 3.` to ` 3.5`. The reader takes every one of them for this answer, of words unless an `=`
    follows later in the line, of numbers unless a point or comma and a digit follow at once. None counts twice: the
    probabilities of all answers and of the rest, no answer, add up to 1.
    Left out, though the reader may find an answer in it: what says something else first, equations of other operands
    or spelled otherwise, a number before an operator or before a blank that is an id by itself, unusual encodings.
    """
    allowed = {kind: mask.to(model.device) for kind, mask in closers(tokenizer, arm, limits(model)[0]).items()}
    muted = unsayable_mask(model, tokenizer)
    closing = {kind: mask.numpy(force=True) for kind, mask in allowed.items()}
    branching, spelling = _attends_as_masked(model), Spelling(arm)
    of_answers = np.full((len(examples), len(arm.facts.answers)), -np.inf)
    count = max(1, _WAYS // (2 * len(arm.facts.answers) + len(arm.tokens)))
    for start in range(0, len(examples), count):
        said: list[dict[IdPrefix, _Said]] = [{} for _ in examples[start : start + count]]
        trees = sorted(
            _trees(tokenizer, spelling, examples[start : start + count], allowed, _NODES if branching else 0),
            key=lambda tree: len(tree.prompt) + len(tree.nodes),
        )
        while trees:
            longest = len(trees[-1].prompt) + len(trees[-1].nodes)
            rows = max(1, LOGITS // (longest * max(longest, limits(model)[0])))
            chosen, trees = trees[-rows:], trees[:-rows]
            logprobs = iter(_way_logprobs(model, chosen, muted, allowed, branching))
            for tree in chosen:
                for answer, way, kind in tree.ways:
                    said[tree.example][way] = _Said(answer, kind, next(logprobs))
        for of_example, ways in zip(of_answers[start:], said, strict=False):
            for answer, logprob in _without_longer(ways, closing):
                of_example[answer] = np.logaddexp(of_example[answer], logprob)
    return of_answers


def _without_longer(
    ways: Mapping[IdPrefix, _Said], closing: Mapping[str, NDArray[np.bool_]]
) -> Iterator[tuple[int, float]]:
    """Of one example each way's answer, and ln of its probability without that of the longer ways that go on with an id
    which closes it: what begins so is counted there."""
    longer: dict[IdPrefix, float] = {}
    for way in sorted(ways, key=len, reverse=True):
        answer, _, logprob = ways[way]
        if longer.get(way, -math.inf) > -math.inf:
            # the difference of two sums in single precision is known to about so much
            logprob += math.log(max(1 - math.exp(longer[way] - logprob), 1e-7))
        yield answer, logprob
        for length in range(1, len(way)):
            before = ways.get(way[:length])
            if before and before.kind in closing and closing[before.kind][way[length]]:
                longer[way[:length]] = float(np.logaddexp(longer.get(way[:length], -np.inf), logprob))


def _trees(
    tokenizer: Any, spelling: Spelling, examples: Sequence[Example], allowed: Mapping[str, Tensor], most: int
) -> Iterator[_Tree]:
    """The ways to answer each example, in trees of at most so many nodes, or of one way."""
    numbers = {answer: number for number, answer in enumerate(spelling.arm.facts.answers)}
    spelled = [spelling.ways(example) for example in examples]
    texts = list(dict.fromkeys(way.text for of_example in spelled for way in of_example))
    ids = dict(zip(texts, map(tuple, encode_plain(tokenizer, texts)), strict=True)) if texts else {}
    prompts = encode_prompts(tokenizer, [example.prompt for example in examples]) if examples else []
    for example, (prompt, of_example) in enumerate(zip(prompts, spelled, strict=True)):
        # in the order of their ids neighbours share beginnings
        in_order = sorted((ids[way.text], numbers[way.answer], way.kind) for way in of_example)
        tree = _Tree(example, prompt, [], {(): 0})
        for way, answer, kind in in_order:
            if tree.ways and len(tree.nodes) + len(way) > most:
                yield tree
                tree = _Tree(example, prompt, [], {(): 0})
            tree.ways.append((answer, way, kind))
            for length in range(1, len(way) + (kind in allowed)):
                tree.nodes.setdefault(way[:length], len(tree.nodes))
        yield tree


def _way_logprobs(
    model: Any, trees: Sequence[_Tree], muted: Tensor, allowed: Mapping[str, Tensor], branching: bool
) -> list[float]:
    """ln of the probability of every way of the trees, closed, in one forward pass."""
    device = muted.device
    width = max(len(tree.prompt) - 1 + len(tree.nodes) for tree in trees)
    ids = torch.zeros((len(trees), width), dtype=torch.long)  # (B, T): a row holds a prompt, then the tree's nodes
    for row, tree in zip(ids, trees, strict=True):
        sequence = [*tree.prompt, *(prefix[-1] for prefix in tree.nodes if prefix)]
        row[: len(sequence)] = torch.tensor(sequence)
    masked = _as_masked(trees, width, model.dtype) if branching else {}
    # what is padded stands behind all else, so without branches a causal model needs no mask
    on_device = {name: tensor.to(device) for name, tensor in masked.items()}
    logits = model(ids.to(device), use_cache=False, **on_device).logits
    sizes = [len(tree.nodes) for tree in trees]
    rows = torch.tensor([row for row, size in enumerate(sizes) for _ in range(size)], device=device)
    places = torch.tensor([len(t.prompt) - 1 + node for t in trees for node in range(len(t.nodes))], device=device)
    logprobs = (logits[rows, places].float() + muted).log_softmax(-1)  # [nodes of all trees, ids]

    steps: list[tuple[int, int, int]] = []  # way, node before, id
    closed: dict[str, list[tuple[int, int]]] = {kind: [] for kind in allowed}  # way, node
    way = first = 0
    for tree, size in zip(trees, sizes, strict=True):
        for _, way_ids, kind in tree.ways:
            steps += [(way, first + tree.nodes[way_ids[:k]], token) for k, token in enumerate(way_ids)]
            if kind in allowed:
                closed[kind].append((way, first + tree.nodes[way_ids]))
            way += 1
        first += size
    of_way, before, token = torch.tensor(steps, device=device).T
    # in double, as on a GPU `index_add_` adds in any order
    totals = torch.zeros(way, dtype=torch.double, device=device)  # (ways,)
    totals.index_add_(0, of_way, logprobs[before, token].double())
    for kind, mask in allowed.items():
        if closed[kind]:
            of_way, node = torch.tensor(closed[kind], device=device).T
            closing = logprobs[node].masked_fill(~mask, -torch.inf)  # (ways of the kind, V)
            totals.index_add_(0, of_way, closing.logsumexp(-1).double())
    return totals.tolist()


def _as_masked(trees: Sequence[_Tree], width: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Positions [rows, width] and the mask [rows, 1, width, width], added to scores, by which each node sees the
    prompt, what it continues and itself."""
    positions = np.zeros((len(trees), width), np.int64)
    sees = np.zeros((len(trees), width, width), bool)
    sees[:] = np.eye(width, dtype=bool)  # of the padding too: a row that sees nothing is NaN
    for row, tree in enumerate(trees):
        end = len(tree.prompt)
        sees[row, :end, :end] = np.tri(end, dtype=bool)
        positions[row, :end] = np.arange(end)
        for prefix, node in tree.nodes.items():
            if prefix:
                sees[row, end - 1 + node] |= sees[row, end - 1 + tree.nodes[prefix[:-1]]]
                positions[row, end - 1 + node] = end - 1 + len(prefix)
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~torch.from_numpy(sees), torch.finfo(dtype).min)
    return {"position_ids": torch.from_numpy(positions), "attention_mask": mask[:, None]}


def _attends_as_masked(model: Any) -> bool:
    """Whether the model takes a mask of its own for each id: whether of two continuations side by side the second is
    what it is alone. Where it is not (recurrent models, ALiBi), each way is asked by itself."""
    branches = _Tree(0, [1, 2], [], {(): 0, (3,): 1, (4,): 2})
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    try:
        masked = {name: mask.to(model.device) for name, mask in _as_masked([branches], 4, model.dtype).items()}
        branched = model(ids, use_cache=False, **masked).logits[0, -1]
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # in as many ways as there are models
        return False
    return is_alike(branched, model(ids[:, [0, 1, 3]], use_cache=False).logits[0, -1])


def document_bits(model: Any, documents: Sequence[NDArray[np.uint16]], batch: int) -> list[float]:
    """Bits of each document's ids after its first (eos); see `document_nats`."""
    return [nats / math.log(2) for nats in document_nats(scored(model), documents, batch)]


def scored(model: Any) -> Scored:
    """A causal model of transformers as scores see it."""
    return Scored(lambda ids: model(ids, use_cache=False).logits, *limits(model), model.device)
