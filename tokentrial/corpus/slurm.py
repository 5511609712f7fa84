"""The tasks of the text as a Slurm job array, which datatrove writes and submits.

A job can hand nothing back but files: a task that fails leaves its error in one before it raises it.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from tokentrial.corpus.text import TextTasks, run_task
from tokentrial.errors import SettingsError, TrialError

logger.disable("datatrove")  # its lines would drown ours; what a task did is in its record

_POLL_S = 0.5
_LOST_AFTER_S = 60.0  # a job that is in no queue and has written nothing for so long is lost


class TextStep(PipelineStep):  # type: ignore[misc]
    """The pipeline's one step: datatrove's rank is the task's number."""

    type = "corpus"
    name = "text"

    def __init__(self, tasks: TextTasks) -> None:
        super().__init__()
        self.tasks = tasks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do task `rank`."""
        try:
            run_task(self.tasks, rank)
        except TrialError as error:
            kind = "settings" if isinstance(error, SettingsError) else "trial"
            (self.tasks.folder / f"{rank:05d}.{kind}.error").write_text(str(error))
            raise


def run_on_slurm(tasks: TextTasks, workers: int, show: Callable[[], None]) -> None:
    """Submit a job array and wait for the tasks' records. Raises the first task's TrialError."""
    if shutil.which("sbatch") is None:
        raise SettingsError("corpus.executor: slurm needs sbatch on the PATH; run it where jobs are submitted")
    for stale in tasks.folder.glob("*.error"):
        stale.unlink()
    logs = tasks.folder / "datatrove"
    shutil.rmtree(logs, ignore_errors=True)  # its marks carry no settings; our records do
    job: dict[str, Any] = {"job_name": "tokentrial-corpus", "time": "24:00:00", "partition": "cpu"}
    job |= {"venv_path": str(Path(sys.executable).parent / "activate"), **tasks.settings.cluster}
    executor = SlurmPipelineExecutor(
        pipeline=[TextStep(tasks)], tasks=len(tasks.inputs), workers=workers, logging_dir=str(logs), **job
    )
    executor.run()
    last_missing, last_change = len(tasks.inputs), time.monotonic()
    while missing := len(executor.get_incomplete_ranks()):
        for path in sorted(tasks.folder.glob("*.error")):
            kind = SettingsError if ".settings." in path.name else TrialError
            raise kind(path.read_text())
        time.sleep(_POLL_S)
        if missing != last_missing:
            show()
            last_missing, last_change = missing, time.monotonic()
        if time.monotonic() - last_change < _LOST_AFTER_S:
            continue
        queue = ["squeue", "-h", "-j", str(executor.job_id)]
        if not subprocess.run(queue, capture_output=True, text=True, check=False).stdout.strip():
            raise TrialError(
                f"corpus.executor: Slurm job {executor.job_id} has left the queue and {missing} tasks are not done; "
                f"see {executor.slurm_logs_folder}, then run again"
            )
