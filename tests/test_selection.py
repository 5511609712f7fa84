"""`run --stages --arm --seed`: what is run now is chosen by name; settings and fingerprints are the whole trial's."""

import sys

import pytest

from tokentrial.cli import main as cli
from tokentrial.errors import SettingsError, TrialError
from tokentrial.run.run import run
from tokentrial.run.run_folder import status
from tokentrial.run.selection import select
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json


def test_nothing_chosen_is_the_whole_trial(finished):
    assert select(finished, None, None, None)[:2] == (None, None)


def test_everything_named_is_the_whole_trial(finished):
    chosen = select(finished, "corpus,pretrain,export,eval_pretrain", "mul_tokens,baseline", "2,1")
    assert chosen[:2] == (None, None)


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


def test_a_chosen_cell_is_what_the_whole_run_makes(finished, tiny, tmp_path, inline, monkeypatch, capsys):
    trial = tiny(tmp_path / "run")
    monkeypatch.setattr("tokentrial.trial.load.load.load", lambda *given: trial)
    words = ["run", "smoke", "--arms", "mul_tokens", "--seed", "2", "--stages", "corpus,pretrain"]
    monkeypatch.setattr(sys, "argv", ["tokentrial", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "corpus, pretrain of mul_tokens, seeds 2: done; the same command without" in capsys.readouterr().out
    done = {name for name, stages in status(trial.folder)["cells"].items() if stages["pretrain"]}
    assert done == {"mul_tokens/seed2"}
    prints = [
        read_json(Cell("mul_tokens", 2).folder(of, "pretrain") / "manifest.json")["fingerprint"]
        for of in (trial, finished)
    ]
    assert prints[0] == prints[1]
    assert not (trial.folder / "comparison_report.json").exists()


def test_stages_with_a_gap_between_them_are_refused(tiny, tmp_path, inline):
    """The first of them could begin, but the last lacks what it is made from."""
    trial = tiny(tmp_path / "run")
    run(trial, ("corpus",))
    with pytest.raises(TrialError, match="eval_pretrain needs export; run `tokentrial export` first"):
        run(trial, ("pretrain", "eval_pretrain"))
    assert not (trial.folder / "baseline").exists()
