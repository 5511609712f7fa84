"""The files that a run reads and that are not its own: where they are gone, moved or changed, what is done stays and
can be looked at from anywhere; what has to be made from them is refused by name, before anything is trained."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_once
from tokentrial.errors import SettingsError, TrialError
from tokentrial.run.declaration import declaration
from tokentrial.run.run import rebuild, run
from tokentrial.run.run_folder import open_run, status
from tokentrial.run.standing import standing
from tokentrial.store.files import read_json
from tokentrial.store.folders import is_held
from tokentrial.trial.declaration import declaration_hash

pytestmark = pytest.mark.usefixtures("undrawn")
FILES = ("prose.jsonl", "rows.jsonl", "svamp.json", "gsm")


def write_inputs(folder, source):
    (folder / "gsm").mkdir(parents=True)
    shutil.copy(source, folder / "prose.jsonl")
    rows = [{"prompt": f"User: {i}?\nAssistant:", "completion": f" #### {i}"} for i in range(30)]
    gsm8k = [{"question": f"Ann has {i} pens. How many?", "answer": f"{i}\n#### {i}"} for i in range(12)]
    for name, lines in (("rows.jsonl", rows), ("gsm/train.jsonl", gsm8k), ("gsm/test.jsonl", gsm8k)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "svamp.json").write_text(json.dumps([{"Body": "Ann", "Question": "How?", "Answer": 2.0}] * 3))


SETTINGS = (
    "seeds=[1]",
    "grpo=null",
    "corpus.source=jsonl:prose.jsonl",
    "tasks.gsm8k=path:gsm",
    "evaluate.tasks=[gsm8k, 'path:svamp.json']",
    "sft={stages: [{sources: [{source: 'jsonl:rows.jsonl'}, {source: gsm8k}], epochs: 1}], batch: 8, max_length: 128}",
)


@pytest.fixture(scope="module")
def once(ladder, source, tmp_path_factory):
    """A trial whose files are named by relative paths, run where they lie."""
    home = tmp_path_factory.mktemp("home")
    write_inputs(home / "data", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "data")
        trial = run_once("inputs", lambda folder: ladder(folder, *SETTINGS), tmp_path_factory, "forest")
        run(trial)  # of several test processes only one has made it: each has files of its own
    return trial


@pytest.fixture
def there(once, tmp_path, monkeypatch, ladder):
    """The finished run and the files beside it, in a folder of their own, looked at from another; `there(*names)` takes
    files away, and returns the trial."""
    # as if it had been run here: the same relative paths, another place
    data = tmp_path / "data"
    shutil.copytree(Path(once.corpus.source.removeprefix("jsonl:")).parent, data)
    shutil.copytree(once.folder, tmp_path / "run")
    monkeypatch.chdir(data)
    run(ladder(tmp_path / "run", *SETTINGS))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def take_away(*names):
        for name in names:
            path = data / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return open_run(tmp_path / "run")

    return take_away


def test_a_finished_run_moved_with_its_files_is_the_same_experiment(there, once, no_workers):
    """The way to a file is no part of what is declared, nor of a fingerprint."""
    trial = there()
    assert trial.corpus.source != once.corpus.source
    assert declaration_hash(declaration(trial)) == declaration_hash(declaration(once))
    assert standing(trial).departures == []
    assert run(trial)["outcomes"] == read_json(once.folder / "comparison_report.json")["outcomes"]


@pytest.mark.parametrize("gone", [[name] for name in FILES] + [["gsm/test.jsonl"], [*FILES]])
def test_what_is_done_needs_its_files_no_more(there, no_workers, tokentrial, gone):
    trial = there(*gone)
    report = read_json(trial.folder / "comparison_report.json")
    (trial.folder / "comparison_report.json").unlink()
    for words in (("status", trial.folder), ("report", trial.folder), ("results", trial.folder)):
        code, _, err = tokentrial(*words)
        assert code == 0, err
    assert all(all(done.values()) for done in status(trial.folder)["cells"].values())
    assert run(trial)["outcomes"] == report["outcomes"]
    assert standing(trial).departures == []


@pytest.mark.parametrize(
    ("gone", "undone", "named"),
    [
        ("prose.jsonl", "corpus", "prose.jsonl"),
        ("rows.jsonl", "baseline/seed1/sft", "rows.jsonl is gone, but baseline/seed1: sft"),
        ("gsm/train.jsonl", "mul_tokens/seed1/sft", "train.jsonl is gone, but mul_tokens/seed1: sft"),
        ("svamp.json", "baseline/seed1/eval_sft", "svamp.json is gone, but baseline/seed1: eval_sft"),
        ("rows.jsonl", "corpus/audit.json", "rows.jsonl is gone, but the audit"),
    ],
)
def test_what_is_to_be_made_from_a_file_that_is_gone_is_refused_at_once(there, no_workers, gone, undone, named):
    trial = there(gone)
    path = trial.folder / undone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (trial.folder / "trial.yaml").read_bytes()
    with pytest.raises(TrialError, match=named):
        run(trial.model_copy(update={"seeds": [1]}))
    assert (trial.folder / "trial.yaml").read_bytes() == before
    assert not is_held(trial.folder)


@pytest.mark.parametrize("name", ["prose.jsonl", "rows.jsonl", "svamp.json", "gsm/train.jsonl"])
def test_a_report_is_not_made_poorer_by_a_file_that_changed(there, tmp_path, name):
    trial = there()
    before = (trial.folder / "comparison_report.json").read_bytes()
    path = tmp_path / "data" / name
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))
    with pytest.raises(TrialError, match=path.parent.name if "/" in name else name):
        rebuild(trial.folder)
    assert (trial.folder / "comparison_report.json").read_bytes() == before


def test_a_file_that_was_never_read_is_named(there, no_workers):
    trial = there(*FILES)
    (trial.folder / "inputs.json").unlink()
    with pytest.raises(TrialError, match=r"not found, and .*inputs"):
        rebuild(trial.folder)
    with pytest.raises(SettingsError, match=r"evaluate\.tasks"):
        run(trial)
