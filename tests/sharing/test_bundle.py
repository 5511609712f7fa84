"""A bundle: one file of a run's results, the same bytes for the same run, that compare reads as it reads the run."""

import hashlib
import json
import re
import shutil
import zipfile

import pytest

from tokentrial.compare import contrasts, read
from tokentrial.compare.bundles import opened
from tokentrial.errors import SettingsError, TrialError
from tokentrial.report.paper import escaped, latex_table, methods
from tokentrial.sharing.bundle import bundle
from tokentrial.store.files import read_json


@pytest.fixture(scope="module")
def packed(climbed, tmp_path_factory):
    return bundle(climbed.folder, tmp_path_factory.mktemp("bundle") / "climbed.zip")


@pytest.fixture
def report(climbed):
    return read_json(climbed.folder / "comparison_report.json")


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(climbed, packed, tmp_path):
    shutil.copytree(climbed.folder, tmp_path / "moved")
    again = bundle(tmp_path / "moved")
    assert again == tmp_path / "moved.zip"
    assert again.read_bytes() == packed.read_bytes()


def test_what_is_in_it(climbed, packed):
    names = zipfile.ZipFile(packed).namelist()
    assert names == sorted(names)
    wanted = {"trial.yaml", "declared.json", "comparison_report.json", "report.html", "report.md", "hashes.json"}
    wanted |= {"methods.md", "table.tex", "figures/forest.svg"}
    for arm in climbed.arms:
        for stage in ("pretrain", "sft", "grpo"):
            wanted |= {f"{arm}/seed1/eval_{stage}/{name}" for name in ("samples.jsonl", "heldout_text.json")}
    assert wanted <= set(names)
    assert not any(name.endswith((".safetensors", ".npy")) for name in names)


def test_its_hashes_are_of_its_files_and_of_the_weights_that_stay_behind(climbed, packed):
    with zipfile.ZipFile(packed) as archive:
        hashes = json.loads(archive.read("hashes.json"))
        for name in archive.namelist():
            if name != "hashes.json":
                assert hashes["bundle"][name] == hashlib.sha256(archive.read(name)).hexdigest()
    weights = climbed.folder / "baseline" / "seed1" / "hf" / "model.safetensors"
    told = hashes["run"]["baseline/seed1/hf"]["sha256"]["model.safetensors"]
    assert told == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_compare_says_of_a_bundle_what_it_says_of_the_run(climbed, packed):
    with opened([packed]) as folders:
        of_bundle = contrasts.compare(read.read(folders))
        [folder] = folders
    of_run = contrasts.compare(read.read([climbed.folder]))
    assert not folder.exists()
    strip = [
        {(line.outcome, line.difference, line.p, line.verdict) for line in made.contrasts}
        for made in (of_bundle, of_run)
    ]
    assert strip[0] == strip[1]
    assert {line.a for line in of_bundle.contrasts} == {"climbed/mul_tokens"}


def test_a_run_without_a_report_says_what_makes_one(climbed, tmp_path):
    shutil.copytree(climbed.folder, tmp_path / "run")
    (tmp_path / "run" / "comparison_report.json").unlink()
    with pytest.raises(TrialError, match=r"comparison_report\.json: not found; `tokentrial run` writes it"):
        bundle(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"no trial\.yaml there"):
        bundle(tmp_path)


def test_results_that_are_not_the_report_s_are_refused(climbed, tmp_path):
    shutil.copytree(climbed.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "baseline" / "seed2" / "eval_grpo")
    with pytest.raises(TrialError, match=r"it is of 12 evaluations to .*, found 11"):
        bundle(tmp_path / "run")


def test_results_of_a_stage_that_the_trial_no_longer_has_stay_out(finished_copy):
    """They are not in its report either, so that no report made anew would match them."""
    cell = finished_copy / "baseline" / "seed1"
    shutil.copytree(cell / "eval_pretrain", cell / "eval_sft")
    names = zipfile.ZipFile(bundle(finished_copy)).namelist()
    assert "baseline/seed1/eval_pretrain/samples.jsonl" in names
    assert not any("eval_sft" in name for name in names)


def test_a_result_that_was_changed_is_refused(climbed, tmp_path):
    shutil.copytree(climbed.folder, tmp_path / "run")
    path = tmp_path / "run" / "baseline" / "seed2" / "eval_sft" / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"false", b"true "))
    with pytest.raises(TrialError, match=r"samples\.jsonl: its bytes differ from its manifest"):
        bundle(tmp_path / "run")
    assert not (tmp_path / "run.zip").exists()


# the paragraph and the table


def test_the_methods_are_the_report_s_own(report):
    text = methods(report)
    for said in (
        "We held mul_tokens against the control baseline in the trial smoke, on 2 seeds (1, 2)",
        f"{report['consumed']['baseline']['parameters']:,} parameters (1 layers, width 32, context 128",
        "The budget was the same tokens in every arm",
        f"baseline {report['consumed']['baseline']['tokens']:,.0f} tokens",
        "accuracy on never-asked facts after pretraining, for the contrast mul_tokens - baseline",
        "1 secondary comparison, Holm-adjusted",
        "two-sided paired t test at alpha 0.05; the smallest effect that matters was set to 0.1",
        "at least 0.6 on asked facts and 0.4 on never-asked ones: it reached",
        "was not passed: ",
        "Result: mul_tokens - baseline on pretrain/mul_table/never_asked/accuracy: baseline has not learnt",
    ):
        assert said in text
    assert "\n" not in text


def test_the_methods_before_anything_was_trained_or_without_a_gate(report):
    text = methods(report | {"consumed": {}, "gate": None, "outcomes": {}})
    assert "was not measured" in text
    assert "nothing to compare yet" in text
    assert "No gate was declared" in methods(report | {"declared": report["declared"] | {"gate": None}})


def test_every_row_of_the_table_has_its_columns(report):
    lines = latex_table(report).splitlines()
    [columns] = [re.search(r"\\begin\{tabular\}\{(\w+)\}", line)[1] for line in lines if "begin" in line]
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 1 + 1 + len(report["declared"]["secondary"])
    for row in rows:
        assert len(re.split(r"(?<!\\)&", row)) == len(columns) == 9
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert rule in lines
    assert "mul\\_tokens - baseline" in rows[1]


def test_a_difference_is_set_as_maths_so_that_its_sign_is_a_minus(report):
    primary = report["primary"]
    made = report["outcomes"][primary["outcome"]]["contrasts"][primary["contrast"]]
    assert f"${made['difference']:+.3f}$" in latex_table(report)


@pytest.mark.parametrize("special", list("&%$#_{}"))
def test_what_latex_reads_as_its_own_is_escaped(special):
    assert escaped(f"a{special}b") == f"a\\{special}b"


def test_no_name_breaks_out_of_the_table():
    assert escaped("\\input{x}\n% ~^±") == r"\textbackslash{}input\{x\} \% \textasciitilde{}\textasciicircum{}$\pm$"
