"""The corpus stage: what becomes of a source's documents on their way into shards."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.conftest import jsonl_lines, shard_texts
from tokentrial.corpus import prepare
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import shard_paths
from tokentrial.corpus.text import assign_split, split_document
from tokentrial.errors import TrialError
from tokentrial.facts.drills import parse
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.files import read_json


def cut(text, limit):
    return [piece.decode() for piece in split_document(text.encode(), limit)]


# the split


@given(st.binary(), st.integers(0, 2**63))
def test_the_split_is_of_the_document_alone(text, seed):
    assert assign_split(text, seed, 0.3) == assign_split(text, seed, 0.3)
    # a larger share only adds to val
    order = [assign_split(text, seed, share) for share in (0.01, 0.1, 0.3, 0.49)]
    assert order == sorted(order)


def test_about_the_declared_share_is_held_out_and_another_seed_holds_out_others():
    n, share = 20_000, 0.2
    first, second = ([assign_split(b"document %d" % i, seed, share) == "val" for i in range(n)] for seed in (0, 1))
    both = sum(a and b for a, b in zip(first, second, strict=True))
    for held, p in ((sum(first), share), (sum(second), share), (both, share**2)):  # as if drawn anew
        assert abs(held - n * p) <= 5 * np.sqrt(n * p * (1 - p))


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
        expected = [p for text in kept if assign_split(text.encode(), 0, 0.2) == split for p in cut(text, 400)]
        assert shard_texts(plan, "text", split) == expected
        assert len(shard_paths(plan.folder, "text", split)) > 1
    assert read_json(plan.folder / "text.json")["asking_documents_dropped"] == len(prose) - len(kept) == 2


def test_text_that_asks_a_fact_stays_where_every_fact_is_asked(tiny, tmp_path):
    trial = tiny(tmp_path / "run", "corpus.drills.holdout_folds=0")
    plan = CorpusPlan(trial)
    prepare_text(plan)
    assert read_json(plan.folder / "text.json")["asking_documents_dropped"] == 0
    written = [t for split in ("train", "val") for t in shard_texts(plan, "text", split)]
    assert sum("What is 6 times 7?" in text for text in written) == 2


def test_a_corpus_without_held_out_text_is_an_error_and_leaves_nothing_behind(tiny, tmp_path):
    (tmp_path / "s.jsonl").write_bytes(jsonl_lines(["only one document"]))
    plan = CorpusPlan(tiny(tmp_path / "run", f"corpus.source=jsonl:{tmp_path}/s.jsonl"))
    with pytest.raises(TrialError, match=r"no document fell into (train|val) out of 1 read"):
        prepare_text(plan)
    assert not plan.folder.exists()  # defect R12: a broken corpus wrote meta.json as if it were whole


def test_a_corpus_whose_shards_have_the_names_of_an_older_release_is_made_anew(tiny, tmp_path, monkeypatch):
    trial = tiny(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "VERSION", 4)
        prepare_text(CorpusPlan(trial))
    shards = {path.name: path.read_bytes() for path in (trial.folder / "corpus").glob("text_*.npy")}
    for name in shards:
        (trial.folder / "corpus" / name).rename(trial.folder / "corpus" / name.replace("text", "fineweb"))
    prepare_text(CorpusPlan(trial))
    assert {path.name: path.read_bytes() for path in (trial.folder / "corpus").glob("*.npy")} == shards


# drills


def test_the_train_drills_hold_every_fact_and_differ_from_the_held_out_ones(plan):
    """Defect R2: drills written first all fell into the validation shard, and none was trained on."""
    seen = set()
    for fold in range(3):
        by_split = {s: shard_texts(plan, f"drills{fold}", s) for s in ("train", "val")}
        train = Counter(stated for text in by_split["train"] for stated in parse(TIMES_TABLE, text))
        facts = {fact for fact, _ in train}
        assert len(facts) == 45
        assert {fact for fact, form in train if form == "question"} == facts - TIMES_TABLE.never_asked(fold, 3)
        assert len(by_split["train"]) > 10 * len(by_split["val"]) > 0
        assert not set(by_split["train"]) & set(by_split["val"])
        assert not seen & set(by_split["train"])  # each fold has drills of its own
        seen |= set(by_split["train"])
        assert all(text.replace("\nAssistant", "").count("\n") + 1 == 12 for text in by_split["train"])
        tokens = sum(len(np.load(path)) for path in plan.shards(f"drills{fold}", "train"))
        assert tokens > 0.6 * plan.trial.pretrain.tokens  # more than the budget takes


def test_no_drills_where_none_are_asked_for(tiny, tmp_path):
    plan = CorpusPlan(tiny(tmp_path / "run", "corpus.drills.share=0"))
    prepare_drills(plan)
    assert not (plan.folder / "drills").exists()


@pytest.mark.parametrize(
    ("seeds", "folds", "expected"),
    [
        ("[1]", 3, ["drills1"]),
        ("[4, 1]", 3, ["drills1"]),
        ("[5, 2, 3]", 3, ["drills0", "drills2"]),
        ("[7]", 0, ["drills0"]),
    ],
)
def test_drills_are_made_for_the_folds_that_a_seed_uses(tiny, tmp_path, seeds, folds, expected):
    plan = CorpusPlan(tiny(tmp_path / "run", f"seeds={seeds}", f"corpus.drills.holdout_folds={folds}"))
    prepare_drills(plan)
    assert sorted(path.name for path in (plan.folder / "drills").iterdir()) == expected


def test_a_seed_of_another_fold_adds_its_drills_and_leaves_what_is_there(tiny, tmp_path, plan):
    def prepared(seeds):
        more = CorpusPlan(tiny(tmp_path / "run", "arms=[baseline,mul_tokens]", f"seeds={seeds}"))
        for prepare_part in (prepare_text, prepare_drills, prepare_patches):
            prepare_part(more)
        return more, {path: path.stat().st_mtime_ns for path in more.folder.rglob("*") if path.is_file()}

    one, before = prepared([1])
    two, after = prepared([1, 2])
    assert before.items() <= after.items()
    names = {folder.name for folder, _ in two.steps} - {folder.name for folder, _ in one.steps}
    assert names == {"drills2"} == {path.parent.name for path in after.keys() - before.keys()}
    for arm in two.trial.arms:  # and no finished cell is made anew for it
        assert one.patch_fingerprint(arm) == two.patch_fingerprint(arm) == plan.patch_fingerprint(arm)
    for folder, _ in two.steps[1:]:
        for path in folder.glob("*.np?"):
            assert path.read_bytes() == (plan.folder / path.relative_to(two.folder)).read_bytes()


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
    assert (changed.text_fingerprint == plan.text_fingerprint) == text
    assert (changed.drills_fingerprint == plan.drills_fingerprint) == drills
    same = changed.patch_fingerprint("mul_tokens") == plan.patch_fingerprint("mul_tokens")
    assert same == (text and drills)
    # patches and surveys of the text stay where drills alone change
    assert (changed.patch_step("mul_tokens", "text") == plan.patch_step("mul_tokens", "text")) == text
    assert (changed.survey_step("drills1") == plan.survey_step("drills1")) == drills


@pytest.mark.parametrize(
    "facts", ["facts.family=addition", "facts.range=[1,5]", "facts={family: units, range: [1, 3]}"]
)
@pytest.mark.parametrize("folds", [0, 3])
def test_text_is_encoded_anew_for_other_facts_only_where_they_decide_what_is_left_out(tiny, tmp_path, facts, folds):
    of = [CorpusPlan(tiny(tmp_path, f"corpus.drills.holdout_folds={folds}", *more)) for more in ([], [facts])]
    assert (of[0].text_fingerprint == of[1].text_fingerprint) == (folds == 0)
    for step in (CorpusPlan.survey_step, lambda plan, name: plan.patch_step("mul_tokens", name)):
        assert not {step(of[0], name) for name in of[0].sets} & {step(of[1], name) for name in of[1].sets}
    assert of[0].drills_fingerprint != of[1].drills_fingerprint
