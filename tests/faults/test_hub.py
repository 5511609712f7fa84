"""A Hub that fails, on loopback, spoken to by the real client: it is waited for a while, never for ever, what goes
wrong is one line, and no part of a model stays."""

import time

import pytest

from tests.publish.test_hub import NAME
from tokentrial.publish.hub import pull, push
from tokentrial.store import network


def refuses(status):
    def answer(handler, body):
        handler.send_response(status)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(b"no")

    return answer


def hangs(handler, body):
    time.sleep(0.5)  # far longer than it is waited for here
    handler.close_connection = True


def truncates(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("ETag", '"one"')
    handler.send_header("X-Repo-Commit", "a" * 40)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def babbles(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", "6")
    handler.end_headers()
    handler.wfile.write(b"<html>")


FAULTS = {
    "500": (refuses(500), "the Hub answered 500; run the same command again later"),
    "429": (refuses(429), "the Hub's rate limit is reached (429); run the same command again in a few minutes"),
    "hangs": (hangs, "the Hub cannot be reached"),
    "truncates": (truncates, "the Hub cannot be reached"),
    "babbles": (babbles, "the reply is not the Hub"),
}


@pytest.fixture
def hurried(monkeypatch):
    """Waits are as many as ever, and short."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    class Hurried:
        def __getattr__(self, name):
            return (lambda seconds: None) if name == "sleep" else getattr(time, name)

    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", Hurried())
    monkeypatch.setattr(network, "_WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(network, "HUB_WAIT_S", 0.1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hub_that_fails_is_one_line_and_leaves_nothing(stub, cell, tokentrial, tmp_path, hurried, fault):
    stub.fault, complaint = FAULTS[fault]
    for words in (("push", cell, NAME), ("pull", NAME, tmp_path / "pulled")):
        code, out, err = tokentrial(*words)
        assert (code, out) == (1, "")
        assert f"{NAME}: not {words[0]}ed: {complaint}" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "pulled").exists()
    stub.fault = None
    push(cell, NAME)
    pull(NAME, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == (cell / "hf" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_fails_midway_leaves_no_model(stub, cell, tokentrial, tmp_path, hurried, fault):
    push(cell, NAME)
    stub.where, (stub.fault, _) = "model.safetensors", FAULTS[fault]
    code, out, err = tokentrial("pull", NAME, tmp_path / "pulled")
    assert (code, out) == (1, "")
    assert f"{NAME}: not pulled: " in err
    assert "Traceback" not in err
    assert not (tmp_path / "pulled").exists()
    stub.fault = None
    pull(NAME, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == (cell / "hf" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_on_a_hub_that_fails_is_given_up_and_nothing_is_written(stub, tokentrial, tmp_path, hurried, fault):
    stub.fault, _ = FAULTS[fault]
    code, out, err = tokentrial("run", "smoke", "corpus.source=hf:me/texts", f"output={tmp_path / 'run'}")
    assert (code, out) == (1, "")
    message = err.splitlines()[-1]
    assert "hf://datasets/me/texts: cannot be read" in message
    assert "check corpus.source, or give a copy of your own: parquet:FOLDER" in message
    assert "Traceback" not in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
