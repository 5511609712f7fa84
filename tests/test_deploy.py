"""The recipes of deploy/: they parse, use fields that there are, and know that code 75 means interrupted and resumable.

The facts about the three tools are written here, from SkyPilot's task schema, sbatch's manual and Docker's reference.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tokentrial.errors import Interrupted
from tokentrial.executors.worker import GRACE_S
from tokentrial.trial.load import shipped

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ROOT = DEPLOY.parent
NOTICE_S = 30

# SkyPilot: fields of a task and of its resources, and the kind of each
TASK = {"name": str, "workdir": str, "resources": dict, "volumes": dict, "envs": dict, "setup": str, "run": str}
RESOURCES = {"infra": str, "accelerators": dict, "use_spot": bool, "disk_size": int, "job_recovery": dict}
RECOVERY = {"strategy": str, "max_restarts_on_errors": int, "recover_on_exit_codes": list}


def bash_parses(script):
    ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


# SkyPilot


def test_the_skypilot_task_has_only_fields_of_its_schema_and_goes_on_after_an_interruption():
    sky = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    recovery = sky["resources"]["job_recovery"]
    for part, schema in ((sky, TASK), (sky["resources"], RESOURCES), (recovery, RECOVERY)):
        assert {key: value for key, value in part.items() if type(value) is not schema.get(key)} == {}
    assert all(type(value) is str for value in sky["envs"].values())
    for script in (sky["setup"], sky["run"]):
        bash_parses(script)
    assert recovery["recover_on_exit_codes"] == [Interrupted.code]
    assert [sky["envs"]["STORAGE"]] == [*sky["volumes"]]
    assert sky["envs"]["TRIAL"] in shipped()


# Slurm


def test_the_batch_script_gets_its_signal_early_enough_for_a_checkpoint():
    script = (DEPLOY / "slurm.sbatch").read_text()
    bash_parses(script)
    # sbatch reads no option after the first command
    options, _, commands = re.sub(r"^#(?!SBATCH).*\n", "", script, flags=re.MULTILINE).partition("\n\n")
    assert "#SBATCH" not in commands
    warned = re.search(r"^#SBATCH --signal=B:TERM@(\d+)$", options, re.MULTILINE)
    assert warned
    assert int(warned[1]) == NOTICE_S > GRACE_S
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= {*options.splitlines()}


@pytest.fixture
def job(tmp_path):
    """`job(script, *words)`: the batch script at work, with `script` for tokentrial; and what scontrol was told."""
    told = tmp_path / "scontrol.txt"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    (tmp_path / "scontrol").chmod(0o755)

    def start(script, *words):
        (tmp_path / "tokentrial").write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / "tokentrial").chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
        return subprocess.Popen(
            ["bash", DEPLOY / "slurm.sbatch", *words], env=environment, cwd=tmp_path, stderr=subprocess.PIPE
        )

    return start, lambda: told.read_text().splitlines() if told.exists() else []


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (75, ["requeue 17"]), (130, [])])
def test_only_what_was_interrupted_is_queued_again(job, tmp_path, code, requeued):
    start, told = job
    process = start(f'echo "$@" > words.txt; exit {code}', "gpt2_50m", "seeds=[1, 2]")
    process.communicate(timeout=60)
    assert (process.returncode, told()) == (code, requeued)
    assert (tmp_path / "words.txt").read_text() == "run gpt2_50m seeds=[1, 2]\n"


def test_the_signal_reaches_the_run_and_the_job_waits_for_its_end(job, tmp_path):
    start, told = job
    process = start("trap 'sleep 1; touch saved; exit 75' TERM; touch ready; while true; do sleep 0.05; done", "pilot")
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, told()) == (Interrupted.code, ["requeue 17"])
    assert (tmp_path / "saved").exists()


# Docker


def test_the_image_runs_a_trial_forwards_signals_and_holds_all_that_the_package_is_built_from():
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    instructions = [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    found = dict(instructions)
    # as a list: no shell stands between, so that SIGTERM reaches the run
    assert json.loads(found["ENTRYPOINT"]) == ["tokentrial", "run"]
    assert json.loads(found["CMD"])[0] in shipped()
    for name, rest in instructions:
        if name == "RUN":
            bash_parses(rest)
    copied = [source for name, rest in instructions if name == "COPY" for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "tokentrial"} <= set(copied)
