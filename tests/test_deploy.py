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
STRATEGIES = {"FAILOVER", "EAGER_NEXT_REGION"}
GPUS = {"A40", "A100-80GB", "H100", "H200", "RTX4090", "L4"}

SBATCH = {
    "--account", "--array", "--chdir", "--comment", "--constraint", "--cpus-per-gpu", "--cpus-per-task",
    "--dependency", "--error", "--exclude", "--exclusive", "--export", "--gpus", "--gpus-per-node", "--gpus-per-task",
    "--gres", "--job-name", "--mail-type", "--mail-user", "--mem", "--mem-per-cpu", "--mem-per-gpu", "--nodelist",
    "--nodes", "--no-requeue", "--ntasks", "--ntasks-per-node", "--open-mode", "--output", "--partition", "--qos",
    "--requeue", "--signal", "--time",
}  # fmt: skip
ALONE = {"--exclusive", "--requeue", "--no-requeue"}  # options that need no value

DOCKER = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "ONBUILD", "RUN",
    "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


def kinds(found, known):
    """Fields that are unknown or of another kind."""
    return {key: value for key, value in found.items() if type(value) is not known.get(key)}


@pytest.fixture(scope="module")
def sky():
    return yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())


def bash_parses(script):
    ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


# SkyPilot


def test_the_skypilot_task_has_only_fields_of_its_schema(sky):
    assert kinds(sky, TASK) == {}
    assert kinds(sky["resources"], RESOURCES) == {}
    assert kinds(sky["resources"]["job_recovery"], RECOVERY) == {}
    assert all(type(value) is str for value in sky["envs"].values())
    for script in (sky["setup"], sky["run"]):
        bash_parses(script)


def test_it_asks_for_any_of_the_gpus_on_spot_machines(sky):
    assert sky["resources"]["infra"] == "runpod"
    assert sky["resources"]["accelerators"] == dict.fromkeys(GPUS, 1)
    assert sky["resources"]["use_spot"] is True


def test_it_goes_on_after_an_interruption_from_a_volume(sky):
    recovery = sky["resources"]["job_recovery"]
    assert recovery["strategy"] in STRATEGIES
    assert recovery["recover_on_exit_codes"] == [Interrupted.code]
    [mounted] = sky["volumes"]
    assert sky["envs"]["STORAGE"] == mounted
    assert 'storage="$STORAGE/$TRIAL"' in sky["run"]
    # what the shell is replaced by gets the signal, and its exit code is the job's
    assert sky["run"].startswith("exec ")
    assert sky["envs"]["TRIAL"] in shipped()


# Slurm


@pytest.fixture(scope="module")
def sbatch():
    return (DEPLOY / "slurm.sbatch").read_text()


def test_the_batch_script_parses_and_its_options_are_sbatch_s(sbatch):
    bash_parses(sbatch)
    lines = sbatch.splitlines()
    assert lines[0].startswith("#!")
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert len(options) > 5
    for option in options:
        name, _, value = option.partition("=")
        assert name in SBATCH, option
        assert bool(value) != (name in ALONE), option
    # sbatch reads no option after the first command
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


def test_the_signal_comes_early_enough_for_a_checkpoint(sbatch):
    warned = re.search(r"^#SBATCH --signal=B:TERM@(\d+)$", sbatch, re.MULTILINE)
    assert warned
    assert int(warned[1]) == NOTICE_S > GRACE_S
    assert "#SBATCH --requeue\n" in sbatch
    assert "#SBATCH --open-mode=append\n" in sbatch


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


def test_a_job_without_a_trial_says_how_it_is_used(job):
    process = job[0]("exit 0")
    assert b"usage: sbatch deploy/slurm.sbatch TRIAL" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


# Docker


@pytest.fixture(scope="module")
def dockerfile():
    """Its instructions: (name, rest)."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_s_instructions_are_docker_s(dockerfile):
    assert all(len(instruction) == 2 and instruction[0] in DOCKER for instruction in dockerfile)
    names = [name for name, _ in dockerfile if name != "ARG"]
    assert names[0] == "FROM"
    assert names.count("FROM") == names.count("ENTRYPOINT") == names.count("CMD") == 1
    for name, rest in dockerfile:
        if name == "RUN":
            bash_parses(rest)


def test_it_runs_a_trial_on_cuda_and_forwards_signals(dockerfile):
    found = dict(dockerfile)
    assert found["FROM"].startswith("nvidia/cuda:")
    # as a list: no shell stands between, so that SIGTERM reaches the run
    assert json.loads(found["ENTRYPOINT"]) == ["tokentrial", "run"]
    assert json.loads(found["CMD"])[0] in shipped()
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert found["VOLUME"] == f"{found['WORKDIR']}/outputs"


def test_what_it_copies_is_there_and_all_that_the_package_is_built_from(dockerfile):
    copied = [source for name, rest in dockerfile if name == "COPY" for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "tokentrial"} <= set(copied)
