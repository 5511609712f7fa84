"""The doctor: what it finds wrong, and that it sends nothing."""

import json
import socket
from importlib import metadata

import psutil
import pytest
from typer.testing import CliRunner

from tokentrial.cli.main import app
from tokentrial.inspection import doctor


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(measure=False)}


def test_it_connects_to_nothing_and_its_json_is_what_it_found(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    printed = CliRunner().invoke(app, ["doctor", "--no-measure", "--json"], catch_exceptions=False)
    assert [line["name"] for line in json.loads(printed.stdout)] == [*findings()]


def test_the_secrets_of_the_environment_are_not_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    shown = str(findings())
    assert "HF_TOKEN" in shown
    assert "HTTPS_PROXY" in shown
    assert "secret" not in shown


def test_a_version_that_is_not_the_locked_one_is_named(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "trl" else real(name))
    assert f"trl {doctor.locked_versions()['trl']}" in findings()["versions"].advice


def test_little_memory_and_no_avx2_are_said(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    found = findings()
    assert found["memory"].advice
    assert found["processor"].advice


@pytest.mark.slow
def test_the_pilots_minutes_come_from_its_own_steps():
    assert "tokens/s" in [*doctor.examine()][-1].found
