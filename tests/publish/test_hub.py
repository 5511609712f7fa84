"""Push and pull against a stub of the Hub on loopback, spoken to by the real client: no network, no real token."""

import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import unquote

import pytest
import torch
import yaml
from pyarrow import parquet

from tokentrial.errors import SettingsError, TrialError
from tokentrial.pretrain.start import prepare_start, start_fingerprint
from tokentrial.publish import hub
from tokentrial.publish.dataset import dataset_card
from tokentrial.publish.hub import pull, push
from tokentrial.report.narrative import verdict_sentence
from tokentrial.steps.cell import Cell
from tokentrial.store.files import SEAL
from tokentrial.store.folders import prune
from tokentrial.store.storage import Storage
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.settings import Ray

NAME = "me/tiny-seed1"
CELL = Cell("baseline", 1)
COMMIT = "a" * 40


class Hub:
    """What the stub holds and how it answers: `status` other than 200 is its answer to everything; `fault` is called
    with the handler and the bytes it would send instead of sending them, for addresses that hold `where`."""

    def __init__(self):
        self.files, self.data_set, self.created, self.asked, self.status = {}, {}, [], [], 200
        self.fault, self.where = None, ""
        self.url = ""


def handler(state):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given):
            pass

        def answer(self, value, status=200, headers=None):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            if state.fault and state.where in self.path:
                state.fault(self, body)
                return
            self.send_response(status)
            for key, text in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self):
            data, path = self.body(), self.path.split("?")[0]
            state.asked.append((path, self.headers.get("Authorization")))
            if state.status != 200:
                self.answer({"error": "no"}, state.status)
            elif path == "/api/repos/create":
                state.created.append(json.loads(data))
                name = f"datasets/{NAME}-results" if state.created[-1].get("type") == "dataset" else NAME
                self.answer({"url": f"{state.url}/{name}", "name": name, "id": "1"})
            elif path == "/api/validate-yaml":
                self.answer({"warnings": [], "errors": []})
            elif path in (f"/api/models/{NAME}/preupload/main", f"/api/datasets/{NAME}-results/preupload/main"):
                files = [file["path"] for file in json.loads(data)["files"]]
                modes = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self.answer({"files": modes})
            elif path in (f"/api/models/{NAME}/commit/main", f"/api/datasets/{NAME}-results/commit/main"):
                files = state.files if path.startswith("/api/models") else state.data_set
                for line in data.splitlines():
                    operation = json.loads(line)
                    if operation["key"] == "file":
                        content = base64.b64decode(operation["value"]["content"])
                        files[operation["value"]["path"]] = content
                self.answer({"commitUrl": f"{state.url}/{NAME}/commit/{COMMIT}", "commitOid": COMMIT})
            else:
                self.answer({"error": path}, 404)

        def do_GET(self):
            path = unquote(self.path.split("?")[0])
            state.asked.append((path, self.headers.get("Authorization")))
            resolved = f"/{NAME}/resolve/{COMMIT}/"
            if state.status != 200:
                self.answer({"error": "no"}, state.status)
            elif path in (f"/api/models/{NAME}", *(f"/api/models/{NAME}/revision/{name}" for name in ("main", COMMIT))):
                siblings = [{"rfilename": file} for file in state.files]
                self.answer({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings})
            elif path.startswith(resolved) and path.removeprefix(resolved) in state.files:
                data = state.files[path.removeprefix(resolved)]
                tag = hashlib.sha256(data).hexdigest()
                self.answer(data, headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            else:
                self.answer({"error": path}, 404, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

    return Handler


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The Hub is a server on loopback; the client's home is a temporary folder; a token is set."""
    from huggingface_hub import constants

    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def cell(finished):
    return finished.folder / "mul_tokens" / "seed1"


# there and back


def test_what_is_pulled_is_what_was_pushed_and_loads_as_any_model(stub, cell, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert push(cell, NAME) == [f"{stub.url}/{NAME}", f"{stub.url}/datasets/{NAME}-results"]
    names = pull(NAME, tmp_path / "pulled")
    assert set(names) == set(stub.files) == {path.name for path in (tmp_path / "pulled").iterdir()}
    assert set(names) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    folders = tmp_path / "pulled", cell / "hf"
    ids = torch.randint(600, (2, 32), generator=torch.Generator().manual_seed(0))  # (B, T)
    assert torch.equal(*(AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in folders))
    tokenized = [AutoTokenizer.from_pretrained(folder)("so <MUL_6_9_54> and 7")["input_ids"] for folder in folders]
    assert tokenized[0] == tokenized[1]


def test_only_the_model_of_the_stage_goes_out(stub, cell, tmp_path, monkeypatch):
    folders = {"pretrain": cell / "hf", "sft": shutil.copytree(cell / "hf", tmp_path / "sft")}
    for name in ("sft_results.json", "training.pt"):
        (folders["sft"] / name).write_bytes(b"{}")
    monkeypatch.setattr(hub, "model_folder", lambda trial, cell, stage: folders[stage])
    push(cell, NAME)
    files = set(stub.files)
    push(cell, NAME, stage="sft", public=True)
    assert set(stub.files) == files
    assert [repository["visibility"] for repository in stub.created] == ["private"] * 2 + ["public"] * 2
    assert {token for _, token in stub.asked} == {"Bearer hf_stub"}
    assert "weights after sft" in stub.files["README.md"].decode()


def test_the_card_says_the_verdict_and_the_settings_and_no_path_of_this_machine(stub, cell, finished):
    push(cell, NAME)
    card = stub.files["README.md"].decode()
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    for part in (
        "# smoke: mul_tokens, seed 1",
        "**mul_tokens - baseline on pretrain/mul_table/never_asked/accuracy: ",
        "not on this model, which was trained with one of them",
        "weights after pretrain",
    ):
        assert part in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings["pretrain"] == finished.model_dump(mode="json")["pretrain"]
    assert settings["corpus"]["source"] == "jsonl:prose.jsonl"
    assert str(finished.folder) not in card
    assert str(finished.corpus.source).removeprefix("jsonl:") not in card
    elsewhere = finished.model_copy(update={"output": str(finished.folder / "elsewhere")})
    card = hub.model_card(elsewhere, CELL, "pretrain", "# a model")
    assert "No verdict: the trial was not finished." in card


def test_the_card_says_nothing_of_where_the_trial_was_computed(finished, tmp_path):
    (tmp_path / "secret").mkdir()
    rows = tmp_path / "secret" / "text.jsonl"
    rows.write_text("")
    reruns = [
        f"corpus.source=jsonl:{rows}",
        f"facts.csv={tmp_path}/secret/facts.csv",
        "corpus.source=jsonl:secret/a.jsonl",
    ]
    update = {
        "storage": "s3://secret/trial",
        "executor": "ray",
        "ray": Ray(address="secret:6379"),
        "disk_limit_gb": 7.5,
    }
    update["pretrain"] = finished.pretrain.model_copy(update={"rdzv_endpoint": "secret:29500"})
    card = hub.model_card(
        finished.model_copy(update=update | {"robustness_reruns": reruns}), CELL, "pretrain", "# a model"
    )
    assert "secret" not in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    expected = ["corpus.source=jsonl:text.jsonl", "facts.csv=./facts.csv", "corpus.source=jsonl:a.jsonl"]
    assert settings["robustness_reruns"] == expected


def test_the_results_go_beside_the_model_as_a_data_set_with_a_card(stub, cell, finished, tmp_path):
    push(cell, NAME)
    head, body = stub.data_set["README.md"].decode().removeprefix("---\n").split("\n---\n", 1)
    (config,) = yaml.safe_load(head)["configs"]
    assert stub.data_set.keys() == {"README.md", config["data_files"]}
    table = parquet.read_table(BytesIO(stub.data_set[config["data_files"]]))
    assert table.equals(parquet.read_table(finished.folder / "results.parquet"))
    assert all(f"`{column}`" in body for column in table.column_names)
    report = json.loads((finished.folder / "comparison_report.json").read_bytes())
    assert f"**{verdict_sentence(report)}**" in body
    assert report["declaration"]["sha256"] in body


def test_a_trial_without_a_report_sends_its_model_alone(stub, finished_copy):
    (finished_copy / "comparison_report.json").unlink()
    assert push(finished_copy / "baseline" / "seed1", NAME) == [f"{stub.url}/{NAME}"]
    assert stub.data_set == {}


def test_results_that_are_not_whole_are_not_published(stub, finished_copy):
    path = finished_copy / "comparison_report.json"
    report = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: value for key, value in report.items() if key != SEAL} | {"missing": ["x"]}))
    assert push(finished_copy / "baseline" / "seed1", NAME) == [f"{stub.url}/{NAME}"]


def test_a_card_names_no_folder_of_this_machine(finished):
    report = json.loads((finished.folder / "comparison_report.json").read_bytes())
    report["declaration"] |= {
        "departures": ["/home/me/secret/run/declared.json is gone, and results were made under it"]
    }
    card = dataset_card(report).decode()
    assert "secret" not in card
    assert "declared.json is gone" in card


def test_a_trial_starts_from_a_model_on_the_hub_and_asks_for_it_once(stub, cell, tiny, tmp_path):
    push(cell, NAME)
    stub.files["pytorch_model.bin"] = b"a pickle"
    trial = tiny(tmp_path / "run", f"pretrain.from_checkpoint={NAME}")
    prepare_start(trial, Vocabulary(256, 45))
    files = {path.name for path in (tmp_path / "run" / "start").iterdir()}
    assert files == {"config.json", "tokenizer.json", "model.safetensors", "manifest.json"}
    assert json.loads((tmp_path / "run" / "start" / "manifest.json").read_bytes())["revision"] == COMMIT
    local = tiny(tmp_path / "local", f"pretrain.from_checkpoint={cell / 'hf'}")
    prepare_start(local, Vocabulary(256, 45))
    assert start_fingerprint(trial) == start_fingerprint(local)
    stub.status = 500
    prepare_start(trial, Vocabulary(256, 45))


def test_a_fresh_machine_starts_from_the_revision_that_the_run_has_begun_with(stub, cell, tiny, tmp_path):
    push(cell, NAME)
    settings = f"pretrain.from_checkpoint={NAME}", f"storage={tmp_path / 'there'}"
    begun, fresh = (tiny(tmp_path / name, *settings) for name in ("begun", "fresh"))
    prepare_start(begun, Vocabulary(256, 45))
    Storage(begun).state.claim()
    Storage(fresh).state.fetch()
    stub.asked.clear()
    prepare_start(fresh, Vocabulary(256, 45))
    assert [path for path, _ in stub.asked if path.startswith("/api")] == [f"/api/models/{NAME}/revision/{COMMIT}"]
    assert start_fingerprint(fresh) == start_fingerprint(begun)


def test_a_start_that_the_hub_does_not_know_is_named(stub, tiny, tmp_path):
    stub.status = 404
    with pytest.raises(TrialError, match=r"me/none: not pulled: the Hub knows no such model \(404\)"):
        prepare_start(tiny(tmp_path / "run", "pretrain.from_checkpoint=me/none"), Vocabulary(256, 45))


# refusals of ours


def test_a_damaged_model_stays_here(stub, finished_copy):
    path = finished_copy / "baseline" / "seed1" / "hf" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrialError, match=r"model\.safetensors: its bytes differ from its manifest"):
        push(path.parents[1], NAME)
    assert stub.asked == []


def test_a_model_whose_weights_were_pruned_is_not_pushed_without_them(stub, finished_copy):
    cell = finished_copy / "baseline" / "seed1"
    prune(cell / "hf", ["model.safetensors"])
    with pytest.raises(TrialError, match=r"hf: its weights are not here, they were pruned .*disk_limit_gb=null"):
        push(cell, NAME)
    assert stub.asked == []


@pytest.mark.parametrize(
    ("cell", "stage", "message"),
    [
        ("baseline", "pretrain", "expected a cell of a run, OUT/ARM/seedK"),
        ("baseline/seed9", "pretrain", r"not a cell; arms are baseline, mul_tokens, seeds are \[1, 2\]"),
        ("baseline/seed1", "sft", "--stage sft: the trial smoke has pretrain"),
    ],
)
def test_what_is_no_cell_or_stage_of_a_run(stub, finished, cell, stage, message):
    with pytest.raises(SettingsError, match=message):
        push(finished.folder / cell, NAME, stage=stage)
    assert stub.asked == []


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "-x", "x" * 100])
def test_a_name_that_the_hub_has_not(stub, cell, tmp_path, name):
    for command in (lambda: push(cell, name), lambda: pull(name, tmp_path / "pulled")):
        with pytest.raises(SettingsError, match="expected OWNER/MODEL"):
            command()


def test_a_token_that_is_missing(stub, cell, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(TrialError, match="no token for the Hub; set HF_TOKEN, or log in with `hf auth login`"):
        push(cell, NAME)
    assert stub.asked == []


def test_a_folder_that_holds_something_is_left_alone(stub, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="exists and is not empty; give a new folder"):
        pull(NAME, tmp_path)
    assert stub.asked == []


# answers of the Hub; of 429, 500 and a server that hangs, truncates or babbles see tests/faults/test_hub.py


@pytest.mark.parametrize(
    ("status", "message"), [(401, "refused the token"), (403, "refuses this token"), (404, "knows no such model")]
)
def test_what_the_hub_refuses_is_one_clear_line(stub, cell, tmp_path, status, message):
    stub.status = status
    for command in (lambda: push(cell, NAME), lambda: pull(NAME, tmp_path / "pulled")):
        with pytest.raises(TrialError, match=message) as error:
            command()
        assert "\n" not in str(error.value)
        assert "hf_stub" not in str(error.value)
    assert not (tmp_path / "pulled").exists()


def test_a_model_that_would_have_to_be_unpickled_is_not_pulled(stub, tmp_path):
    stub.files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
    with pytest.raises(TrialError, match=r"no model in safetensors there; found config\.json"):
        pull(NAME, tmp_path / "pulled")


def test_names_that_would_leave_the_folder_are_not_fetched(stub, tmp_path):
    stub.files = {"config.json": b"{}", "model.safetensors": b"x"}
    hostile = {"../evil.json": b"{}", "a/b.json": b"{}", ".netrc.txt": b"x", "run.py": b"x"}
    stub.files |= hostile
    names = pull(NAME, tmp_path / "deep" / "pulled")
    assert not hostile.keys() & set(names)
    assert {path.name for path in (tmp_path / "deep").rglob("*") if path.is_file()} == set(names)
