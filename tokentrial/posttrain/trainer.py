"""What SFT and GRPO share of the Hugging Face Trainer: its arguments, the place it runs in, progress, checkpoints that
are whole, and the word to stop, at which one more is written."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from tokentrial.errors import Interrupted
from tokentrial.executors.worker import launcher_variables, stoppable
from tokentrial.pretrain.device import precision, resolve_device, resolve_dtype
from tokentrial.store.folders import MANIFEST, damaged_files, is_done, write_manifest
from tokentrial.trial.settings import Pretrain

Progress = Callable[[float, str], None]
Saved = Callable[[Path], None]

# what transformers 5.23 calls it, and 5.17
_NAMES = {field.name for field in fields(TrainingArguments)}
_CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _NAMES else "gradient_checkpointing"
# Defaults of transformers and accelerate that shape a result, written down, so that a new release changes none. A
# setting of the trial stands in none of these tables.
_SHAPING: dict[str, Any] = {
    # AdamW (Loshchilov & Hutter 2019), one fused kernel; the rate falls linearly to zero
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "optim_target_modules": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "max_grad_norm": 1.0,
    # one batch a step, of which every row counts
    "max_steps": -1,
    "gradient_accumulation_steps": 1,
    "average_tokens_across_devices": True,
    "auto_find_batch_size": False,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "dataloader_in_order": True,
    "accelerator_config": {
        "split_batches": False,
        "dispatch_batches": None,
        "even_batches": True,
        "use_seedable_sampler": True,
        "gradient_accumulation_kwargs": None,
    },
    "pad_to_multiple_of": None,
    "ignore_data_skip": False,  # a run that goes on skips the rows it has read
    # the model as it is
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
    "router_aux_loss_coef": None,
    _CHECKPOINTING: False,
    "torch_compile": False,
    "use_liger_kernel": False,
    "full_determinism": False,
    "tf32": None,  # `precision` decides
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "eval_strategy": "no",  # SFT asks for an evaluation itself
    "per_device_eval_batch_size": 8,
    "logging_nan_inf_filter": True,
    "load_best_model_at_end": False,
}
# what says where a stage runs and what it writes; not recorded
_PLACE = frozenset(
    {
        "output_dir",
        "use_cpu",
        "report_to",
        "disable_tqdm",
        "save_strategy",
        "save_steps",
        "logging_strategy",
        "logging_steps",
        "log_level",
        "dataloader_pin_memory",
    }
)


def shared_arguments(output: Path, settings: Pretrain, seed: int, save_steps: int) -> dict[str, Any]:
    """Arguments that both trainers take: the device and dtype of pretraining, nothing reported. Every step is logged,
    as means over several would begin anew where a run goes on. Checkpoints are pruned by `Watch`: the Trainer would
    delete the old one before the new one is whole."""
    on_cpu, dtype = resolve_device(settings) == "cpu", resolve_dtype(settings)
    return _SHAPING | {
        "output_dir": str(output),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": on_cpu,
        "bf16": dtype == "bf16",
        "fp16": dtype == "fp16" and not on_cpu,  # accelerate has no fp16 on a CPU; fp32 there
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "log_level": "error",
        "dataloader_pin_memory": not on_cpu,
    }


def on_one_device(arguments: Any) -> Any:
    """The same TrainingArguments, of a process that uses one GPU however many it sees: with more TRL's trainers
    refuse to start."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # transformers has no public way, beside hiding GPUs before CUDA starts
    return arguments


def recorded(arguments: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's record says of its arguments: those given that shape a result, as the Trainer resolved them."""
    resolved = arguments.to_dict()
    return {name: resolved[name] for name in sorted(given) if name not in _PLACE}


@contextmanager
def alone(settings: Pretrain) -> Iterator[None]:
    """Within the block the Trainer is one process, whatever a launcher has left in the environment: accelerate would
    wait for ranks that never come. Products of matrices are as exact as in pretraining."""
    taken = {name: os.environ.pop(name) for name in launcher_variables()}
    try:
        with precision(tf32=resolve_device(settings) == "cuda"):
            yield
    finally:
        os.environ.update(taken)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress and looks for the word to stop; writes a checkpoint's manifest once all of its files are there,
    as the Trainer writes in place, and only then deletes the one before, its manifest first."""

    def __init__(self, progress: Progress, stage: str, stop: Callable[[], bool], saved: Saved) -> None:
        self.progress, self.stage, self.stop, self.saved = progress, stage, stop, saved

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # on completions that were used before, GRPO could not go on: they are not in the checkpoint
        whole = state.global_step % getattr(args, "num_iterations", 1) == 0
        if self.stop() and whole and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        self.progress(state.global_step / max(1, state.max_steps), f"{self.stage} step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_manifest(newest, newest.name)
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
        if is_done(path, path.name) and not damaged_files(path):
            whole[int(path.name.rpartition("-")[2])] = str(path)
        else:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None
