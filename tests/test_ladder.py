"""A trial with a ladder, run: every size a trial of its own, one report with their trend."""

import pytest

from tokentrial.errors import SettingsError
from tokentrial.report.text_report import markdown
from tokentrial.report.variants import variant_reports
from tokentrial.run.check import check
from tokentrial.run.run import run
from tokentrial.run.run_folder import open_run, status
from tokentrial.store.files import read_json, sealed, write_json

LADDER = "ladder={sizes: [{n_layer: 1, n_head: 1, n_embd: 16, tokens: 40960}], tokens_exponent: 0.5}"


def test_the_sizes_are_run_reported_together_and_not_run_again(tiny, tmp_path, in_process, only, monkeypatch):
    in_process(monkeypatch)
    only("trends", "multipliers")
    trial = tiny(tmp_path / "run", LADDER, f"storage={tmp_path / 'kept'}")
    report = run(trial)
    assert read_json(tmp_path / "kept" / "comparison_report.json") == report  # with the sizes, which came after it
    sizes = report["ladder"]["sizes"]
    assert [size["name"] for size in sizes] == ["1x16", "1x32"]
    assert [size["tokens"] for size in sizes] == [40960, 81920]
    primary = report["ladder"]["trends"][0]
    folders = trial.folder / "ladder" / "1x16", trial.folder
    differences = [read_json(folder / "comparison_report.json")["contrasts"][0]["difference"] for folder in folders]
    assert [point["mean"] for point in primary["by_size"]] == pytest.approx(differences)
    assert {cell.split("/")[0] for cell in status(trial.folder)["cells"]} == {"ladder", "baseline", "mul_tokens"}
    assert "## Trends over compute" in markdown(report)
    assert (trial.folder / "figures" / "trends.svg").exists()
    declared = read_json(trial.folder / "declared.json")["declaration"]
    assert declared["ladder"]["sizes"][0]["n_embd"] == 16
    assert run(open_run(trial.folder)) == report
    path = trial.folder / "ladder" / "1x16" / "comparison_report.json"
    write_json(path, sealed(read_json(path) | {"version": 15}))  # by an earlier release: its fields are others
    [(_, old)] = variant_reports(trial, path.name, report["version"])
    assert old is None


def test_the_trials_own_size_is_no_size_beside_it(tiny, tmp_path):
    with pytest.raises(SettingsError, match="the trial's own size"):
        tiny(tmp_path / "run", LADDER.replace("n_head: 1, n_embd: 16", "n_head: 2, n_embd: 32"))


def test_looks_and_trials_that_would_stop_by_their_own_results_do_not_go_together(tiny, tmp_path):
    for others in (LADDER, "sweep={pretrain.lr: [0.004]}", "robustness_reruns=[budget.match=bytes]"):
        with pytest.raises(SettingsError, match=f"looks and {others.partition('=')[0]}"):
            check(tiny(tmp_path / "run", others, "verdict.looks=[2]"))
