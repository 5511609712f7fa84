"""`run --stages --arm --seed`: what is run now is chosen by name; settings and fingerprints are the whole trial's."""

import shutil

import pytest

from tokentrial.errors import SettingsError, TrialError
from tokentrial.run.run import run
from tokentrial.run.selection import select
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json


@pytest.mark.parametrize(
    "words", [(None, None, None), ("corpus,pretrain,export,eval_pretrain", "mul_tokens,baseline", "2,1")]
)
def test_nothing_or_everything_chosen_is_the_whole_trial(finished, words):
    assert select(finished, *words)[:2] == (None, None)


def test_the_choice_comes_in_the_trial_s_order(finished):
    chosen = select(finished, "export, pretrain", "mul_tokens", "2,1")
    assert chosen.stages == ["pretrain", "export"]
    assert chosen.cells == [Cell("mul_tokens", 1), Cell("mul_tokens", 2)]


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (("pretrian", None, None), "stage 'pretrian': not in this trial; it has corpus, pretrain, export"),
        (("sft", None, None), "stage 'sft': not in this trial; it has corpus, pretrain, export, eval_pretrain"),
        ((None, "baseline,one_slot", None), "arm 'one_slot': not in this trial; it has baseline, mul_tokens"),
        ((None, None, "7"), "seed '7': not in this trial; it has 1, 2"),
        ((None, None, "one"), "seed 'one': not in this trial; it has 1, 2"),
        ((None, "", None), "arm '': not in this trial"),
    ],
)
def test_what_the_trial_has_not_is_refused_with_what_it_has(finished, words, known):
    with pytest.raises(SettingsError, match=known):
        select(finished, *words)


def test_a_chosen_cell_is_what_the_whole_run_makes(finished_copy, finished, tiny, tokentrial, inline, monkeypatch):
    for cell in finished_copy.glob("*/seed*"):
        shutil.rmtree(cell)
    (finished_copy / "comparison_report.json").unlink()
    trial = tiny(finished_copy)
    monkeypatch.setattr("tokentrial.trial.load.load", lambda *given: trial)
    code, out, err = tokentrial("run", "smoke", "--arms", "mul_tokens", "--seed", "2", "--stages", "corpus,pretrain")
    assert code == 0, err
    assert "corpus, pretrain of mul_tokens, seeds 2: done; the same command without" in out
    assert [path.parent.parent.name for path in finished_copy.glob("*/seed*/pretrain")] == ["mul_tokens"]
    prints = [read_json(Cell("mul_tokens", 2).folder(of, "pretrain") / "manifest.json")["fingerprint"]
              for of in (trial, finished)]  # fmt: skip
    assert prints[0] == prints[1]
    assert not (finished_copy / "comparison_report.json").exists()


def test_stages_with_a_gap_between_them_are_refused(finished_copy, tiny, inline):
    """The first of them could begin, but the last lacks what it is made from."""
    shutil.rmtree(finished_copy / "baseline")
    with pytest.raises(TrialError, match="eval_pretrain needs export; run `tokentrial export` first"):
        run(tiny(finished_copy), ("pretrain", "eval_pretrain"))
    assert not (finished_copy / "baseline").exists()
