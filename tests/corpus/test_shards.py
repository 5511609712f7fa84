"""Shards and patches: what is written is what is read, and a patch is the whole difference between two arms."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokentrial.arms import arm as arms
from tokentrial.corpus import shards
from tokentrial.corpus.patching import survey_and_patch
from tokentrial.corpus.shards import (
    Patch,
    ShardWriter,
    decode_documents,
    document_text,
    open_shard,
    read_patch,
    shard_paths,
)
from tokentrial.errors import TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(256, 45)
EOS = 512

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
FACT_TEXTS = st.lists(
    st.sampled_from(
        [fact.equation for fact in TIMES_TABLE]
        + ["6 × 9 = 54", "3x4=12", "16*9=144", "6*9=55", "6*9", " ", "\n", ". ", "so ", "é", "1", "<MUL_6_9_54>"]
    ),
    min_size=1,
    max_size=8,
).map("".join)


def write(folder, texts, shard_tokens=10**9, name="text", split="train"):
    writer = ShardWriter(folder, name, split, shard_tokens, EOS)
    for text in texts:
        writer.add(VOCABULARY.encode(text))
    writer.close()
    return writer


def decoded(shard):
    return [document_text(shard.document(index), VOCABULARY) for index in range(len(shard))]


@given(texts=st.lists(TEXTS, min_size=1, max_size=12), shard_tokens=st.integers(1, 80))
def test_shards_hold_the_documents_exactly(tmp_path_factory, texts, shard_tokens):
    folder = tmp_path_factory.mktemp("shards")
    writer = write(folder, texts, shard_tokens)
    paths = shard_paths(folder, "text", "train")
    assert [path.name for path in paths] == [f"text_train_{i:06d}.npy" for i in range(len(paths))]
    raw = [np.load(path, allow_pickle=False) for path in paths]
    assert all(ids.dtype == np.uint16 and ids.ndim == 1 for ids in raw)
    assert all(ids[0] == EOS for ids in raw)  # a document never crosses a shard
    assert all(len(ids) <= shard_tokens or np.count_nonzero(ids == EOS) == 1 for ids in raw)
    assert [text for path in paths for text in decoded(open_shard(path, EOS))] == texts
    assert (writer.documents, writer.tokens, writer.shards) == (len(texts), sum(map(len, raw)), len(paths))


def test_a_shard_is_filled_to_the_last_token(tmp_path):
    document = 1 + len(VOCABULARY.encode("abcdefghi"))
    write(tmp_path, ["abcdefghi"] * 6, 3 * document)
    assert [len(np.load(path)) for path in shard_paths(tmp_path, "text", "train")] == [3 * document] * 2
    write(tmp_path, ["abcdefghi"] * 4, 3 * document - 1, split="val")
    assert [len(np.load(path)) for path in shard_paths(tmp_path, "text", "val")] == [2 * document] * 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_shard_is_named(tmp_path, share):
    write(tmp_path, ["some text to cut off"] * 50)
    path = tmp_path / "text_train_000000.npy"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(TrialError, match=r"text_train_000000\.npy: not a whole shard"):
        open_shard(path, EOS)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([EOS, 1, 2], np.int32),
        np.array([[EOS, 1], [EOS, 2]], np.uint16),
        np.array([1, EOS], np.uint16),
        np.array([50256, 1], np.uint16),
        np.array([], np.uint16),
    ],
)
def test_a_shard_of_another_kind_or_tokenizer_is_refused(tmp_path, ids):
    np.save(tmp_path / "text_train_000000.npy", ids)
    with pytest.raises(
        TrialError,
        match=r"begin with eos, 512: it is from another tokenizer; delete .* and run again",
    ):
        open_shard(tmp_path / "text_train_000000.npy", EOS)


def test_nothing_is_unpickled_from_a_shard(tmp_path):
    path = tmp_path / "text_train_000000.npy"
    np.save(path, np.array([{"an": "object"}], object), allow_pickle=True)
    with pytest.raises(TrialError, match="not a whole shard"):
        open_shard(path, EOS)
    of_objects = dict.fromkeys(Patch._fields, np.array([{"an": "object"}], object))
    np.savez(tmp_path / "patch.npz", **of_objects)
    with pytest.raises(TrialError, match="not a whole patch"):
        read_patch(tmp_path / "patch.npz")


@pytest.mark.parametrize("name", arms.arm_names())
@settings(max_examples=30)
@given(texts=st.lists(st.one_of(FACT_TEXTS, TEXTS), min_size=1, max_size=8))
def test_a_patched_shard_is_what_the_arm_makes_of_every_document(tmp_path_factory, name, texts):
    folder, treatment = tmp_path_factory.mktemp("patch"), arms.get_arm(name)
    write(folder, texts)
    path, patch = folder / "text_train_000000.npy", folder / "patch.npz"
    counts = survey_and_patch(path, None, {name: patch}, VOCABULARY, TIMES_TABLE).patches[name]
    base, patched = open_shard(path, EOS), open_shard(path, EOS, patch)

    expected = [np.concatenate([[EOS], VOCABULARY.encode_arm(treatment, text)]) for text in texts]
    assert [patched.document(i).tolist() for i in range(len(patched))] == [ids.tolist() for ids in expected]
    assert patched.base_lengths.tolist() == base.base_lengths.tolist() == [1 + len(VOCABULARY.encode(t)) for t in texts]
    changed = [VOCABULARY.encode(text).tolist() != ids[1:].tolist() for text, ids in zip(texts, expected, strict=True)]
    assert (patched.patch_index >= 0).tolist() == changed
    assert counts.changed == sum(changed)
    assert counts.tokens == sum(map(len, expected))
    assert counts.sites == sum(int((ids >= VOCABULARY.base).sum()) for ids in expected)
    if any(changed):
        with np.load(patch) as stored:
            assert stored["documents"].tolist() == [i for i, is_changed in enumerate(changed) if is_changed]
            assert stored["ids"].dtype == np.uint16
    else:
        assert not patch.exists()


def test_the_text_of_a_corpus_is_named_as_build_nanogpt_reads_it(plan):
    names = [path.name for path in plan.folder.glob("*.npy")]
    assert len(names) > 1
    assert [name for name in names if not re.fullmatch(r"text_(train|val)_\d{6}\.npy", name)] == []


def test_patches_of_a_whole_corpus_by_another_road(plan):
    """Independent of the arm's code: facts found by one regular expression over the source text of the tiny corpus,
    where every `a*b=c` with the right product is a site, ids numbered by hand."""
    number = {(a, b): i for i, (a, b) in enumerate((a, b) for a in range(1, 10) for b in range(a, 10))}
    fact = re.compile(r"(?<![0-9])([1-9]) ?[*×x] ?([1-9]) ?= ?([0-9]+)")
    seen = 0
    for path in (path for name in plan.sets for path in plan.shards(name)):
        base = open_shard(path, EOS)
        replaced = open_shard(path, EOS, plan.patch_path("mul_tokens", path))
        appended = open_shard(path, EOS, plan.patch_path("mul_append", path))
        for index, text in enumerate(decoded(base)):
            short, long, position, begun = [EOS], [EOS], 0, 0
            for match in fact.finditer(text):
                a, b, c = map(int, match.groups())
                if a * b != c:
                    continue
                seen += 1
                token = plan.vocabulary.base + number[min(a, b), max(a, b)]
                short += [*VOCABULARY.encode(text[position : match.start()]), token]
                long += [*VOCABULARY.encode(text[begun : match.end()]), token]
                position = begun = match.end()
            assert replaced.document(index).tolist() == [*short, *VOCABULARY.encode(text[position:])]
            assert appended.document(index).tolist() == [*long, *VOCABULARY.encode(text[begun:])]
    assert seen > 1000


@pytest.mark.parametrize("documents", [1, 3, 4, 7, 8, 9])
def test_blocks_are_all_documents_in_order(tmp_path, monkeypatch, documents):
    monkeypatch.setattr(shards, "_BLOCK", 4)
    texts = [f"document {i} " + "=" * (i % 2) for i in range(documents)]
    write(tmp_path, texts)
    shard = open_shard(tmp_path / "text_train_000000.npy", EOS)
    seen = []
    for first, starts, ids in shards.blocks(shard):
        assert first == len(seen)
        seen += [part.tolist() for part in np.split(ids, starts[1:])]
    assert seen == [shard.document(i).tolist() for i in range(documents)]
    assert list(decode_documents(shard, VOCABULARY, b"=")) == [(i, t) for i, t in enumerate(texts) if "=" in t]


# files and memory


@pytest.mark.parametrize("tokens", [0, 2, 10, 1001, 1_000_003])
def test_a_shard_is_the_very_file_that_numpy_would_write(tmp_path, tokens):
    """Its header is written last and over a gap that was left for it: byte for byte numpy's own."""
    ids = np.random.default_rng(tokens).integers(0, EOS, tokens).astype(np.uint16)
    writer = ShardWriter(tmp_path, "text", "train", 10**9, EOS)
    cuts = sorted({1, tokens // 2, tokens - 1} - {0, tokens})
    for document in np.split(ids, cuts):
        writer.add(document)
    writer.close()
    expected = io.BytesIO()
    parts = [part for document in np.split(ids, cuts) for part in (np.array([EOS], np.uint16), document)]
    np.save(expected, np.concatenate(parts))
    assert (tmp_path / "text_train_000000.npy").read_bytes() == expected.getvalue()
    assert writer.tokens == tokens + len(cuts) + 1


@pytest.mark.parametrize("name", ["mul_tokens", "mul_append"])
def test_a_patched_shard_copies_nothing_that_stays(tmp_path, name):
    write(tmp_path, ["plain", "so 6*9=54.", "plain too", "7 × 8 = 56", "end"])
    path, patch_path = tmp_path / "text_train_000000.npy", tmp_path / "patch.npz"
    survey_and_patch(path, None, {name: patch_path}, VOCABULARY, TIMES_TABLE)
    base, patched = open_shard(path, EOS), open_shard(path, EOS, patch_path)
    assert patched.patch_index.tolist() == [-1, 0, -1, 1, -1]
    for index in range(5):
        stays = patched.patch_index[index] < 0
        assert np.shares_memory(patched.document(index), patched.ids) == stays
        assert patched.base_document(index).tolist() == base.document(index).tolist()
    patch = read_patch(patch_path)
    assert patch.lengths.tolist() == [len(patched.document(index)) for index in (1, 3)]
    assert patch.fact_tokens(VOCABULARY.base).tolist() == [1, 1]


def test_the_ids_and_fact_tokens_of_every_changed_document_are_counted(tmp_path):
    write(tmp_path, ["1*1=1 and 1*1=1 and 9*9=81", "plain", "1*1=1", "so 2*3=6 or 2*3=6"])
    path, patch_path = tmp_path / "text_train_000000.npy", tmp_path / "patch.npz"
    survey_and_patch(path, None, {"mul_tokens": patch_path}, VOCABULARY, TIMES_TABLE)
    patched, patch = open_shard(path, EOS, patch_path), read_patch(patch_path)
    assert patch.fact_tokens(VOCABULARY.base).tolist() == [3, 1, 2]
    assert patch.lengths.tolist() == [len(patched.document(index)) for index in (0, 2, 3)]


def test_a_patch_holds_the_few_ids_that_a_fact_changes_and_not_its_document(tmp_path):
    text = "It was a long report, with many words before the sum and as many behind it. " * 200
    write(tmp_path, [f"{text}So 6*9=54. {text}", "plain", f"{text}7*8=56 {text}3*3=9 {text}"])
    path, patch = tmp_path / "text_train_000000.npy", tmp_path / "patch.npz"
    survey_and_patch(path, None, {"mul_tokens": patch}, VOCABULARY, TIMES_TABLE)
    patched, base = read_patch(patch), open_shard(path, EOS)
    between = len(VOCABULARY.encode(f" {text}"))
    assert len(patched.ids) < between + 30  # what stands between the two facts of a document is in it, nothing else is
    fewest = base.base_lengths[[0, 2]] - np.array([10, between + 20])
    assert (patched.heads + patched.tails > fewest).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_patch_is_named(tmp_path, share):
    write(tmp_path, ["so 6*9=54."] * 20)
    path, patch = tmp_path / "text_train_000000.npy", tmp_path / "patch.npz"
    survey_and_patch(path, None, {"mul_tokens": patch}, VOCABULARY, TIMES_TABLE)
    patch.write_bytes(patch.read_bytes()[: int(share * patch.stat().st_size)])
    with pytest.raises(TrialError, match=r"patch\.npz: not a whole patch: .*; delete its folder"):
        open_shard(path, EOS, patch)


def test_patches_of_several_arms_are_what_each_alone_would_be(tmp_path):
    write(tmp_path, ["plain", "so 6*9=54.", "3x4=12 and 7 × 8 = 56", "2*2=5", "<MUL_6_9_54> 1*1=1<MUL_1_1_1>"] * 7)
    path, names = tmp_path / "text_train_000000.npy", arms.arm_names()
    together = survey_and_patch(path, None, {name: tmp_path / f"{name}.npz" for name in names}, VOCABULARY, TIMES_TABLE)
    for name in names:
        alone = tmp_path / "alone" / f"{name}.npz"
        alone.parent.mkdir(exist_ok=True)
        assert survey_and_patch(path, None, {name: alone}, VOCABULARY, TIMES_TABLE).patches == {
            name: together.patches[name]
        }
        assert alone.exists() == (tmp_path / alone.name).exists()
        assert not alone.exists() or alone.read_bytes() == (tmp_path / alone.name).read_bytes()
