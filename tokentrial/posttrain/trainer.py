"""What SFT and GRPO share of the Hugging Face Trainer: its arguments, progress, and checkpoints that are whole."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.settings import Pretrain
from tokentrial.store import canonical, file_hash, write_bytes

Progress = Callable[[float, str], None]
_COMPLETE = "complete"


def shared_arguments(output: Path, settings: Pretrain, seed: int, save_steps: int) -> dict[str, Any]:
    """Arguments that both trainers take: the device and dtype of pretraining, nothing reported. Checkpoints are pruned
    by `Watch`: the Trainer would delete the old one before the new one is marked."""
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
        "logging_steps": 10,
        "log_level": "error",
        "dataloader_pin_memory": not on_cpu,
    }


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress, marks a checkpoint once all of its files are written, as the Trainer writes in place, and only
    then deletes the one before, its mark first."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self.progress, self.stage = progress, stage

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:
            control.should_log = True  # means over steps begin anew where a run goes on: so they do without a stop
        self.progress(state.global_step / max(1, state.max_steps), f"{self.stage} step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_bytes(newest / _COMPLETE, _hashes(newest))
        for path in folder.glob("checkpoint-*"):
            if path != newest:
                (path / _COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(path)


def mean_loss(log: Sequence[Mapping[str, Any]]) -> float:
    """Mean loss over all steps, from the records of a log: the Trainer's own forgets the steps before a stop."""
    records = [record for record in log if "loss" in record]
    steps = [record["step"] for record in records]
    weighed = [
        record["loss"] * (step - before) for record, step, before in zip(records, steps, [0, *steps], strict=False)
    ]
    return float(sum(weighed) / steps[-1])


def _hashes(folder: Path) -> bytes:
    return canonical(
        {path.name: file_hash(path) for path in folder.iterdir() if path.is_file() and path.name != _COMPLETE}
    )


def last_complete(folder: Path) -> str | None:
    """The newest checkpoint that is as it was written; what was written in part, or damaged since, is deleted."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).exists() and (path / _COMPLETE).read_bytes() == _hashes(path):
            whole.append(path)
        else:
            shutil.rmtree(path)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return str(newest) if newest else None
