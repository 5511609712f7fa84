"""What SFT and GRPO share: the job, the arguments of the Hugging Face Trainer, its precision, progress, checkpoints
that are whole, and stopping."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from tokentrial.arms.arm import Arm
from tokentrial.errors import Interrupted
from tokentrial.executors.worker import stoppable
from tokentrial.pretrain.device import later_device, precision, resolve_dtype
from tokentrial.store.files import write_json
from tokentrial.store.folders import MANIFEST, is_usable, write_manifest
from tokentrial.tokenizer.export import copy_tokenizer
from tokentrial.trial.pretraining import Pretrain
from tokentrial.trial.trial import Trial

# what transformers 5.23 calls it, and 5.17, which clusters still have
_NAMES = {field.name for field in fields(TrainingArguments)}
_CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _NAMES else "gradient_checkpointing"
# Defaults of transformers and accelerate that shape a result, written down, so that a new release changes none. A
# setting of the trial stands in none of these tables.
_DEFAULTS: dict[str, Any] = {
    # AdamW (Loshchilov & Hutter 2019), one fused kernel; the rate falls linearly to zero
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    # one batch a step, of which every row counts
    "max_steps": -1,
    "gradient_accumulation_steps": 1,
    "average_tokens_across_devices": True,
    "train_sampling_strategy": "random",
    "dataloader_num_workers": 0,
    "dataloader_in_order": True,
    "accelerator_config": {
        "split_batches": False,
        "dispatch_batches": None,
        "even_batches": True,
        "use_seedable_sampler": True,  # the order of rows comes from the seed, not from a global generator
        "gradient_accumulation_kwargs": None,
    },
    "label_smoothing_factor": 0.0,
    "eval_strategy": "no",  # SFT asks for an evaluation itself
    "per_device_eval_batch_size": 8,
    "logging_nan_inf_filter": True,
}
_DEFAULTS |= dict.fromkeys(("optim_args", "optim_target_modules", "lr_scheduler_kwargs", "pad_to_multiple_of"), None)
_DEFAULTS |= dict.fromkeys(("neftune_noise_alpha", "router_aux_loss_coef"), None)
_DEFAULTS |= dict.fromkeys(("auto_find_batch_size", "dataloader_drop_last", "load_best_model_at_end"), False)
_DEFAULTS |= dict.fromkeys((_CHECKPOINTING, "torch_compile", "use_liger_kernel"), False)
_DEFAULTS |= dict.fromkeys(("full_determinism", "bf16_full_eval", "fp16_full_eval"), False)
_DEFAULTS |= {
    "ignore_data_skip": False,  # a resumed run skips the rows that it has read
    "tf32": None,  # `precision` decides: the Trainer's switch would stay set for the worker's next stage
}


class PostTraining(NamedTuple):
    """SFT or GRPO of one cell: it trains the model in `source` and writes into `folder`. `checkpoints` outlives an
    interruption: a second call goes on from the newest whole checkpoint in it. `saved` is called with each that is
    written."""

    folder: Path
    checkpoints: Path
    trial: Trial
    arm: Arm
    seed: int
    source: Path
    progress: Callable[[float, str], None]
    saved: Callable[[Path], None] = lambda checkpoint: None


def shared_arguments(settings: Pretrain, seed: int) -> dict[str, Any]:
    """Arguments of both trainers that shape a result, and that the record of a stage holds."""
    dtype = resolve_dtype(settings)
    # accelerate has no fp16 on a CPU; fp32 there
    fp16 = dtype == "fp16" and later_device(settings) != "cpu"
    return _DEFAULTS | {"seed": seed, "data_seed": seed, "bf16": dtype == "bf16", "fp16": fp16}


def local_arguments(output: Path, settings: Pretrain, save_steps: int) -> dict[str, Any]:
    """Arguments of both trainers that say where a stage runs and what it writes; not recorded. Every step is logged, as
    means over several would begin anew where a run is resumed. Checkpoints are pruned by `CheckpointCallback`: the
    Trainer would delete the old one before the new one is whole."""
    on_cpu = later_device(settings) == "cpu"
    return {
        "output_dir": str(output),
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "log_level": "error",
    }


def on_one_device(arguments: Any) -> Any:
    """The same TrainingArguments, of a process that uses one GPU however many it sees: with more TRL's trainers
    refuse to start."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # no public way, except hiding GPUs before CUDA starts
    return arguments


def recorded_arguments(arguments: Any, shaping: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's record says of its arguments: those that shape a result, as the Trainer resolved them."""
    resolved = arguments.to_dict()
    return {name: resolved[name] for name in sorted(shaping)}


def trainer_precision(settings: Pretrain) -> AbstractContextManager[None]:
    """Within the block matrix products are as exact as in pretraining."""
    return precision(tf32=later_device(settings) == "cuda")


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Reports progress, stops where `stop()` says so, and makes checkpoints whole or absent: a checkpoint's manifest is
    written once all of its files are, as the Trainer writes in place; only then the one before is deleted. After the
    last step of all the result is written at once, so `is_last` spares that checkpoint."""

    def __init__(self, job: PostTraining, stage: str, stop: Callable[[], bool], is_last: bool) -> None:
        self.job, self.stage, self.stop, self.is_last = job, stage, stop, is_last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # GRPO uses a batch of completions `num_iterations` times, and they are in no checkpoint: a resume between two
        # uses would sample others
        resumable = state.global_step % getattr(args, "num_iterations", 1) == 0
        if self.stop() and resumable and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        if self.is_last and state.global_step >= state.max_steps:
            control.should_save = False
        self.job.progress(state.global_step / max(1, state.max_steps), f"{self.stage} step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_manifest(newest, newest.name)
        for path in folder.glob("checkpoint-*"):
            if path != newest:
                # the manifest first: a kill while the rest is deleted then leaves nothing that passes for whole
                (path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(path)
        self.job.saved(newest)


def train(trainer: Any, checkpoints: Path, job: PostTraining, stage: str, is_last: bool = True) -> list[dict[str, Any]]:
    """Train to the end, from the newest whole checkpoint on, and return the log; where other trainings of the same job
    follow, not `is_last`, the end is a checkpoint too. Told to stop, it writes a checkpoint and raises Interrupted."""
    trainer.remove_callback(PrinterCallback)
    with stoppable() as stop:
        trainer.add_callback(CheckpointCallback(job, stage, stop, is_last))
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    state = trainer.state
    if state.global_step < state.max_steps:
        raise Interrupted(f"{checkpoints}: stopped after step {state.global_step}; the same command resumes from there")
    # what Trainer and TRL sum up counts only what came after a stop: the record at the end, and the number of tokens
    records = [record for record in state.log_history if "train_runtime" not in record]
    return [{name: value for name, value in record.items() if name != "num_tokens"} for record in records]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is as it was written; what was written in part, or damaged since, is deleted."""
    whole = {}
    for path in folder.glob("checkpoint-*"):
        if is_usable(path, path.name):
            whole[int(path.name.rpartition("-")[2])] = str(path)  # by number: by name 9 comes after 10
        else:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None


def write_result(job: PostTraining, stage: str, model: Any, record: Mapping[str, Any], started: float) -> None:
    """Write model, tokenizer and `<stage>_results.json`."""
    model.save_pretrained(job.folder)
    copy_tokenizer(job.source, job.folder)
    cell = {"condition": job.arm.name, "seed": job.seed}
    seconds = time.perf_counter() - started
    write_json(job.folder / f"{stage}_results.json", {**cell, **record, "seconds": seconds})
