"""GRPO of one cell with TRL (Shao et al. 2024): the reward is one function of plain text, the answer travels with the
row.

Before it starts, pass@k is measured on 32 training prompts of every cell: where it is zero RL has nothing to learn
from. What then happens, `grpo.on_zero`, is decided once for the whole trial.
"""

import importlib.util
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokentrial.arms.arm import Arm
from tokentrial.arms.families import facts_of
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete, encode_prompts, unsayable
from tokentrial.posttrain.rewards import PASS_PROMPTS, reward
from tokentrial.posttrain.trainer import Progress, Saved, shared_arguments, train
from tokentrial.settings import GRPO
from tokentrial.store import write_json
from tokentrial.tasks.gsm8k import read_marked
from tokentrial.tasks.rows import source_rows
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.export import copy_tokenizer
from tokentrial.trial import Trial

# what a reader looks for in a record of the log, and its name there
_SHOWN = {
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "kl": "kl",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "fact_tokens": "fact_tokens",
}


def prompts(trial: Trial, settings: GRPO, tokenizer: Any, seed: int) -> list[Example]:
    """Training prompts that leave room for a completion, shuffled by the seed: the same in every arm."""
    never = facts_of(trial.facts).never_asked(seed, trial.corpus.drills.never_asked_folds)
    examples = list(source_rows(trial, settings.task, never))
    random.Random(f"grpo {seed}").shuffle(examples)
    room = trial.pretrain.context - settings.new_tokens
    lengths = map(len, encode_prompts(tokenizer, [example.prompt for example in examples]))
    fitting = [example for example, length in zip(examples, lengths, strict=True) if length <= room]
    if not fitting:
        raise TrialError(
            f"grpo.new_tokens: {settings.new_tokens} of a context of {trial.pretrain.context} leave no room for any "
            "prompt; give fewer"
        )
    return fitting[: settings.prompts]


def measure_pass(folder: Path, trial: Trial, settings: GRPO, arm: Arm, seed: int, source: Path) -> None:
    """Write `pass_at_k.json`: the share of 32 prompts of which one of `generations` samples is right."""
    model, tokenizer = load(source)
    examples = prompts(trial, settings, tokenizer, seed)[:PASS_PROMPTS]
    asked = [example for example in examples for _ in range(settings.generations)]
    torch.manual_seed(seed)
    completions = complete(
        model,
        tokenizer,
        [example.prompt for example in asked],
        settings.new_tokens,
        trial.evaluate.batch,
        line=False,
        temperature=settings.temperature,
    )
    right = [read_marked(arm.plain(c.text)) == e.answer for c, e in zip(completions, asked, strict=True)]
    k = settings.generations
    passed = sum(any(right[i : i + k]) for i in range(0, len(right), k))
    write_json(folder / "pass_at_k.json", {"k": k, "prompts": len(examples), "pass_at_k": passed / len(examples)})


def grpo(
    folder: Path,
    checkpoints: Path,
    trial: Trial,
    settings: GRPO,
    arm: Arm,
    seed: int,
    source: Path,
    progress: Progress,
    saved: Saved = lambda checkpoint: None,
) -> None:
    """Train the model in `source`; write model, tokenizer and `grpo_results.json` into `folder`.

    `checkpoints` outlives an interruption. A checkpoint is written at the end of an optimizer step, which is where a
    batch of generations is used up: a resume in the middle of one would not be exact.
    """
    started = time.perf_counter()
    model, tokenizer = load(source)
    examples = prompts(trial, settings, tokenizer, seed)
    if len(examples) < settings.batch:
        raise TrialError(f"grpo.batch: {settings.batch} prompts a step, and {len(examples)} are there; give fewer")
    shared = shared_arguments(checkpoints, trial.pretrain, seed, settings.checkpoint_every)
    trainer = _trainer(model, tokenizer, settings, shared, arm, examples)
    log = [record for record in train(trainer, checkpoints, progress, "grpo", saved) if "reward" in record]
    model.save_pretrained(folder)
    copy_tokenizer(source, folder)
    first, last = ({name: record.get(key) for name, key in _SHOWN.items()} for record in (log[0], log[-1]))
    write_json(
        folder / "grpo_results.json",
        {
            "condition": arm.name,
            "seed": seed,
            "prompts": len(examples),
            "steps": trainer.state.max_steps,
            "mul_bonus": settings.mul_bonus,
            "first": first,
            "last": last,
            "log": log,
            "seconds": time.perf_counter() - started,
        },
    )


def _trainer(
    model: Any, tokenizer: Any, settings: GRPO, shared: dict[str, Any], arm: Arm, examples: Sequence[Example]
) -> Any:
    """TRL's trainer, in which the model is trained in place."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    if settings.vllm and importlib.util.find_spec("vllm") is None:
        raise TrialError("grpo.vllm: vLLM is not installed; pip install vllm, or set grpo.vllm=false for every arm")

    def exact_match(completions: list[str], answer: list[str], log_metric: Any, **rest: Any) -> list[float]:
        said = [sum(text.count(token) for token in arm.tokens) for text in completions]
        log_metric("fact_tokens", sum(said) / len(said))
        return [reward(text, right, arm, settings) for text, right in zip(completions, answer, strict=True)]

    return GRPOTrainer(
        model=model,
        reward_funcs=exact_match,
        args=GRPOConfig(
            **shared,
            per_device_train_batch_size=settings.batch * settings.generations,
            num_generations=settings.generations,
            max_completion_length=settings.new_tokens,
            temperature=settings.temperature,
            top_k=0,
            learning_rate=settings.lr,
            beta=settings.kl,
            num_train_epochs=1,
            use_vllm=settings.vllm,
            generation_kwargs={"suppress_tokens": unsayable(tokenizer)} if unsayable(tokenizer) else None,
        ),
        train_dataset=Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in examples]),
        processing_class=tokenizer,
    )
