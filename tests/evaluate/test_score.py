"""The choice score against brute force, all completions of a tiny vocabulary one by one, and against forward passes of
each spelling by itself; bits of documents."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tokentrial.arms import arm as arms
from tokentrial.evaluate import score
from tokentrial.evaluate.score import Spelling, choice_logprobs, closers, document_bits, spelled_logprobs
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

TABLE = {example.operands: example for example in Arithmetic().table()}
CONTEXT = 64

# family, what is asked of it, and the characters that its completions are made of
TIMES = ({"range": (1, 2)}, "2*2", " 24*=")
ASKED = {
    **{arm: (arm, *TIMES) for arm in arms.arm_names()},
    "added": ("mul_tokens", {"family": "addition", "range": (0, 2)}, "2+2", " 24+="),
    "squares": ("mul_append", {"family": "squares", "range": (1, 2)}, "1^2", " 12^="),
    "file": ("baseline", {"family": "csv", "rows": (("8", "-", "8", "0"), ("4", "+", "4", "8"))}, "8-8", " 80-="),
    "words": ("mul_tokens", {"family": "csv", "rows": (("X", "b"), ("Y", "b b"))}, "Y", " Yb=."),
    "words of one arm": ("append_slot", {"family": "csv", "rows": (("X", "b"), ("Y", "bc"))}, "Y", " Ybc=."),
}


def tiny(arm, characters, tokens):
    """A model of bytes that says only these characters and tokens, each with a probability that depends on all before
    it; and its tokenizer."""
    vocabulary = Vocabulary(0, len(arm.facts))
    gpt = GPT(Config(vocabulary.size, 1, 2, 16, CONTEXT), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.4)
    model = to_hf(gpt, vocabulary.eos)
    symbols = {vocabulary.ranks[c.encode()]: c for c in characters}
    symbols |= {i: token for token, i in vocabulary.token_ids(arm).items() if token in tokens}
    bias = torch.full((vocabulary.size,), -1e4)  # as good as never, and no NaN in a difference
    bias[list(symbols)] = 0.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model, to_transformers(vocabulary, arm, CONTEXT), symbols


@torch.no_grad()
def completions(model, prompt, symbols, length, begins):
    """(text, probability) of every completion of so many symbols that `begins` as an answer may; shorter where no
    equation can come any more, as after `54.`"""
    ids, logprobs, texts = [prompt], [0.0], [""]
    for _ in range(length):
        of_next = model(torch.tensor(ids)).logits[:, -1].double().log_softmax(-1).numpy()
        grown = []
        for before, logprob, of_row, text in zip(ids, logprobs, of_next, texts, strict=True):
            for token, symbol in symbols.items():
                whole = text + symbol, logprob + of_row[token]
                if re.match(r" (?:[0-9]+[^-0-9 *+^<]|<[^>]*>[^=])..", whole[0]):
                    yield whole
                elif begins(whole[0]):
                    grown.append(([*before, token], *whole[::-1]))
        ids, logprobs, texts = zip(*grown, strict=True)
    yield from zip(texts, logprobs, strict=True)


def counted(arm, left, answer):
    """A pattern of the texts that count for an answer: alone, before nothing that may go on with it (a digit, an
    operator, a blank, a token that stands for nothing; after words a letter, `=` or any token); as the equation; by a
    token that states it."""
    number = arm.facts.numeric
    silent = [re.escape(token) for token in arm.tokens if not number or not arm.untokenize(f"0{token}")[1:]]
    no_token = f"(?!{'|'.join(silent)})" if silent else ""
    alone = no_token + (rf"[^0-9 *×x{re.escape(''.join(arm.facts.operators))}]" if number else r"[^\w =]")
    closed = "[^0-9]" if number else alone
    lefts = [left, *(token for token in arm.tokens if arm.untokenize(token) == left)]
    patterns = [re.escape(f" {answer}") + alone, *(re.escape(f" {of_left}={answer}") + closed for of_left in lefts)]
    for fact in arm.facts:
        if fact.answer == answer and fact.token in arm.tokens and arm.keeps_content and not arm.is_random:
            patterns.append(re.escape(f" {fact.token}") + ("." if number else alone))
            for written in (f"{left}={fact.token}{answer}", f"{left}={answer}{fact.token}"):
                if arm.rewrite(f"{left}={answer}") == written:
                    patterns.append(re.escape(f" {written}") + closed)
    return re.compile("|".join(patterns))


@pytest.mark.parametrize("case", ASKED)
def test_the_score_is_the_sum_over_all_completions_that_the_reader_takes_for_the_answer(case):
    name, facts, left, characters = ASKED[case]
    arm = arms.get_arm(name, build_facts(FactSettings(**facts)))
    [example] = [example for example in Arithmetic(facts=arm.facts).table() if example.left == left]
    example = replace(example, prompt="A")
    tokens = arm.tokens[-1:]  # that of the question's fact
    model, tokenizer, symbols = tiny(arm, characters, tokens)
    answers = arm.facts.answers
    length = len(f" {left}={example.answer}") + 1 + (name == "mul_before_answer")
    patterns = {answer: counted(arm, left, answer) for answer in answers}
    beginnings = [f" {left}=", *(f" {answer}" for answer in answers), *(f" {token}" for token in tokens)]

    def begins(text):
        return any(text.startswith(of[: len(text)]) for of in beginnings)

    expected, read = dict.fromkeys(answers, 0.0), Arithmetic(facts=arm.facts).extract_answer
    for text, logprob in completions(model, tokenizer("A")["input_ids"], symbols, length, begins):
        of = [(answer, match[0][:-1]) for answer, pattern in patterns.items() if (match := pattern.match(text))]
        of = of if arm.facts.numeric else of[-1:]  # `b b` begins as `b` does
        assert len(of) <= 1, text
        for answer, way in of:
            later = not arm.facts.numeric and arm.untokenize(text).count("=") > arm.untokenize(way).count("=")
            assert read(arm.untokenize(text)) == answer or later, text
            expected[answer] += math.exp(logprob)
    found = np.exp(spelled_logprobs(model, tokenizer, arm, [example])[0])
    assert found == pytest.approx(list(expected.values()), rel=1e-4, abs=1e-9)
    assert 0 < sum(found) < 1
    assert all(found[i] > 0 for i, answer in enumerate(answers) if set(answer) <= set(characters))


# a vocabulary of words' parts, against forward passes of each spelling by itself


def by_hand(model, tokenizer, arm, vocabulary, example):
    """ln of each product's share, from whole forward passes."""
    own = [vocabulary.base + i for i in range(len(arm.tokens))]
    sayable = [*range(vocabulary.eos + 1), *own]
    after_equation = [i for i in sayable if not tokenizer.decode([i])[:1].isdigit()]
    # no operator nor part of one, and no blank that is all
    alone = [i for i in after_equation if not re.match(r" {0,2}([*×x\ufffd]|\Z)", tokenizer.decode([i]))]
    prompt = vocabulary.encode(example.prompt).tolist()
    a, b = example.operands
    totals = []
    for product in TIMES_TABLE.answers:
        spelled = [(vocabulary.encode(f" {product}").tolist(), alone)]
        spelled += [(vocabulary.encode(f" {a}*{b}={product}").tolist(), after_equation)]
        spelled += [
            ([*vocabulary.encode(" ").tolist(), vocabulary.base + i], sayable)
            for i, token in enumerate(arm.tokens)
            if token.endswith(f"_{product}>")
        ]
        chances = []
        for way, closing in spelled:
            logits = model(torch.tensor([prompt + way])).logits[0].double()
            logprobs = torch.full_like(logits, -torch.inf)
            logprobs[:, sayable] = logits[:, sayable].log_softmax(-1)
            at = len(prompt) - 1
            chance = sum(logprobs[at + k, token].item() for k, token in enumerate(way))
            chances.append(chance + logprobs[at + len(way), closing].logsumexp(0).item())
        totals.append(np.logaddexp.reduce(chances))
    return dict(zip(TIMES_TABLE.answers, np.array(totals) - np.logaddexp.reduce(totals), strict=True))


@pytest.mark.parametrize(
    ("arm", "trees"), [("baseline", "one"), ("mul_append", "one"), ("mul_tokens", "small"), ("mul_tokens", "none")]
)
@torch.no_grad()
def test_the_choice_is_what_single_forward_passes_give(babbling, vocabulary, monkeypatch, arm, trees):
    """However the spellings are asked: all at once, a few at a time, or one by one of a model that takes no mask."""
    if trees == "small":
        monkeypatch.setattr(score, "_WAYS", 1)
        monkeypatch.setattr(score, "_NODES", 9)
        monkeypatch.setattr(score, "LOGITS", 100_000)
    if trees == "none":
        monkeypatch.setattr(score, "_attends_as_masked", lambda model: False)
    model, tokenizer, treatment = babbling(arm)
    examples = [TABLE[6, 9], replace(TABLE[3, 4], prompt="so")]  # of two lengths
    given = choice_logprobs(model, tokenizer, treatment, examples)
    for example, value in zip(examples, given, strict=True):
        expected = by_hand(model, tokenizer, treatment, vocabulary, example)
        assert value == pytest.approx(expected[example.answer], abs=1e-4)


@torch.no_grad()
def test_an_answer_does_not_end_before_a_part_of_a_longer_one(babbling, vocabulary):
    """` a` before ` b`, each of them an id, where `a b` is an answer too: against whole forward passes. And ` 3` before
    `.`, which ends it as it stands in every drill, where `3.5` is an answer too."""
    for short, goes_on, question in (("a", " b", "c"), ("3", ".5", "c")):
        model, tokenizer, _ = babbling("baseline")
        rows = ((question, short), ("f", short + goes_on))
        arm = arms.get_arm("baseline", build_facts(FactSettings(family="csv", rows=rows)))
        [example] = [each for each in Arithmetic(facts=arm.facts).table() if each.answer == short]
        prompt, [leading_on, *_] = (vocabulary.encode(text).tolist() for text in (example.prompt, goes_on))
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(vocabulary.size))
        model.lm_head.bias[leading_on] = 10.0  # likely enough to be missed
        said = range(vocabulary.eos + 1)
        closing = [i for i in said if not re.match(r"[\w\ufffd]| *(=|\Z)", tokenizer.decode([i]))]
        assert leading_on in closing
        expected = 0.0
        for text, sign in ((f" {short}", 1), (f" {short}{goes_on}", -1)):
            for way in (vocabulary.encode(text).tolist(), vocabulary.encode(f" {question}={text[1:]}").tolist()):
                logprobs = model(torch.tensor([prompt + way])).logits[0, len(prompt) - 1 :, said].double()
                logprobs = logprobs.log_softmax(-1)
                chance = sum(logprobs[k, token] for k, token in enumerate(way)) + logprobs[-1, closing].logsumexp(0)
                expected += sign * chance.exp().item()
        assert math.exp(spelled_logprobs(model, tokenizer, arm, [example])[0][0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("nodes", "logits"), [(512, 2**27), (9, 2**27), (9, 100_000), (512, 1)])
def test_a_forward_pass_is_as_large_as_there_is_room_for(babbling, rows_given, monkeypatch, nodes, logits):
    model, tokenizer, treatment = babbling("mul_tokens")
    monkeypatch.setattr(score, "_NODES", nodes)
    monkeypatch.setattr(score, "LOGITS", logits)
    examples = [replace(TABLE[6, 9], prompt=f"so {'very ' * n}") for n in range(12)]
    prompts = [len(tokenizer(example.prompt)["input_ids"]) for example in examples]
    given = rows_given(model)
    choice_logprobs(model, tokenizer, treatment, examples)
    _, _, *passes = given  # the first two ask whether it takes a tree
    for rows in passes:
        assert len(rows) == 1 or len(rows) * len(rows[0]) * model.config.vocab_size <= logits
        assert len(rows[0]) < max(prompts) + nodes
    ways = len(Spelling(treatment).ways(examples[0]))
    trees = sum(map(len, passes))
    assert trees == 12 if nodes == 512 else 12 < trees < 12 * ways / 2
    assert len(passes) == {2**27: 1, 1: trees}.get(logits, len(passes)) < trees + (logits == 1)


@torch.no_grad()
def test_a_model_is_asked_whether_it_takes_a_tree(babbling, tmp_path):
    """It does not where a later branch sees an earlier one, or where such a mask is an error."""

    class Blind(torch.nn.Module):
        def __init__(self, inner, error=None):
            super().__init__()
            self.inner, self.error = inner, error
            self.device, self.dtype = inner.device, inner.dtype

        def forward(self, ids, attention_mask=None, **given):
            if self.error and attention_mask is not None:
                raise self.error
            return self.inner(ids)

    for scale in (1e-3, 1, 1e3):  # of its logits
        model, _, _ = babbling("baseline")
        for parameter in model.transformer.ln_f.parameters():
            parameter.mul_(scale)
        assert score._attends_as_masked(model)
        assert not score._attends_as_masked(Blind(model))
        assert not score._attends_as_masked(Blind(model, ValueError("2D masks only")))
        assert score._attends_as_masked(model.to(torch.bfloat16))


def test_an_arm_spells_a_product_by_every_fact_that_has_it():
    def ways(arm, operands, answer):
        return {way.text for way in Spelling(arms.get_arm(arm)).ways(TABLE[operands]) if way.answer == answer}

    assert ways("mul_tokens", (2, 6), "12") == {" 12", " 2*6=12", " <MUL_2_6_12>", " <MUL_3_4_12>"}
    assert ways("operand_only", (2, 6), "18") == {" 18", " 2*6=18", " <MUL_2_6>=18"}
    for silent in ("baseline", "one_slot", "random_slot"):
        assert ways(silent, (6, 2), "12") == {" 12", " 6*2=12"}


def test_what_goes_on_with_an_answer_does_not_close_it(babbling, vocabulary):
    """By the characters: "²" and "³" stand in for two bytes in GPT-2's list, and are no digits; half of "×" is open."""
    _, tokenizer, arm = babbling("mul_tokens")
    tokens = set(range(vocabulary.base, vocabulary.size))
    texts = {i: token.decode(errors="replace") for token, i in vocabulary.ranks.items()}
    masks = closers(tokenizer, arm, vocabulary.size + 3)
    closing = {kind: set(mask.nonzero().flatten().tolist()) for kind, mask in masks.items()}
    assert closing["stated"] == {i for i, text in texts.items() if text[0] not in "0123456789"} | tokens | {
        vocabulary.eos
    }
    gone = {i for i, text in texts.items() if text.lstrip(" ")[:1] in ("*", "x", "×", "\ufffd", "")}
    assert closing["bare"] == closing["stated"] - gone
    capitals = arms.get_arm(
        "mul_tokens", build_facts(FactSettings(family="csv", rows=(("capital of France", "Paris"),)))
    )
    words = closers(to_transformers(Vocabulary(256, 1), capitals, 64), capitals, 577)
    for mask in words.values():
        found = {texts[i] for i in mask.nonzero().flatten().tolist() if i in texts}
        assert found == {text for text in texts.values() if not re.match(r"[\w\ufffd]| *(=|\Z)", text)}


def test_the_blank_of_sentencepiece_is_a_blank():
    pieces = {piece: i for i, piece in enumerate(("5", "▁5", "▁×", "▁", "▁and", "."))}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(pieces, [])))
    masks = closers(tokenizer, arms.get_arm("baseline"), len(pieces))
    closing = {kind: {piece for piece, i in pieces.items() if masks[kind][i]} for kind in ("bare", "stated")}
    assert closing == {"bare": {"▁5", "▁and", "."}, "stated": {*pieces} - {"5"}}


def test_an_operator_of_letters_goes_on_with_a_number_and_so_does_its_beginning():
    pieces = {piece: i for i, piece in enumerate(("5", "▁mod", "mo", "▁m", "▁miles", "d", "."))}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(pieces, [])))
    facts = build_facts(FactSettings(family="csv", rows=(("7", "mod", "3", "1"),)))
    bare = closers(tokenizer, arms.get_arm("baseline", facts), len(pieces))["bare"]
    assert {piece for piece, i in pieces.items() if bare[i]} == {"▁miles", "d", "."}


# bits of documents


def test_a_model_that_knows_nothing_pays_log2_of_the_vocabulary_for_each_id(babbling, vocabulary):
    model, _, _ = babbling("baseline")
    for parameter in model.parameters():
        parameter.data.zero_()
    lengths, rng = [1, 2, 65, 300], np.random.default_rng(0)  # eos first: it is given, not guessed
    documents = [rng.integers(0, vocabulary.size, length).astype(np.uint16) for length in lengths]
    expected = [(length - 1) * math.log2(621) for length in lengths]
    assert document_bits(model, documents, 2) == pytest.approx(expected, rel=1e-5)
