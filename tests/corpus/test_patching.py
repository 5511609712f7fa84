"""A shard's survey is what a slow reading of its documents finds; it is made once, whatever arms are added later."""

import io
from collections import Counter

import numpy as np
import pytest

from tokentrial.arms.arm import arm_names
from tokentrial.corpus import patching, round_trip
from tokentrial.corpus.arrays import ArrayFile, write_arrays
from tokentrial.corpus.patching import FORMS, Survey, survey_and_patch
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import document_text, open_shard
from tokentrial.errors import TrialError
from tokentrial.facts import drills
from tokentrial.facts.facts import Facts
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.folders import is_done


def test_a_survey_weighs_every_document_and_holds_what_it_states(plan):
    stated = 0
    surveys = {path.stem for path in plan.folder.glob("surveys/*/*.npz")}
    assert surveys == {path.stem for name in plan.sets for path in plan.shards(name)}
    for path in (path for name in plan.sets for path in plan.shards(name)):
        shard = open_shard(path, plan.vocabulary.eos)
        survey = Survey.read(plan.survey_path(path))
        texts = [document_text(shard.document(index), plan.vocabulary) for index in range(len(shard))]
        assert len(survey) == len(texts)
        assert survey.base_lengths.tolist() == [1 + len(plan.vocabulary.encode(text)) for text in texts]
        assert survey.bytes.tolist() == [len(text.encode()) for text in texts]
        expected = sorted(
            (index, TIMES_TABLE.index(fact) * len(FORMS) + FORMS.index(form))
            for index, text in enumerate(texts)
            for fact, form in (
                [(site.fact, "text") for site in TIMES_TABLE.sites(text)]
                if path.stem.startswith("text")
                else drills.parse(TIMES_TABLE, text)
            )
        )
        assert sorted(zip(survey.documents.tolist(), survey.codes.tolist(), strict=True)) == expected
        stated += len(expected)
    assert stated > 1000


def test_an_arm_added_later_is_patched_and_a_survey_is_made_only_where_it_is_gone(tiny, tmp_path):
    def replanned(names):
        return CorpusPlan(tiny(tmp_path / "run", f"arms=[{names}]", "seeds=[1]", "pretrain.steps=4"))

    first = replanned("baseline,mul_tokens")
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(first)
    before = {path: path.stat().st_mtime_ns for path in first.folder.glob("surveys/*/*")}
    more = replanned("baseline,mul_tokens,mul_append")
    assert not more.done
    prepare_patches(more)
    assert more.done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert list(more.patch_step("mul_append", "text")[0].glob("*.npz"))
    [gone, *_] = sorted(more.folder.glob("surveys/text/*.npz"))
    whole = gone.read_bytes()
    gone.unlink()
    assert not is_done(*more.survey_step("text"))
    prepare_patches(more)
    assert more.done
    assert gone.read_bytes() == whole


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_survey_that_is_cut_off_is_named(plan, tmp_path, share):
    [one, *_] = sorted(plan.folder.glob("surveys/text/*.npz"))
    (tmp_path / one.name).write_bytes(one.read_bytes()[: int(share * one.stat().st_size)])
    with pytest.raises(TrialError, match=rf"{one.name}: not a whole survey: .*; delete its folder"):
        Survey.read(tmp_path / one.name)


# what is held, and how often a text is searched


@pytest.fixture
def searched(monkeypatch):
    """How often the sites of each text were looked for."""
    counts, sites = Counter(), Facts.sites
    monkeypatch.setattr(Facts, "sites", lambda facts, text: counts.update([text]) or sites(facts, text))
    return counts


@pytest.mark.parametrize("kind", ["text", "drills1"])
def test_sites_of_a_document_are_found_once_for_the_survey_and_all_arms(plan, tmp_path, monkeypatch, searched, kind):
    monkeypatch.setattr(round_trip, "_SAMPLED", 0)  # what is read back is searched again
    paths = {name: tmp_path / f"{name}.npz" for name in arm_names()}
    searches = 0
    for shard in plan.shards(kind):
        searched.clear()
        survey_and_patch(shard, tmp_path / "survey.npz", paths, plan.vocabulary, plan.facts)
        opened = open_shard(shard, plan.vocabulary.eos)
        texts = Counter(document_text(opened.document(index), plan.vocabulary) for index in range(len(opened)))
        assert searched <= texts
        searches += searched.total()
    assert searches > 20


@pytest.mark.parametrize("limit", ["_BATCH_DOCUMENTS", "_BATCH_CHARACTERS"])
def test_files_do_not_depend_on_how_much_is_held_at_a_time(plan, tmp_path, monkeypatch, limit):
    written = []
    for size in (1, 700, 10**9):
        monkeypatch.setattr(patching, limit, size)
        folder = tmp_path / f"{size}"
        folder.mkdir()
        paths = {name: folder / f"{name}.npz" for name in arm_names()}
        stats = [
            survey_and_patch(shard, folder / "survey.npz", paths, plan.vocabulary, plan.facts)
            for shard in plan.shards("drills1", "train")[:1]
        ]
        written.append((stats, {path.name: path.read_bytes() for path in folder.iterdir()}))
    assert written[0] == written[1] == written[2]
    assert len(written[0][1]) >= 8  # the survey, and the patches of the arms that change these drills


@pytest.mark.parametrize("lengths", [[], [0], [3], [1000, 0, 7]])
def test_arrays_that_are_written_as_they_come_are_the_file_of_numpy(tmp_path, lengths):
    parts = [np.arange(length) * 7 for length in lengths]
    arrays = {"a": ArrayFile(tmp_path, np.int64), "b": ArrayFile(tmp_path, np.uint16)}
    for part in parts:
        for array in arrays.values():
            array.append(part)
    kept = np.arange(5.0)
    write_arrays(tmp_path / "a.npz", arrays | {"c": kept})
    whole, expected = np.concatenate([np.empty(0, np.int64), *parts]), io.BytesIO()
    np.savez(expected, a=whole, b=whole.astype(np.uint16), c=kept)
    assert (tmp_path / "a.npz").read_bytes() == expected.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
