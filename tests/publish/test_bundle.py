"""A bundle: one file of a run's results, the same bytes for the same run, that compare reads as it reads the run."""

import hashlib
import json
import re
import shutil
import zipfile

import pytest

from tokentrial.compare.bundles import unpacked
from tokentrial.compare.contrasts import compare_systems
from tokentrial.compare.read import read_systems
from tokentrial.errors import SettingsError, TrialError
from tokentrial.publish.bundle import write_bundle
from tokentrial.report.latex import escape_latex, latex_table
from tokentrial.store.files import read_json


@pytest.fixture(scope="module")
def bundle(finished, tmp_path_factory):
    return write_bundle(finished.folder, tmp_path_factory.mktemp("bundle") / "finished.zip")


@pytest.fixture
def report(finished):
    return read_json(finished.folder / "comparison_report.json")


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(bundle, finished_copy):
    again = write_bundle(finished_copy)
    assert again == finished_copy.with_name("run.zip")
    assert again.read_bytes() == bundle.read_bytes()


def test_it_holds_results_and_hashes_and_the_weights_stay_behind(finished, bundle):
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        hashes = json.loads(archive.read("hashes.json"))
        content = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names if name != "hashes.json"}
    assert hashes["bundle"] == content
    expected = {"trial.yaml", "declared.json", "comparison_report.json", "report.html", "report.md", "hashes.json"}
    expected |= {"table.tex", "figures/forest.svg", "README.md", "results.parquet"}
    for arm in finished.arms:
        expected |= {f"{arm}/seed1/eval_pretrain/{name}" for name in ("samples.jsonl", "heldout_text.json")}
    assert names == sorted(names)
    assert expected <= set(names)
    assert not any(name.endswith((".safetensors", ".npy")) for name in names)
    weights = finished.folder / "baseline" / "seed1" / "hf" / "model.safetensors"
    recorded = hashes["run"]["baseline/seed1/hf"]["sha256"]["model.safetensors"]
    assert recorded == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_compare_says_of_a_bundle_what_it_says_of_the_run(finished, bundle):
    with unpacked([bundle]) as folders:
        of_bundle = compare_systems(read_systems(folders)).contrasts
    of_run = compare_systems(read_systems([finished.folder])).contrasts
    figures = [[(c.outcome, c.difference, c.p, c.verdict) for c in contrasts] for contrasts in (of_bundle, of_run)]
    assert figures[0] == figures[1]
    assert {c.a for c in of_bundle} == {"finished/mul_tokens"}


def test_a_run_without_a_report_says_what_makes_one(finished_copy):
    (finished_copy / "comparison_report.json").unlink()
    with pytest.raises(TrialError, match=r"comparison_report\.json: not found; `tokentrial run` writes it"):
        write_bundle(finished_copy)
    with pytest.raises(SettingsError, match=r"no trial\.yaml there"):
        write_bundle(finished_copy.parent)


def test_results_that_are_not_the_report_s_are_refused(finished_copy):
    shutil.rmtree(finished_copy / "baseline" / "seed2" / "eval_pretrain")
    with pytest.raises(TrialError, match=r"it is of 4 evaluations to .*, found 3"):
        write_bundle(finished_copy)


def test_results_of_a_stage_that_the_trial_no_longer_has_stay_out(finished_copy):
    """They are not in its report either, so that no report made anew would match them."""
    cell = finished_copy / "baseline" / "seed1"
    shutil.copytree(cell / "eval_pretrain", cell / "eval_sft")
    assert not any("eval_sft" in name for name in zipfile.ZipFile(write_bundle(finished_copy)).namelist())


def test_a_result_that_was_changed_is_refused(finished_copy):
    path = finished_copy / "baseline" / "seed2" / "eval_pretrain" / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"false", b"true "))
    with pytest.raises(TrialError, match=r"samples\.jsonl: its bytes differ from its manifest"):
        write_bundle(finished_copy)
    assert not finished_copy.with_name("run.zip").exists()


# the table


def test_every_row_of_the_table_has_its_columns(report):
    table = latex_table(report)
    [columns] = re.findall(r"\\begin\{tabular\}\{(\w+)\{4cm\}\}", table)  # the last one is of sentences
    rows = [line for line in table.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + 1 + len(report["declared"]["secondary"])
    for row in rows:
        assert len(re.split(r"(?<!\\)&", row)) == len(columns) == 11
    assert "mul\\_tokens - baseline" in rows[1]
    assert f"${report['contrasts'][0]['difference']:+.3f}$" in table  # as maths, so that its sign is a minus


def test_no_name_breaks_out_of_the_table():
    assert (
        escape_latex("\\input{x}\n% ~^±") == r"\textbackslash{}input\{x\} \% \textasciitilde{}\textasciicircum{}$\pm$"
    )
    assert escape_latex("&%$#_{}") == r"\&\%\$\#\_\{\}"
