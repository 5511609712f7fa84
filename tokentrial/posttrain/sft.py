"""Supervised fine-tuning of one cell with TRL: the same rows, order and steps in every arm.

A row is `User: …\\nAssistant:` and a completion that ends in eos. The loss is of the completion alone, eos among it
(defect R8); the arm's `rewrite` is applied to completions, never to prompts (defect R3).
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import Trainer, TrainerCallback

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import encode_prompts
from tokentrial.evaluate.solve import solve
from tokentrial.posttrain.trainer import Progress, Saved, alone, on_one_device, recorded, shared_arguments, train
from tokentrial.store.files import write_json
from tokentrial.tasks.gsm8k import Solutions
from tokentrial.tasks.rows import rows
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.export import copy_tokenizer
from tokentrial.trial.settings import SFT, SFTStage
from tokentrial.trial.trial import Trial

# TRL's defaults that shape a result, written down: rows come encoded and labelled, and are neither cut nor packed
_SHAPING: dict[str, Any] = {
    "loss_type": "nll",
    "completion_only_loss": True,
    "assistant_only_loss": False,
    "max_length": None,
    "packing": False,
    "eval_packing": None,
    "padding_free": False,
    "shuffle_dataset": False,  # the Trainer draws the order of rows, anew for each epoch
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": True,
    "eos_token": None,
    "chat_template_path": None,
    "activation_offloading": False,
}
# Ids up to which the whole logits are cheaper than TRL's head, which makes them in tiles, computes entropy and accuracy
# that nobody reads, and makes them again for the gradient: on a CPU a step of the pilot takes a fifth longer by it.
_FEW_IDS = 8192


class Row(NamedTuple):
    """One row as it is trained: `labels` are -100 on the prompt."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def taught(self) -> bool:
        """Whether anything of the completion is left; a batch without any would have no loss. The same in every arm."""
        return any(label != -100 for label in self.labels)


def encode(tokenizer: Any, arm: Arm, example: Example, max_length: int) -> Row:
    """Ids of prompt, rewritten completion and eos, cut at `max_length`."""
    prompt, completion = encode_prompts(tokenizer, [example.prompt, arm.rewrite(example.completion)])
    ids = [*prompt, *completion, tokenizer.eos_token_id]
    labels = [-100] * len(prompt) + ids[len(prompt) :]
    return Row(ids[:max_length], labels[:max_length], len(ids) > max_length)


class Solve(TrainerCallback):  # type: ignore[misc]
    """Adds loss and accuracy on held training rows to the trainer's log, epoch by epoch: with the last step of each, as
    a checkpoint of that step must hold them."""

    def __init__(self, tokenizer: Any, arm: Arm, held: Sequence[Example], trial: Trial, with_loss: bool) -> None:
        self.tokenizer, self.arm, self.settings = tokenizer, arm, trial.evaluate
        self.held, self.with_loss = [example for example in held if example.answer], with_loss

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step * args.num_train_epochs % state.max_steps:
            return
        control.should_evaluate = self.with_loss
        if self.held:
            tokens, batch = self.settings.solution_tokens, self.settings.batch
            rows = solve(model.eval(), self.tokenizer, self.arm, Solutions(), self.held, tokens, batch)
            accuracy = sum(row["correct"] for row in rows) / len(rows)
            state.log_history.append({"epoch": state.epoch, "step": state.global_step, "held_accuracy": accuracy})
            model.train()


def sft(
    folder: Path,
    checkpoints: Path,
    trial: Trial,
    settings: SFT,
    arm: Arm,
    seed: int,
    source: Path,
    progress: Progress,
    saved: Saved = lambda checkpoint: None,
) -> None:
    """Fine-tune the model in `source`, stage by stage; write model, tokenizer and `sft_results.json` into `folder`.

    `checkpoints` outlives an interruption: a second call goes on from the newest whole checkpoint in it.
    """
    started = time.perf_counter()
    model, tokenizer = load(source)
    with alone(trial.pretrain):
        records = _stages(model, tokenizer, checkpoints, trial, settings, arm, seed, progress, saved)
    model.save_pretrained(folder)
    copy_tokenizer(source, folder)
    write_json(
        folder / "sft_results.json",
        {
            "condition": arm.name,
            "seed": seed,
            "train_loss": records[-1]["train_loss"],
            "eval_loss": records[-1]["eval_loss"],
            "stages": records,
            "seconds": time.perf_counter() - started,
        },
    )


def _stages(
    model: Any,
    tokenizer: Any,
    checkpoints: Path,
    trial: Trial,
    settings: SFT,
    arm: Arm,
    seed: int,
    progress: Progress,
    saved: Saved,
) -> list[dict[str, Any]]:
    """Train the model in place, stage by stage; the record of each."""
    never = arm.facts.never_asked(seed, trial.corpus.drills.never_asked_folds)
    length = min(settings.max_length, trial.pretrain.context)
    records = []
    for number, stage in enumerate(settings.stages):
        examples = rows(trial, stage.sources, seed, never)
        held = examples[: min(settings.held, len(examples) // 10)]
        kept = set(held)  # a row may stand there twice
        trained = [encode(tokenizer, arm, example, length) for example in examples if example not in kept]
        if not any(row.taught for row in trained):
            raise TrialError(f"sft.max_length: {length} tokens hold no row's prompt; give more")
        evaluated = [encode(tokenizer, arm, example, length) for example in held]
        of_stage = checkpoints / str(number)
        shared = shared_arguments(of_stage, trial.pretrain, seed, settings.checkpoint_every)
        given = shared | arguments(settings, stage, sum(row.taught for row in trained))
        trainer = _trainer(model, tokenizer, given, trained, evaluated)
        trainer.add_callback(Solve(tokenizer, arm, held, trial, trainer.eval_dataset is not None))
        log = train(trainer, of_stage, progress, "sft", saved)
        records.append(_record(stage, trained, len(held), log) | {"arguments": recorded(trainer.args, given)})
    return records


def arguments(settings: SFT, stage: SFTStage, rows: int) -> dict[str, Any]:
    """Arguments of one stage of SFT on so many rows, beside the shared ones."""
    steps = math.ceil(rows / settings.batch) * stage.epochs
    return _SHAPING | {
        "per_device_train_batch_size": settings.batch,
        "num_train_epochs": stage.epochs,
        "learning_rate": stage.lr,
        "weight_decay": settings.weight_decay,
        # in steps: a share of 1 would be taken for one step
        "warmup_steps": math.ceil(settings.warmup * steps),
    }


def _trainer(
    model: Any, tokenizer: Any, given: dict[str, Any], trained: Sequence[Row], evaluated: Sequence[Row]
) -> Any:
    """TRL's trainer of one stage, in which the model is trained in place."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class WholeLogits(SFTTrainer):  # type: ignore[misc]
        """Takes the loss of the model's own forward pass: the same, the mean of the batch's labelled tokens."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            return Trainer.compute_loss(self, model, inputs | {"use_cache": False}, *rest, **named)

    train_dataset, eval_dataset = (
        Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in encoded if row.taught])
        for encoded in (trained, evaluated)
    )
    return (WholeLogits if model.config.vocab_size <= _FEW_IDS else SFTTrainer)(
        model=model,
        args=on_one_device(SFTConfig(**given)),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset if len(eval_dataset) else None,
        processing_class=tokenizer,
    )


def _record(stage: SFTStage, trained: Sequence[Row], held: int, log: list[dict[str, Any]]) -> dict[str, Any]:
    """What `sft_results.json` says of a stage. The loss is the mean over all steps: the Trainer's own forgets those
    before a stop."""
    taught = [row for row in trained if row.taught]
    lengths = [len(row.input_ids) for row in taught]
    losses, held_losses, accuracies = (
        [record[key] for record in log if key in record] for key in ("loss", "eval_loss", "held_accuracy")
    )
    return {
        "sources": [source.model_dump() for source in stage.sources],
        "rows": len(taught),
        "epochs": stage.epochs,
        "steps": len(losses),
        "train_loss": sum(losses) / len(losses),
        "eval_loss": held_losses[-1] if held_losses else None,
        "held_rows": held,
        "held_accuracy": accuracies,
        "tokens_an_epoch": sum(lengths),
        "longest": max(lengths),
        "truncated": sum(row.truncated for row in taught),
        "left_out": len(trained) - len(taught),
        "log": log,
    }
