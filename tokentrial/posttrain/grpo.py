"""GRPO of one cell with TRL: the reward is one function of plain text, the answer travels with the row.

Completions of a prompt are compared with each other, as in Shao et al. 2024; by default the loss is the mean over the
step's tokens, as in DAPO (Yu et al. 2025, arXiv 2503.14476), with a penalty on the divergence from the model that GRPO
began with. With the mean of each completion's mean (`grpo.loss_type=grpo`) a token weighs less in a long completion,
and arms that spell the same content at different lengths would be taught at different strength.

Before it starts, pass@k is measured on 32 training prompts of every cell: where it is zero RL has nothing to learn
from. What then happens, `grpo.on_zero`, is decided once for the whole trial.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokentrial.arms.arm import Arm
from tokentrial.arms.families import facts_of
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete, continue_ids, encode_prompts
from tokentrial.posttrain.rewards import PASS_PROMPTS, reward
from tokentrial.posttrain.trainer import Progress, Saved, alone, on_one_device, recorded, shared_arguments, train
from tokentrial.store.files import write_json
from tokentrial.tasks.gsm8k import read_marked
from tokentrial.tasks.rows import source_rows
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.export import copy_tokenizer
from tokentrial.trial.settings import GRPO
from tokentrial.trial.trial import Trial

# what a reader looks for in a record of the log, and its name there
_SHOWN = {
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "kl": "kl",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "fact_tokens": "fact_tokens",
}

# TRL's defaults that shape a result, written down
_SHAPING: dict[str, Any] = {
    "num_train_epochs": 1,  # over the prompts
    "warmup_steps": 0,
    "weight_decay": 0.0,
    # sampling: from the whole distribution
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "cache_implementation": None,
    "chat_template_kwargs": None,
    "max_tool_calling_iterations": None,
    "generation_batch_size": None,
    "steps_per_generation": 1,
    "use_vllm": False,
    "use_transformers_continuous_batching": False,
    # the objective
    "importance_sampling_level": "token",
    "epsilon_high": None,  # as epsilon
    "delta": None,
    "reward_weights": None,
    "multi_objective_aggregation": "sum_then_normalize",
    "mask_truncated_completions": False,
    "use_bias_correction_kl": True,  # the KL term times the ratio: its gradient is then unbiased (DeepSeek-V3.2)
    "sync_ref_model": False,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "disable_dropout": False,
    "cast_lm_head_to_fp32": False,
    # rows
    "shuffle_dataset": True,
    "remove_unused_columns": False,
}
_TILE = "_CHUNKED_LOGPROB_CHUNK_SIZE"


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


def measure_pass(folder: Path, trial: Trial, settings: GRPO, arm: Arm, seed: int, model: Any, tokenizer: Any) -> None:
    """Write `pass_at_k.json`: the share of 32 prompts of which one of `generations` samples is right."""
    examples = prompts(trial, settings, tokenizer, seed)[:PASS_PROMPTS]
    asked = [example for example in examples for _ in range(settings.generations)]
    completions = complete(
        model,
        tokenizer,
        [example.prompt for example in asked],
        settings.new_tokens,
        trial.evaluate.batch,
        line=False,
        temperature=settings.temperature,
        seed=seed,
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

    `checkpoints` outlives an interruption. A checkpoint is written where a batch of completions is used up: a resume in
    the middle of one would not be exact.
    """
    started = time.perf_counter()
    model, tokenizer = load(source)
    examples = prompts(trial, settings, tokenizer, seed)
    if len(examples) < settings.batch:
        raise TrialError(f"grpo.batch: {settings.batch} prompts a step, and {len(examples)} are there; give fewer")
    every = settings.checkpoint_every * settings.num_iterations
    given = shared_arguments(checkpoints, trial.pretrain, seed, every) | arguments(settings)
    with alone(trial.pretrain), tiles(model.config.vocab_size):
        trainer = _trainer(model, tokenizer, settings, given, arm, examples, seed)
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
            "arguments": recorded(trainer.args, given),
            "log": log,
            "seconds": time.perf_counter() - started,
        },
    )


def arguments(settings: GRPO) -> dict[str, Any]:
    """Arguments of GRPO, beside the shared ones."""
    return _SHAPING | {
        "per_device_train_batch_size": settings.batch * settings.generations,
        "num_generations": settings.generations,
        "max_completion_length": settings.new_tokens,
        "temperature": settings.temperature,
        "learning_rate": settings.lr,
        "beta": settings.kl,
        "loss_type": settings.loss_type,
        "scale_rewards": settings.scale_rewards,
        "num_iterations": settings.num_iterations,
        "epsilon": settings.epsilon,
    }


@contextmanager
def tiles(vocabulary: int) -> Iterator[None]:
    """Within the block TRL's head works in tiles no wider than the vocabulary. It has no setting for that, and would
    allocate rows x 32,768 for each pass over a vocabulary of hundreds. Without the constant nothing is changed but its
    speed."""
    from trl.trainer import utils

    width = getattr(utils, _TILE, vocabulary)
    setattr(utils, _TILE, min(width, vocabulary))
    try:
        yield
    finally:
        setattr(utils, _TILE, width)


def _with_positions(model: Any) -> None:
    """Give a forward pass over left-padded prompts the positions that generation gives them: the first token of a
    prompt is at 0. TRL passes a mask alone, and GPT-2 would count the padding, so that the loss were of other
    probabilities than those that were sampled from, the more so the shorter a prompt."""

    def add(module: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = named.get("attention_mask")
        if mask is not None and named.get("position_ids") is None and named.get("past_key_values") is None:
            named["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return positional, named

    model.register_forward_pre_hook(add, with_kwargs=True)


def _rollouts(tokenizer: Any, settings: GRPO, seed: int) -> Callable[[list[str], Any], dict[str, Any]]:
    """What TRL asks for completions in place of its own sampling: the sampler of evaluation and pass@k. TRL's draws
    from one global generator, so that a text depends on what is sampled beside it and on the device, and encodes a
    literal `<|endoftext|>` of a prompt as the id."""

    def sample(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = encode_prompts(tokenizer, prompts)
        # a step has draws of its own, and a run that goes on draws as one that was never stopped
        draws = (seed << 32) + trainer.state.global_step
        model = trainer.accelerator.unwrap_model(trainer.model)
        said = continue_ids(model, tokenizer, ids, settings.new_tokens, len(ids), settings.temperature, draws)
        return {"prompt_ids": ids, "completion_ids": said, "logprobs": None}

    return sample


def _trainer(
    model: Any,
    tokenizer: Any,
    settings: GRPO,
    given: dict[str, Any],
    arm: Arm,
    examples: Sequence[Example],
    seed: int,
) -> Any:
    """TRL's trainer, in which the model is trained in place."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def exact_match(completions: list[str], answer: list[str], log_metric: Any, **rest: Any) -> list[float]:
        said = [sum(text.count(token) for token in arm.tokens) for text in completions]
        log_metric("fact_tokens", sum(said) / len(said))
        return [reward(text, right, arm, settings) for text, right in zip(completions, answer, strict=True)]

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*rollout_func"
        )  # TRL calls it experimental; tests hold what it does
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=exact_match,
            args=on_one_device(GRPOConfig(**given)),
            train_dataset=Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in examples]),
            processing_class=tokenizer,
            rollout_func=_rollouts(tokenizer, settings, seed),
        )
    for part in (model, trainer.ref_model):
        if part is not None:
            _with_positions(part)
    return trainer
