"""The exported tokenizer applies the arm by itself: the ids of a text are those of the text rewritten and encoded."""

import random
from pathlib import Path

import pytest
from hypothesis import given

from tests.arms.test_laws import nameless
from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE, facts_of
from tokentrial.corpus.sources import Source
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.load import load

WEB = Path(__file__).parents[3] / "shared" / "data" / "web"
NAMES = [name for name in arms.names() if not arms.find(name).draws]
MARKS = [*" .,;:%$+-*×x/^=_−<>()0123456789ae\n\t", "\u00a0", "   ", "\r\n", ", ", ". ", "² ", "😀", " and ", "é", "一"]
VOCABULARY = Vocabulary(50_000, len(TIMES_TABLE))


@pytest.fixture(scope="module")
def applying():
    """Of every arm the tokenizer that applies it."""
    return {name: to_transformers(VOCABULARY, arms.find(name), 10**6, rewrite=True) for name in NAMES}


def ids(tokenizer, text):
    return tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


def generated(count, facts=TIMES_TABLE, seed=0):
    """Texts of facts in all their spellings, of what nearly is one, and of all that may stand beside."""
    rng = random.Random(seed)
    gaps = ["", "", " ", "  ", "   "]

    def part():
        drawn, wording = rng.random(), rng.choice(rng.choice(facts).wordings)
        left, answer = rng.choice(wording.spellings), rng.choice(facts).answer
        if drawn < 0.4:
            fact = next(fact for fact in facts if wording in fact.wordings)
            return f"{left}{rng.choice(gaps)}={rng.choice(gaps)}{fact.answer}"
        if drawn < 0.5:
            return f"{left}{rng.choice(['=', ' = ', '=='])}{answer}"
        return rng.choice(MARKS)

    return ["".join(part() for _ in range(rng.randint(1, 8))) for _ in range(count)]


def differing(tokenizer, arm, vocabulary, texts):
    return [text for text in texts if ids(tokenizer, text) != vocabulary.encode_arm(arm, text).tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_generated_texts_have_the_same_ids(applying, name):
    texts = generated(1500)
    arm = arms.find(name)
    assert differing(applying[name], arm, VOCABULARY, texts) == []
    assert sum(arm.rewrite(text) != text for text in texts) > 200 or not arm.tokens


@pytest.mark.slow
@pytest.mark.skipif(not WEB.exists(), reason=f"{WEB} is absent: real web documents for development")
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand_texts_have_the_same_ids(applying, name):
    documents = Source(f"parquet:{WEB}", "text").documents()
    real = [text[i : i + 100] for text in documents for i in range(0, len(text), 100)]
    arm = arms.find(name)
    texts = [t for t in real if not any(token in t for token in arm.tokens)]
    texts = texts[:50_000] + generated(100_000 - min(len(texts), 50_000), seed=1)
    assert len(texts) == 100_000
    assert differing(applying[name], arm, VOCABULARY, texts) == []


@given(text=nameless)
def test_any_text_has_the_same_ids(applying, text):
    for name in NAMES:
        assert differing(applying[name], arms.find(name), VOCABULARY, [text]) == []


@pytest.mark.parametrize("setting", ["{family: addition}", "{range: [1, 12]}", "{csv: tests/capitals.csv}"])
@pytest.mark.parametrize("name", ["mul_tokens", "mul_append"])
def test_facts_of_any_family_are_applied(setting, name):
    facts = facts_of(load("smoke", [f"facts={setting}"]).facts)
    arm, vocabulary = arms.find(name, facts), Vocabulary(512, len(facts))
    tokenizer = to_transformers(vocabulary, arm, 10**6, rewrite=True)
    assert differing(tokenizer, arm, vocabulary, generated(400, facts)) == []


def test_it_survives_saving_and_what_was_rewritten_already_stays(applying, tmp_path):
    from transformers import AutoTokenizer

    for name, tokenizer in applying.items():
        tokenizer.save_pretrained(tmp_path / name)
        loaded, arm = AutoTokenizer.from_pretrained(tmp_path / name), arms.find(name)
        text = "so 6*9=54, 7 × 8 = 56 and 106*9=54."
        assert ids(loaded, text) == VOCABULARY.encode_arm(arm, text).tolist()
        assert ids(loaded, arm.rewrite(text)) == ids(loaded, text)


def test_an_arm_that_draws_leaves_the_text(tmp_path):
    arm = arms.find("random_slot")
    tokenizer = to_transformers(VOCABULARY, arm, 64, rewrite=True)
    assert ids(tokenizer, "so 6*9=54.") == VOCABULARY.encode("so 6*9=54.").tolist()
