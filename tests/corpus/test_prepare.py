"""The corpus stage: what becomes of a source's documents on their way into shards."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.drills import read
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_text
from tokentrial.corpus.shards import open_shard, shard_paths, text_of
from tokentrial.corpus.text import pieces, split_of
from tokentrial.errors import TrialError
from tokentrial.store.files import read_json


def texts_of(folder, name, split, vocabulary):
    shards = [open_shard(path, vocabulary.eos) for path in shard_paths(folder, name, split)]
    return [text_of(shard.document(i), vocabulary) for shard in shards for i in range(len(shard))]


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return f"corpus.source=jsonl:{path}"


def cut(text, limit):
    return [piece.decode() for piece in pieces(text.encode(), limit)]


# the split


@given(st.binary(), st.integers(0, 2**63))
def test_the_split_is_of_the_document_alone(text, seed):
    assert split_of(text, seed, 0.3) == split_of(text, seed, 0.3)
    # a larger share only adds to val
    order = [split_of(text, seed, share) for share in (0.01, 0.1, 0.3, 0.49)]
    assert order == sorted(order)


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_about_the_declared_share_is_held_out(share):
    n = 20_000
    held = sum(split_of(f"document {i}".encode(), 0, share) == "val" for i in range(n))
    assert abs(held - n * share) <= 5 * np.sqrt(n * share * (1 - share))


def test_another_seed_holds_out_other_documents():
    first, second = ([split_of(f"document {i}".encode(), seed, 0.2) for i in range(1000)] for seed in (0, 1))
    both = sum(a == b == "val" for a, b in zip(first, second, strict=True))
    assert abs(both - 40) <= 5 * np.sqrt(40)  # as if drawn anew: 1000 x 0.2 x 0.2


def test_order_and_number_of_documents_change_no_split(tiny, prose, tmp_path):
    held = {}
    for name, chosen in (("all", prose), ("reversed", prose[::-1]), ("half", prose[::2])):
        trial = tiny(tmp_path / name, jsonl(tmp_path / f"{name}.jsonl", chosen), "corpus.piece_characters=null")
        plan = CorpusPlan(trial)
        prepare_text(plan)
        held[name] = set(texts_of(plan.folder, "fineweb", "val", plan.vocabulary))
    assert held["all"] == held["reversed"]
    assert held["half"] == held["all"] & set(prose[::2])
    assert 0 < len(held["half"]) < len(held["all"])


# pieces


@given(st.text(st.sampled_from("ab .\n\t"), max_size=300), st.integers(1, 40))
def test_pieces_lose_only_white_space_at_the_cuts(text, limit):
    position = 0
    for piece in cut(text, limit):
        assert 0 < len(piece) <= limit
        start = text.index(piece, position)
        assert text[position:start].strip() == ""
        position = start + len(piece)
    assert text[position:].strip() == ""


@given(st.lists(st.text("abc", min_size=1, max_size=10), min_size=1, max_size=40), st.integers(12, 40))
def test_a_word_that_fits_is_never_cut(words, limit):
    assert " ".join(cut(" ".join(words), limit)).split() == words


def test_without_a_limit_the_document_stays_whole():
    assert cut("  as it\nstands ", None) == ["  as it\nstands "]


# the stage


def test_the_shards_hold_the_source_text(plan, prose):
    kept = [text for text in prose if "What is 6 times 7?" not in text]
    for split in ("train", "val"):
        expected = [p for text in kept if split_of(text.encode(), 0, 0.2) == split for p in cut(text, 400)]
        assert texts_of(plan.folder, "fineweb", split, plan.vocabulary) == expected
        assert len(shard_paths(plan.folder, "fineweb", split)) > 1


def test_text_that_asks_a_fact_is_dropped_and_counted(plan, prose):
    text = read_json(plan.folder / "text.json")
    assert text["asking_documents_dropped"] == sum("What is 6 times 7?" in text for text in prose) == 2
    written = texts_of(plan.folder, "fineweb", "train", plan.vocabulary)
    assert not any(TIMES_TABLE.asked_in(each) for each in written)


def test_text_that_asks_a_fact_stays_where_every_fact_is_asked(tiny, tmp_path):
    trial = tiny(tmp_path / "run", "corpus.drills.never_asked_folds=0")
    plan = CorpusPlan(trial)
    prepare_text(plan)
    assert read_json(plan.folder / "text.json")["asking_documents_dropped"] == 0
    written = [t for split in ("train", "val") for t in texts_of(plan.folder, "fineweb", split, plan.vocabulary)]
    assert sum("What is 6 times 7?" in text for text in written) == 2


def test_the_counts_are_those_of_the_files(plan, prose):
    text = read_json(plan.folder / "text.json")
    assert text["documents_read"] == 80
    assert text["literal_token_names"] == sum(t.count("<MUL_6_9_54>") + t.count("<FACT>") for t in prose) > 0
    for split in ("train", "val"):
        written = texts_of(plan.folder, "fineweb", split, plan.vocabulary)
        assert text["documents"][split] == len(written)
        assert text["bytes"][split] == sum(len(each.encode()) for each in written)
        raw = [np.load(path) for path in shard_paths(plan.folder, "fineweb", split)]
        assert text["tokens"][split] == sum(map(len, raw))


def test_empty_documents_are_counted_and_the_number_of_documents_is_kept(tiny, tmp_path, prose):
    source = jsonl(tmp_path / "s.jsonl", ["", " \n", *prose])
    plan = CorpusPlan(tiny(tmp_path / "run", source, "corpus.documents=30"))
    prepare_text(plan)
    text = read_json(plan.folder / "text.json")
    assert (text["documents_read"], text["empty_documents"]) == (30, 2)


def test_a_corpus_without_held_out_text_is_an_error_and_leaves_nothing_behind(tiny, tmp_path):
    plan = CorpusPlan(tiny(tmp_path / "run", jsonl(tmp_path / "s.jsonl", ["only one document"])))
    with pytest.raises(TrialError, match=r"no document fell into (train|val) out of 1 read"):
        prepare_text(plan)
    assert not plan.folder.exists()  # defect R12: a broken corpus wrote meta.json as if it were whole


def test_a_source_that_breaks_off_leaves_no_corpus(tiny, tmp_path, prose):
    source = jsonl(tmp_path / "s.jsonl", prose)
    with (tmp_path / "s.jsonl").open("a") as file:
        file.write('{"text": "cut o')
    plan = CorpusPlan(tiny(tmp_path / "run", source))
    with pytest.raises(TrialError, match=r"s\.jsonl, line 81"):
        prepare_text(plan)
    assert not plan.folder.exists()


# drills


def test_the_train_drills_hold_every_fact_and_differ_from_the_held_out_ones(plan):
    """Defect R2: drills written first all fell into the validation shard, and none was trained on."""
    for fold in range(3):
        by_split = {s: texts_of(plan.folder / "drills", f"drills{fold}", s, plan.vocabulary) for s in ("train", "val")}
        train = Counter(stated for text in by_split["train"] for stated in read(TIMES_TABLE, text))
        facts = {fact for fact, _ in train}
        assert len(facts) == 45
        assert {fact for fact, form in train if form == "question"} == facts - TIMES_TABLE.never_asked(fold, 3)
        assert len(by_split["train"]) > 10 * len(by_split["val"]) > 0
        assert not set(by_split["train"]) & set(by_split["val"])


def test_each_fold_has_drills_of_its_own(plan):
    first, second = (texts_of(plan.folder / "drills", f"drills{fold}", "train", plan.vocabulary) for fold in (0, 1))
    assert not set(first) & set(second)


def test_drill_documents_have_the_declared_number_of_lines(plan):
    for text in texts_of(plan.folder / "drills", "drills0", "train", plan.vocabulary):
        assert text.replace("\nAssistant", " Assistant").count("\n") + 1 == 12


def test_there_are_more_drills_than_the_budget_takes(plan):
    tokens = [np.load(path) for path in shard_paths(plan.folder / "drills", "drills0", "train")]
    assert sum(map(len, tokens)) > 0.6 * plan.trial.pretrain.tokens


def test_no_drills_where_none_are_asked_for(tiny, tmp_path):
    plan = CorpusPlan(tiny(tmp_path / "run", "corpus.drills.share=0"))
    prepare_drills(plan)
    assert list((plan.folder / "drills").glob("*.npy")) == []


# what depends on what


@pytest.mark.parametrize(
    ("override", "text", "drills"),
    [
        ("corpus.val_share=0.3", False, True),
        ("corpus.piece_characters=300", False, True),
        ("tokenizer.merges=300", False, False),
        ("corpus.seed=1", False, False),
        ("corpus.drills.share=0.5", True, False),
        ("corpus.drills.lines=6", True, False),
        ("corpus.epochs=3", True, True),
        ("pretrain.steps=40", True, False),
        ("pretrain.lr=0.001", True, True),
        ("evaluate.probes_each=7", True, True),
        ("arms=[baseline,mul_tokens,one_slot]", True, True),
    ],
)
def test_a_setting_redoes_only_what_depends_on_it(plan, tiny, override, text, drills):
    changed = CorpusPlan(tiny(plan.trial.folder, override))
    assert (changed.text == plan.text) == text
    assert (changed.drills == plan.drills) == drills
    assert (changed.patch("mul_tokens") == plan.patch("mul_tokens")) == (text and drills)


# meta.json


def test_meta_counts_each_arm_as_its_patched_shards_do(plan):
    meta = read_json(plan.folder / "meta.json")
    assert (meta["eos"], meta["base_vocab_size"]) == (512, 576)
    for arm in plan.trial.arms:
        tokens, facts = Counter(), 0
        for path in [*plan.folder.glob("*.npy"), *(plan.folder / "drills").glob("*.npy")]:
            shard = open_shard(path, plan.vocabulary.eos, plan.patch_folder(arm) / f"{path.stem}.npz")
            ids = np.concatenate([shard.document(i) for i in range(len(shard))])
            tokens["train" if "_train_" in path.name else "val"] += len(ids)
            facts += int((ids >= 576).sum())
        record = meta["arms"][arm]
        assert (record["train_tokens"], record["val_tokens"]) == (tokens["train"], tokens["val"])
        assert record["total_tokens"] == tokens.total()
        assert record["fact_tokens"] == facts
        assert record["fact_token_ratio"] == pytest.approx(facts / tokens.total())
        assert record["vocab_size"] == 576 + 45
