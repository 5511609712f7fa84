"""The exported transformers tokenizer gives our ids for every arm, before and after it is saved; with `rewrite` it
applies the arm by itself: the ids of a text are those of the text rewritten and encoded."""

import random

import orjson
import pytest
from hypothesis import example, given, settings

from tests.arms.test_laws import nameless
from tests.conftest import documents
from tokentrial.arms import arm as arms
from tokentrial.corpus.sources import Source
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.load import load

VOCABULARY, WHOLE = Vocabulary(512, len(TIMES_TABLE)), Vocabulary(50_000, len(TIMES_TABLE))
REWRITING = [name for name in arms.arm_names() if not arms.get_arm(name).is_random]
MARKS = [*" .,;:%$+-*×x/^=_−<>()0123456789ae\n\t", "\u00a0", "   ", "\r\n", ", ", ". ", "² ", "😀", " and ", "é", "一"]
TEXTS = [
    "", "  two  spaces ", "\n\n\tx\r\n", "I'll don't 'tis , is n't it ?", "👍🏽 é ² 你好", "\x00\x7f", "\u0378\uffff",
    "so 6*9=54, 9 × 6 = 54. (2x3=6)<<1*1=1>>", "1.5*4=6 106*9=54 4x4 truck", "a<|endoftext|>b 6*9=54",
    f"<|filler_{VOCABULARY.eos + 1}|> and <|filler_{VOCABULARY.size - 1}|>", "a" * 3000,
]  # fmt: skip


def before_and_after_saving(tokenizer, folder):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    return [tokenizer, AutoTokenizer.from_pretrained(folder)]


@pytest.fixture(scope="module", params=[*((name, 512) for name in arms.arm_names()), ("mul_tokens", 50_000)], ids=str)
def exported(request, tmp_path_factory):
    """(arm, vocabulary, the tokenizer, the tokenizer saved and loaded)"""
    name, merges = request.param
    arm, vocabulary = arms.get_arm(name), Vocabulary(merges, len(TIMES_TABLE))
    folder = tmp_path_factory.mktemp("hf")
    return arm, vocabulary, *before_and_after_saving(to_transformers(vocabulary, arm, 64), folder)


@pytest.fixture(scope="module")
def rewriting():
    """Of every arm the tokenizer that applies it."""
    return {name: to_transformers(VOCABULARY, arms.get_arm(name), 10**6, rewrite=True) for name in REWRITING}


def ids(tokenizer, text):
    """The ids of a text in which a literal `<|endoftext|>` is text like any other."""
    return tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


def test_the_same_ids_as_ours_and_the_text_back(exported):
    """R5: as special tokens the facts vanished from decoded text, and with them every answer that held one."""
    arm, vocabulary, *tokenizers = exported
    for tokenizer in tokenizers:
        for text in TEXTS:
            expected = vocabulary.encode_arm(arm, text).tolist()
            assert ids(tokenizer, arm.rewrite(text)) == expected
            assert tokenizer.decode([*expected, vocabulary.eos], skip_special_tokens=True) == arm.rewrite(text)


def test_every_id_has_its_place_and_only_eos_is_special(exported):
    arm, vocabulary, *tokenizers = exported
    for tokenizer in tokenizers:
        assert len(tokenizer) == vocabulary.size
        assert tokenizer.eos_token_id == tokenizer.pad_token_id == vocabulary.eos
        assert tokenizer("a<|endoftext|>", add_special_tokens=False)["input_ids"][-1] == vocabulary.eos
        fillers = [i for i in range(vocabulary.eos + 1, vocabulary.size) if i >= vocabulary.base + len(arm.tokens)]
        assert tokenizer.convert_ids_to_tokens(fillers) == [f"<|filler_{i}|>" for i in fillers]
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        assert added == {vocabulary.eos: "<|endoftext|>"} | {i: t for t, i in vocabulary.token_ids(arm).items()}
        assert tokenizer.all_special_tokens == ["<|endoftext|>"]
        assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 64)


def test_the_same_ids_on_rewritten_gsm8k(exported, shared_data):
    """What the arm writes by name the exported tokenizer reads as the model was trained."""
    arm, vocabulary, _, loaded = exported
    rows = [orjson.loads(line) for line in (shared_data / "gsm8k" / "train.jsonl").read_bytes().splitlines()[::60]]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    assert sum(arm.rewrite(text) != text for text in texts) > 12 or not arm.tokens
    for text in texts:
        assert ids(loaded, arm.rewrite(text)) == vocabulary.encode_arm(arm, text).tolist()


# rewriting


def generated_texts(count, facts=TIMES_TABLE, seed=0):
    """Texts of facts in all their spellings, of what nearly is one, and of all that may stand beside."""
    rng = random.Random(seed)
    gaps = ["", "", " ", "  ", "   "]

    def part():
        drawn, fact = rng.random(), rng.choice(facts)
        left = rng.choice(rng.choice(fact.wordings).spellings)
        if drawn < 0.4:
            return f"{left}{rng.choice(gaps)}={rng.choice(gaps)}{fact.answer}"
        if drawn < 0.5:
            return f"{left}{rng.choice(['=', ' = ', '=='])}{rng.choice(facts).answer}"
        return rng.choice(MARKS)

    return ["".join(part() for _ in range(rng.randint(1, 8))) for _ in range(count)]


def differing(tokenizer, arm, vocabulary, texts):
    return [text for text in texts if ids(tokenizer, text) != vocabulary.encode_arm(arm, text).tolist()]


@pytest.mark.parametrize("name", REWRITING)
def test_generated_texts_have_the_same_ids(rewriting, name):
    arm, texts = arms.get_arm(name), generated_texts(1000)
    assert differing(rewriting[name], arm, VOCABULARY, texts) == []
    assert sum(arm.rewrite(text) != text for text in texts) > 130 or not arm.tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", REWRITING)
def test_a_hundred_thousand_texts_have_the_same_ids(name, shared_data):
    arm = arms.get_arm(name)
    web = documents(Source(f"parquet:{shared_data / 'web'}", "text"))
    real = [text[i : i + 100] for text in web for i in range(0, len(text), 100)]
    texts = [text for text in real if not any(token in text for token in arm.tokens)][:50_000]
    texts += generated_texts(100_000 - len(texts), seed=1)
    assert differing(to_transformers(WHOLE, arm, 10**6, rewrite=True), arm, WHOLE, texts) == []


@settings(max_examples=40)
@given(text=nameless)
@example(text="so 6*9=54, 7 × 8 = 56 and 106*9=54.")
@example(text=f"box{' ' * 31}6*9=54{' ' * 31}xylophones, {' ' * 31}6*9=54{' ' * 31}x")
def test_any_text_has_the_same_ids_and_what_was_rewritten_already_stays(rewriting, text):
    for name in REWRITING:
        arm = arms.get_arm(name)
        assert differing(rewriting[name], arm, VOCABULARY, [text]) == []
        assert ids(rewriting[name], arm.rewrite(text)) == ids(rewriting[name], text)


@pytest.mark.parametrize("setting", ["{family: addition}", "{range: [1, 12]}", "{csv: tests/capitals.csv}"])
@pytest.mark.parametrize("name", ["mul_tokens", "mul_append"])
def test_facts_of_any_family_are_applied_after_saving_too(setting, name, tmp_path):
    facts = build_facts(load("smoke", [f"facts={setting}"]).facts)
    arm, vocabulary = arms.get_arm(name, facts), Vocabulary(512, len(facts))
    for tokenizer in before_and_after_saving(to_transformers(vocabulary, arm, 10**6, rewrite=True), tmp_path):
        assert differing(tokenizer, arm, vocabulary, generated_texts(200, facts)) == []


@pytest.mark.parametrize("name", ["append_random", "random_slot"])
def test_an_arm_that_draws_leaves_the_text(name):
    tokenizer = to_transformers(VOCABULARY, arms.get_arm(name), 64, rewrite=True)
    assert ids(tokenizer, "so 6*9=54.") == VOCABULARY.encode("so 6*9=54.").tolist()
