"""What SFT and GRPO share of the Hugging Face Trainer: its arguments, progress, checkpoints that are whole, and the
word to stop, at which one more is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from tokentrial.errors import Interrupted
from tokentrial.executors.worker import stoppable
from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.settings import Pretrain
from tokentrial.store import MANIFEST, is_done, seal, verify

Progress = Callable[[float, str], None]
Saved = Callable[[Path], None]


def shared_arguments(output: Path, settings: Pretrain, seed: int, save_steps: int) -> dict[str, Any]:
    """Arguments that both trainers take: the device and dtype of pretraining, nothing reported. Every step is logged,
    as means over several would begin anew where a run goes on. Checkpoints are pruned by `Watch`: the Trainer would
    delete the old one before the new one is whole."""
    on_cpu = resolve_device(settings) == "cpu"
    return {
        "output_dir": str(output),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": on_cpu,
        "bf16": resolve_dtype(settings) == "bf16",
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "logging_steps": 1,
        "log_level": "error",
        "dataloader_pin_memory": not on_cpu,
    }


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress and looks for the word to stop; writes a checkpoint's manifest once all of its files are there,
    as the Trainer writes in place, and only then deletes the one before, its manifest first."""

    def __init__(self, progress: Progress, stage: str, stop: Callable[[], bool], saved: Saved) -> None:
        self.progress, self.stage, self.stop, self.saved = progress, stage, stop, saved

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stop() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        self.progress(state.global_step / max(1, state.max_steps), f"{self.stage} step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        seal(newest, newest.name)
        for path in folder.glob("checkpoint-*"):
            if path != newest:
                (path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(path)
        self.saved(newest)


def train(trainer: Any, checkpoints: Path, progress: Progress, stage: str, saved: Saved) -> list[dict[str, Any]]:
    """Train to the end, from the newest whole checkpoint on, and return the log; `saved` is called with each checkpoint
    that is written. Told to stop, it writes one and raises Interrupted."""
    trainer.remove_callback(PrinterCallback)
    with stoppable() as stop:
        trainer.add_callback(Watch(progress, stage, stop, saved))
        trainer.train(resume_from_checkpoint=last_complete(checkpoints))
    state = trainer.state
    if state.global_step < state.max_steps:
        raise Interrupted(f"{checkpoints}: stopped after step {state.global_step}; the same command goes on from there")
    log: list[dict[str, Any]] = state.log_history
    return log


def last_complete(folder: Path) -> str | None:
    """The newest checkpoint that is as it was written; what was written in part, or damaged since, is deleted."""
    whole = {}
    for path in folder.glob("checkpoint-*"):
        if is_done(path, path.name) and not verify(path):
            whole[int(path.name.rpartition("-")[2])] = str(path)
        else:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None
