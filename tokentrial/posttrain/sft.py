"""Supervised fine-tuning of one cell with TRL: the same rows, order and steps in every arm.

A row is `User: …\\nAssistant:` and a completion that ends in eos. The loss is of the completion alone, eos among it
(defect R8); the arm's `rewrite` is applied to completions, never to prompts (defect R3).
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import Trainer, TrainerCallback

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import encode_plain
from tokentrial.evaluate.solve import solve
from tokentrial.posttrain.prompts import fitting
from tokentrial.posttrain.trainer import (
    PostTraining,
    local_arguments,
    on_one_device,
    recorded_arguments,
    shared_arguments,
    train,
    trainer_precision,
    write_result,
)
from tokentrial.tasks.gsm8k import SolutionTask
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import epoch_examples
from tokentrial.trial.settings import SFT, SFTPass

# TRL's defaults that shape a result, written down: rows come encoded and labelled, and are neither cut nor packed
_DEFAULTS: dict[str, Any] = {
    "loss_type": "nll",
    "completion_only_loss": True,
    "shuffle_dataset": False,  # the Trainer draws the order of rows, anew for each epoch
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": True,
}
_DEFAULTS |= dict.fromkeys(("assistant_only_loss", "packing", "padding_free", "activation_offloading"), False)
_DEFAULTS |= dict.fromkeys(("max_length", "eval_packing", "eos_token", "chat_template_path"), None)
_IGNORED = -100  # the label of a token that has no loss, as in torch and transformers
# Ids up to which the whole logits are cheaper than TRL's head, which makes them in tiles, computes entropy and accuracy
# that nobody reads, and makes them again for the gradient: on a CPU a step of the pilot takes a fifth longer by it.
_SMALL_VOCABULARY = 8192


class EncodedRow(NamedTuple):
    """One row as it is trained."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


def encode(tokenizer: Any, arm: Arm, example: Example, max_length: int) -> EncodedRow:
    """Ids of prompt, rewritten completion and eos, cut at `max_length`."""
    prompt, completion = encode_plain(tokenizer, [example.prompt, arm.rewrite(example.completion)])
    ids = [*prompt, *completion, tokenizer.eos_token_id]
    # The labels are made here and not by a collator: padding is eos too, and a mask by id would take the true end with
    # it, so that the model never learnt to stop (defect R8).
    labels = [_IGNORED] * len(prompt) + ids[len(prompt) :]
    return EncodedRow(ids[:max_length], labels[:max_length], len(ids) > max_length)


class HeldAccuracy(TrainerCallback):  # type: ignore[misc]
    """Adds loss and accuracy on held training rows to the trainer's log, epoch by epoch: with the last step of each and
    not in `on_epoch_end`, as a checkpoint of that step must hold them."""

    def __init__(self, job: PostTraining, tokenizer: Any, held: Sequence[Example], with_loss: bool) -> None:
        self.arm, self.settings, self.tokenizer = job.arm, job.trial.evaluate, tokenizer
        self.held, self.with_loss = [example for example in held if example.answer], with_loss

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step * args.num_train_epochs % state.max_steps:
            return  # not the last step of an epoch
        control.should_evaluate = self.with_loss
        if self.held:
            tokens, batch = self.settings.solution_tokens, self.settings.batch
            rows = solve(model.eval(), self.tokenizer, self.arm, SolutionTask(), self.held, tokens, batch)
            accuracy = sum(row["correct"] for row in rows) / len(rows)
            state.log_history.append({"epoch": state.epoch, "step": state.global_step, "held_accuracy": accuracy})
            model.train()


def sft(job: PostTraining, settings: SFT) -> None:
    """Fine-tune the model in `job.source`, stage by stage; write model, tokenizer and `sft_results.json`."""
    started = time.perf_counter()
    model, tokenizer = load(job.source)
    with trainer_precision(job.trial.pretrain):
        rows = _examples(job, settings)
        records = [_train_stage(job, settings, number, *of, model, tokenizer) for number, of in enumerate(rows)]
    losses = {name: records[-1][name] for name in ("train_loss", "eval_loss")}
    write_result(job, "sft", model, {**losses, "stages": records}, started)


def _examples(job: PostTraining, settings: SFT) -> list[tuple[list[Example], list[Example]]]:
    """Of each stage the examples that it trains on, and those that it is measured on, which no stage trains on."""
    never_asked = job.arm.facts.never_asked(job.seed, job.trial.corpus.drills.holdout_folds)
    epochs = [epoch_examples(job.trial, stage.sources, job.seed, never_asked) for stage in settings.stages]
    held = [examples[: min(settings.held, len(examples) // 10)] for examples in epochs]
    # of all stages, which may share a source, and both copies where a source of weight 2 has each row twice
    held_set = {example for of_stage in held for example in of_stage}
    trained = [[example for example in examples if example not in held_set] for examples in epochs]
    return list(zip(trained, held, strict=True))


def _train_stage(
    job: PostTraining,
    settings: SFT,
    number: int,
    examples: Sequence[Example],
    held: Sequence[Example],
    model: Any,
    tokenizer: Any,
) -> dict[str, Any]:
    """Train the model in place; the stage's record."""
    stage, pretrain, checkpoints = settings.stages[number], job.trial.pretrain, job.checkpoints / str(number)
    max_length = min(settings.max_length, pretrain.context)
    # a token of the completion has to be left after the cut: a batch of rows without any would have no loss
    trained, evaluated = (
        [encode(tokenizer, job.arm, example, max_length) for example in fitting(job.trial, of, max_length - 1)]
        for of in (examples, held)
    )
    if not trained:
        raise TrialError(f"sft.max_length: {max_length} tokens cut off every row's answer; give more")
    shaping = shared_arguments(pretrain, job.seed) | arguments(settings, stage, len(trained))
    local = local_arguments(checkpoints, pretrain, settings.checkpoint_every)
    trainer = _trainer(model, tokenizer, local | shaping, trained, evaluated)
    trainer.add_callback(HeldAccuracy(job, tokenizer, held, bool(evaluated)))
    log = train(trainer, checkpoints, job, "sft", is_last=number == len(settings.stages) - 1)
    lengths = [len(row.input_ids) for row in trained]
    # the mean over all steps: the Trainer's own forgets those before a stop
    losses, held_losses, accuracies = (
        [record[key] for record in log if key in record] for key in ("loss", "eval_loss", "held_accuracy")
    )
    return {
        "sources": [source.model_dump() for source in stage.sources],
        "rows": len(trained),
        "epochs": stage.epochs,
        "steps": len(losses),
        "train_loss": sum(losses) / len(losses),
        "eval_loss": held_losses[-1] if held_losses else None,
        "held_rows": len(held),
        "held_accuracy": accuracies,
        "tokens_an_epoch": sum(lengths),
        "longest": max(lengths),
        "truncated": sum(row.truncated for row in trained),
        "left_out": len(examples) - len(trained),
        "log": log,
        "arguments": recorded_arguments(trainer.args, shaping),
    }


def arguments(settings: SFT, stage: SFTPass, rows: int) -> dict[str, Any]:
    """Arguments of one stage on so many rows, in addition to the shared ones."""
    steps = math.ceil(rows / settings.batch) * stage.epochs
    return _DEFAULTS | {
        "per_device_train_batch_size": settings.batch,
        "num_train_epochs": stage.epochs,
        "learning_rate": stage.lr,
        "weight_decay": settings.weight_decay,
        # in steps: the Trainer would take a share of 1 for one step
        "warmup_steps": math.ceil(settings.warmup_ratio * steps),
    }


def _trainer(
    model: Any,
    tokenizer: Any,
    arguments: dict[str, Any],
    trained: Sequence[EncodedRow],
    evaluated: Sequence[EncodedRow],
) -> Any:
    """TRL's trainer of one stage, in which the model is trained in place."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class WholeLogits(SFTTrainer):  # type: ignore[misc]
        """Takes the loss of the model's own forward pass: the same, the mean of the batch's labelled tokens."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            return Trainer.compute_loss(self, model, inputs | {"use_cache": False}, *rest, **named)

    train_dataset, eval_dataset = (
        Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in encoded])
        for encoded in (trained, evaluated)
    )
    return (WholeLogits if model.config.vocab_size <= _SMALL_VOCABULARY else SFTTrainer)(
        model=model,
        args=on_one_device(SFTConfig(**arguments)),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset if evaluated else None,
        processing_class=tokenizer,
    )
