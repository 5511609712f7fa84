"""A shard's survey is what a slow reading of its documents finds; it is made once, whatever arms are added later."""

import pytest

from tokentrial.corpus.patching import FORMS, Survey
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import document_text, open_shard
from tokentrial.errors import TrialError
from tokentrial.facts import drills
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.folders import is_done


def test_a_survey_weighs_every_document_and_holds_what_it_states(plan):
    stated = 0
    assert {path.stem for path in plan.survey_folder.glob("*.npz")} == {path.stem for path in plan.shards()}
    for path in plan.shards():
        shard = open_shard(path, plan.vocabulary.eos)
        survey = Survey.read(plan.survey_folder / f"{path.stem}.npz")
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
    before = {path: path.stat().st_mtime_ns for path in first.survey_folder.iterdir()}
    more = replanned("baseline,mul_tokens,mul_append")
    assert not more.done
    prepare_patches(more)
    assert more.done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert list(more.patch_folder("mul_append").glob("*.npz"))
    [gone, *_] = sorted(more.survey_folder.glob("*.npz"))
    whole = gone.read_bytes()
    gone.unlink()
    assert not is_done(more.survey_folder, more.survey_fingerprint)
    prepare_patches(more)
    assert more.done
    assert gone.read_bytes() == whole


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_survey_that_is_cut_off_is_named(plan, tmp_path, share):
    [one, *_] = sorted(plan.survey_folder.glob("*.npz"))
    (tmp_path / one.name).write_bytes(one.read_bytes()[: int(share * one.stat().st_size)])
    with pytest.raises(TrialError, match=rf"{one.name}: not a whole survey: .*; delete its folder"):
        Survey.read(tmp_path / one.name)
