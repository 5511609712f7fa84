"""The exported transformers tokenizer gives our ids, before and after it is saved, for every arm."""

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.sources import Source
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

SHARED = Path(__file__).parents[3] / "shared" / "data"
GSM8K = SHARED / "gsm8k" / "train.jsonl"
WEB = SHARED / "web"
ALL = arms.arm_names()
SIZES = [0, 512, 50_000]
TEXTS = [
    "", "  two  spaces ", "\n\n\tx\r\n", "I'll don't 'tis", "👍🏽 é ² 你好", "\x00\x7f", "\u0378\uffff", "a" * 3000,
    "so 6*9=54, 9 × 6 = 54. (2x3=6)<<1*1=1>>", "1.5*4=6 106*9=54 4x4 truck",
]  # fmt: skip


@pytest.fixture(scope="module", params=SIZES, ids=lambda merges: f"{merges} merges")
def vocabulary(request):
    return Vocabulary(request.param, len(TIMES_TABLE))


@pytest.fixture(scope="module", params=ALL)
def exported(request, vocabulary, tmp_path_factory):
    """(arm, vocabulary, the tokenizer, the tokenizer saved and loaded)"""
    from transformers import AutoTokenizer

    arm = arms.get_arm(request.param)
    tokenizer = to_transformers(vocabulary, arm, 64)
    folder = str(tmp_path_factory.mktemp("hf"))
    tokenizer.save_pretrained(folder)
    return arm, vocabulary, tokenizer, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def whole():
    """GPT-2's whole vocabulary in the arm that replaces facts."""
    vocabulary = Vocabulary(50_000, len(TIMES_TABLE))
    return vocabulary, to_transformers(vocabulary, arms.get_arm("mul_tokens"), 64)


def ids(tokenizer, text):
    """The ids of a text in which a literal `<|endoftext|>` is text like any other."""
    return tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


def test_the_same_ids_with_and_without_facts_before_and_after_saving(exported):
    arm, vocabulary, *tokenizers = exported
    for tokenizer in tokenizers:
        for text in TEXTS:
            parts = re.split("(?<=[0-9])(?=[0-9])", text) if arm.name == "digit_split" else [text]
            assert ids(tokenizer, text) == [i for part in parts for i in vocabulary.encode(part).tolist()]
            assert ids(tokenizer, arm.rewrite(text)) == vocabulary.encode_arm(arm, text).tolist()


def test_every_id_has_its_place_before_and_after_saving(exported):
    arm, vocabulary, *tokenizers = exported
    for tokenizer in tokenizers:
        assert len(tokenizer) == vocabulary.size
        assert tokenizer.eos_token_id == tokenizer.pad_token_id == vocabulary.eos
        assert tokenizer.convert_tokens_to_ids(list(arm.tokens)) == list(vocabulary.token_ids(arm).values())
        fillers = [i for i in range(vocabulary.eos + 1, vocabulary.size) if i >= vocabulary.base + len(arm.tokens)]
        assert tokenizer.convert_ids_to_tokens(fillers) == [f"<|filler_{i}|>" for i in fillers]
        assert tokenizer.padding_side == "left"
        assert tokenizer.model_max_length == 64


def test_only_the_arms_tokens_and_eos_are_added_tokens_and_only_eos_is_special(exported):
    arm, vocabulary, *tokenizers = exported
    for tokenizer in tokenizers:
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        assert added == {vocabulary.eos: "<|endoftext|>"} | {i: t for t, i in vocabulary.token_ids(arm).items()}
        assert tokenizer.all_special_tokens == ["<|endoftext|>"]


def test_a_fillers_name_is_plain_text(exported):
    arm, vocabulary, *tokenizers = exported
    text = f"<|filler_{vocabulary.eos + 1}|> and <|filler_{vocabulary.size - 1}|>"
    for tokenizer in tokenizers:
        assert ids(tokenizer, text) == vocabulary.encode_arm(arm, text).tolist()


def test_a_literal_endoftext_is_text_when_special_tokens_are_split(exported):
    arm, vocabulary, *tokenizers = exported
    text = "a<|endoftext|>b 6*9=54"
    for tokenizer in tokenizers:
        assert ids(tokenizer, arm.rewrite(text)) == vocabulary.encode_arm(arm, text).tolist()
        assert tokenizer("a<|endoftext|>", add_special_tokens=False)["input_ids"][-1] == vocabulary.eos


def test_fact_tokens_outlive_decode(exported):
    """R5: as special tokens they vanished, and with them every answer that held one."""
    arm, vocabulary, *tokenizers = exported
    text = "so 6*9=54."
    for tokenizer in tokenizers:
        encoded = [*vocabulary.encode_arm(arm, text).tolist(), vocabulary.eos]
        assert tokenizer.decode(encoded, skip_special_tokens=True) == arm.rewrite(text)


def test_decode_keeps_the_spaces_as_they_are(exported):
    arm, vocabulary, *tokenizers = exported
    text = " I 'm here , is n't it ? 6*9=54 !  "
    for tokenizer in tokenizers:
        assert tokenizer.decode(vocabulary.encode_arm(arm, text).tolist()) == arm.rewrite(text)


@given(st.text(max_size=60))
def test_the_same_ids_on_any_text(whole, text):
    vocabulary, tokenizer = whole
    assert ids(tokenizer, text) == vocabulary.encode(text).tolist()
    assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is absent: real problems for development")
def test_the_same_ids_on_rewritten_gsm8k(exported):
    """What the arm writes by name the exported tokenizer reads as the model was trained."""
    arm, vocabulary, _, loaded = exported
    rows = [orjson.loads(line) for line in GSM8K.read_bytes().splitlines()[::15]]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    assert len(texts) == 499
    assert sum(arm.rewrite(text) != text for text in texts) > 50 or not arm.tokens
    assert [ids(loaded, arm.rewrite(text)) for text in texts] == [
        vocabulary.encode_arm(arm, text).tolist() for text in texts
    ]


@pytest.mark.skipif(not WEB.exists(), reason=f"{WEB} is absent: real web documents for development")
def test_the_same_ids_on_web_documents(whole):
    vocabulary, tokenizer = whole
    for document in list(Source(f"parquet:{WEB}", "text").documents())[::4]:
        assert ids(tokenizer, document) == vocabulary.encode(document).tolist()
