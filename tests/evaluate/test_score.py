"""Scores of text, recomputed the slow way: one forward pass a spelling, one a window, no cache and no batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.evaluate.generate import unsayable
from tokentrial.evaluate.score import choice_logprobs, closing_starts, document_bits, ways
from tokentrial.tasks.arithmetic import Arithmetic

TABLE = {example.operands: example for example in Arithmetic().table()}


def may_close(vocabulary, said):
    """Ids that may follow a number without making it longer: all that can be said but those that begin with a
    digit's byte."""
    digits = {i for token, i in vocabulary.ranks.items() if 48 <= token[0] <= 57}
    return [i for i in said if i not in digits]


def by_hand(model, tokenizer, arm, vocabulary, example):
    """ln of each product's share, from whole forward passes."""
    own = [vocabulary.base + i for i in range(len(arm.tokens))]
    said = [*range(vocabulary.eos + 1), *own]
    closing = may_close(vocabulary, said)
    prompt = vocabulary.encode(example.prompt).tolist()
    a, b = example.operands
    totals = []
    for product in TIMES_TABLE.answers:
        spelled = [vocabulary.encode(f" {product}").tolist(), vocabulary.encode(f" {a}*{b}={product}").tolist()]
        spelled += [
            [*vocabulary.encode(" ").tolist(), vocabulary.base + i]
            for i, token in enumerate(arm.tokens)
            if token.endswith(f"_{product}>")
        ]
        chances = []
        for way in spelled:
            logits = model(torch.tensor([prompt + way])).logits[0].double()
            logprobs = torch.full_like(logits, -torch.inf)
            logprobs[:, said] = logits[:, said].log_softmax(-1)
            at = len(prompt) - 1
            chance = sum(logprobs[at + k, token].item() for k, token in enumerate(way))
            chances.append(chance + logprobs[at + len(way), closing].logsumexp(0).item())
        totals.append(np.logaddexp.reduce(chances))
    return dict(zip(TIMES_TABLE.answers, np.array(totals) - np.logaddexp.reduce(totals), strict=True))


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens", "mul_append", "one_slot"])
@torch.no_grad()
def test_the_choice_is_what_single_forward_passes_give(babbling, vocabulary, arm):
    model, tokenizer, treatment = babbling(arm)
    examples = [TABLE[6, 9], TABLE[1, 1], TABLE[3, 4]]
    given = choice_logprobs(model, tokenizer, treatment, examples)
    for example, value in zip(examples, given, strict=True):
        expected = by_hand(model, tokenizer, treatment, vocabulary, example)
        assert value == pytest.approx(expected[example.answer], abs=1e-4)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_the_shares_of_the_36_products_add_up_to_one(babbling, vocabulary, arm):
    """The same prompt, with each product in turn taken for the right one."""
    model, tokenizer, treatment = babbling(arm)
    every = [replace(TABLE[6, 9], answer=str(product)) for product in TIMES_TABLE.answers]
    assert len(every) == 36
    given = choice_logprobs(model, tokenizer, treatment, every)
    assert sum(map(math.exp, given)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_a_model_that_knows_nothing_scores_by_the_spellings_alone(babbling, vocabulary, arm):
    """All weights zero: each of V ids has chance 1/V, a spelling of k ids V^-k. A product of one digit and one of two
    differ where the digits are two ids, which is why -ln 36 is the floor only nearly."""
    model, tokenizer, treatment = babbling(arm)
    for parameter in model.parameters():
        parameter.data.zero_()
    said = vocabulary.size - len(unsayable(tokenizer))
    chances = {
        product: sum(
            said ** -float(len(tokenizer(way, add_special_tokens=False)["input_ids"]))
            for way in ways(treatment, TABLE[7, 8], product)
        )
        for product in TIMES_TABLE.answers
    }
    [given] = choice_logprobs(model, tokenizer, treatment, [TABLE[7, 8]])
    assert given == pytest.approx(math.log(chances["56"] / sum(chances.values())), abs=1e-5)


def test_the_floor_is_one_of_36():
    assert len(TIMES_TABLE.answers) == len({a * b for a in range(1, 10) for b in range(1, 10)}) == 36


def test_knowing_the_answer_is_rewarded_in_digits_and_as_a_token(scripted, vocabulary):
    """A model that says " 54." or " <MUL_6_9_54>." after this prompt has the answer for nearly sure."""
    start = len(vocabulary.encode(TABLE[6, 9].prompt)) - 1
    full_stop = vocabulary.encode(".").tolist()
    for arm, said in (
        ("baseline", vocabulary.encode(" 54").tolist()),
        ("mul_tokens", vocabulary.encode(" 54").tolist()),
        ("mul_tokens", [*vocabulary.encode(" ").tolist(), vocabulary.base + 38]),
    ):
        script = {start + k: [token] for k, token in enumerate(said)}
        model, tokenizer, treatment = scripted(arm, lambda p, s=script: s.get(p, full_stop))
        for parameter in (model.transformer.ln_f.weight, model.transformer.ln_f.bias):
            parameter.data *= 4  # surer of itself
            right, wrong = choice_logprobs(model, tokenizer, treatment, [TABLE[6, 9], TABLE[6, 8]])
        assert right > -0.01, (arm, said)
        assert wrong < -3, (arm, said)


def test_an_arm_spells_a_product_by_every_fact_that_has_it():
    assert ways(arms.find("mul_tokens"), TABLE[2, 6], "12") == [" 12", " 2*6=12", " <MUL_2_6_12>", " <MUL_3_4_12>"]
    for silent in ("baseline", "one_slot", "append_slot"):
        assert ways(arms.find(silent), TABLE[6, 2], "12") == [" 12", " 6*2=12"]


def test_what_begins_with_a_digit_cannot_close_a_number(babbling, vocabulary):
    """By the bytes: "²" and "³" stand in for two bytes in GPT-2's list, and are no digits."""
    _, tokenizer, _ = babbling("mul_tokens")
    closing = set(closing_starts(tokenizer, vocabulary.size, numeric=True).nonzero().flatten().tolist())
    assert closing == set(may_close(vocabulary, range(vocabulary.size)))
    assert {vocabulary.ranks[b"\xb2"], vocabulary.ranks[b"\xb3"], vocabulary.ranks[b"\xb9"]} <= closing


def test_what_begins_with_a_letter_or_digit_cannot_close_a_word(babbling, vocabulary):
    """`Par` goes on as `Paris` does: a space, a point or the end of the text close it."""
    _, tokenizer, _ = babbling("mul_tokens")
    closing = set(closing_starts(tokenizer, vocabulary.size, numeric=False).nonzero().flatten().tolist())
    going_on = {i for token, i in vocabulary.ranks.items() if chr(token[0]).isascii() and chr(token[0]).isalnum()}
    assert closing == set(range(vocabulary.size)) - going_on


# bits of documents


def documents(vocabulary, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary.size, length).astype(np.uint16) for length in lengths]


@pytest.mark.parametrize("batch", [1, 3, 64])
@torch.no_grad()
def test_bits_are_those_of_a_plain_loop(babbling, vocabulary, batch):
    model, _, _ = babbling("baseline")
    given = documents(vocabulary, [2, 64, 65, 66, 7, 200, 129])
    expected = []
    for ids in given:
        nats = 0.0
        for start in range(0, len(ids) - 1, 64):
            window = torch.from_numpy(ids[start : start + 65].astype(np.int64))
            logprobs = model(window[None, :-1]).logits[0].log_softmax(-1).double()
            nats -= sum(logprobs[k, token].item() for k, token in enumerate(window[1:].tolist()))
        expected.append(nats / math.log(2))
    assert document_bits(model, given, batch) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_knows_nothing_pays_log2_of_the_vocabulary_for_each_id(babbling, vocabulary):
    model, _, _ = babbling("baseline")
    for parameter in model.parameters():
        parameter.data.zero_()
    lengths = [1, 2, 65, 300]  # eos first: it is given, not guessed
    bits = document_bits(model, documents(vocabulary, lengths), 2)
    assert bits == pytest.approx([(length - 1) * math.log2(621) for length in lengths], rel=1e-5)
