"""A shard's survey is what a slow reading of its documents finds; it is made once, whatever arms are added later."""

import numpy as np
import pytest

from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus import drills
from tokentrial.corpus.look import FORMS, Survey, code_of
from tokentrial.corpus.prepare import CorpusPlan, prepare_patches
from tokentrial.corpus.shards import open_shard, text_of
from tokentrial.errors import TrialError
from tokentrial.store.folders import damaged_files, is_done


def shards_of(plan):
    return sorted([*plan.folder.glob("*.npy"), *(plan.folder / "drills").glob("*.npy")])


def test_a_survey_weighs_every_document_and_holds_what_it_states(plan):
    stated = 0
    for path in shards_of(plan):
        shard = open_shard(path, plan.vocabulary.eos)
        survey = Survey.read(plan.survey_folder / f"{path.stem}.npz")
        texts = [text_of(shard.document(index), plan.vocabulary) for index in range(len(shard))]
        assert len(survey) == len(texts)
        assert survey.base_lengths.tolist() == [1 + len(plan.vocabulary.encode(text)) for text in texts]
        assert survey.bytes.tolist() == [len(text.encode()) for text in texts]
        expected = sorted(
            (index, TIMES_TABLE.index(fact) * len(FORMS) + FORMS.index(form))
            for index, text in enumerate(texts)
            for fact, form in (
                [(site.fact, "text") for site in TIMES_TABLE.sites(text)]
                if path.stem.startswith("fineweb")
                else drills.read(TIMES_TABLE, text)
            )
        )
        assert sorted(zip(survey.documents.tolist(), survey.codes.tolist(), strict=True)) == expected
        stated += len(expected)
    assert stated > 1000


def test_there_is_a_survey_of_every_shard_and_of_nothing_else(plan):
    surveys = {path.stem for path in plan.survey_folder.glob("*.npz")}
    assert surveys == {path.stem for path in shards_of(plan)}


@pytest.mark.parametrize("number", range(0, len(TIMES_TABLE), 11))
@pytest.mark.parametrize("form", FORMS)
def test_a_code_names_one_fact_and_form(number, form):
    assert divmod(code_of(TIMES_TABLE, TIMES_TABLE[number], form), len(FORMS)) == (number, FORMS.index(form))


def test_an_arm_added_later_is_patched_and_the_survey_stays(tiny, tmp_path, inline):
    from tokentrial.run.run import run

    first = tiny(tmp_path / "run", "arms=[baseline,mul_tokens]", "seeds=[1]")
    run(first, ("corpus",))
    folder = CorpusPlan(first).survey_folder
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    more = CorpusPlan(tiny(tmp_path / "run", "arms=[baseline,mul_tokens,mul_append]", "seeds=[1]"))
    assert not more.done
    prepare_patches(more)
    assert more.done
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(more.patch_folder("mul_append").glob("*.npz"))


def test_a_survey_that_was_damaged_is_found_and_one_that_is_gone_is_made_anew(tiny, tmp_path, inline):
    from tokentrial.run.run import run

    trial = tiny(tmp_path / "run", "seeds=[1]")
    run(trial, ("corpus",))
    plan = CorpusPlan(trial)
    [damaged, *_] = sorted(plan.survey_folder.glob("*.npz"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert damaged_files(plan.survey_folder) == [damaged.name]
    damaged.unlink()
    assert not is_done(plan.survey_folder, plan.survey)
    prepare_patches(plan)
    assert plan.done
    with np.load(damaged) as made:
        assert set(made) == set(Survey._fields)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_survey_that_is_cut_off_is_named(plan, tmp_path, share):
    [one, *_] = sorted(plan.survey_folder.glob("*.npz"))
    (tmp_path / one.name).write_bytes(one.read_bytes()[: int(share * one.stat().st_size)])
    with pytest.raises(TrialError, match=rf"{one.name}: not a whole survey: .*; delete its folder"):
        Survey.read(tmp_path / one.name)
