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
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete, continue_ids, encode_prompts
from tokentrial.facts.families import build_facts
from tokentrial.posttrain.prompts import fitting
from tokentrial.posttrain.rewards import PASS_PROMPTS, reward
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
from tokentrial.store.files import write_json
from tokentrial.tasks.gsm8k import extract_marked
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import source_examples
from tokentrial.trial.settings import GRPO
from tokentrial.trial.trial import Trial

# TRL's defaults that shape a result, written down
_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,  # over the prompts
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "top_p": 1.0,  # sampling: from the whole distribution
    "top_k": 0,
    "repetition_penalty": 1.0,
    "steps_per_generation": 1,
    "importance_sampling_level": "token",
    "multi_objective_aggregation": "sum_then_normalize",
    "use_bias_correction_kl": True,  # the KL term times the ratio: its gradient is then unbiased (DeepSeek-V3.2)
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "shuffle_dataset": True,
    "remove_unused_columns": False,  # the answer is a column, and the reward needs it
}
# None of epsilon_high: as epsilon
_DEFAULTS |= dict.fromkeys(("epsilon_high", "delta", "reward_weights", "off_policy_mask_threshold"), None)
_DEFAULTS |= dict.fromkeys(("min_p", "cache_implementation", "chat_template_kwargs", "generation_batch_size"), None)
_DEFAULTS |= {"max_tool_calling_iterations": None}
_DEFAULTS |= dict.fromkeys(("mask_truncated_completions", "sync_ref_model", "use_adaptive_entropy"), False)
_DEFAULTS |= dict.fromkeys(("disable_dropout", "cast_lm_head_to_fp32"), False)
_DEFAULTS |= dict.fromkeys(("use_vllm", "use_transformers_continuous_batching"), False)
_CHUNK_CONSTANT = "_CHUNKED_LOGPROB_CHUNK_SIZE"


def prompts(trial: Trial, settings: GRPO, seed: int) -> list[Example]:
    """Training prompts that leave room for a completion, shuffled by the seed: the same in every arm."""
    never = build_facts(trial.facts).never_asked(seed, trial.corpus.drills.holdout_folds)
    examples = list(source_examples(trial, settings.task, never))
    # named by the stage: SFT shuffles the same rows, and both orders are to be independent
    random.Random(f"grpo {seed}").shuffle(examples)
    drawn = fitting(trial, examples, trial.pretrain.context - settings.max_new_tokens)
    if not drawn:
        raise TrialError(
            f"grpo.max_new_tokens: {settings.max_new_tokens} of a context of {trial.pretrain.context} leave no room "
            "for any prompt; give fewer"
        )
    return drawn[: settings.prompts]


def measure_pass_at_k(
    folder: Path, trial: Trial, settings: GRPO, arm: Arm, seed: int, model: Any, tokenizer: Any
) -> None:
    """Write `pass_at_k.json`: the share of 32 prompts of which one of `generations` samples is right."""
    examples = prompts(trial, settings, seed)[:PASS_PROMPTS]
    k, batch, temperature = settings.num_generations, trial.evaluate.batch, settings.temperature
    sampled = [example for example in examples for _ in range(k)]
    texts = [example.prompt for example in sampled]
    completions = complete(model, tokenizer, texts, settings.max_new_tokens, batch, False, temperature, seed)
    right = [extract_marked(arm.untokenize(c.text)) == e.answer for c, e in zip(completions, sampled, strict=True)]
    passed = sum(any(right[i : i + k]) for i in range(0, len(right), k))
    write_json(folder / "pass_at_k.json", {"k": k, "prompts": len(examples), "pass_at_k": passed / len(examples)})


def grpo(job: PostTraining, settings: GRPO) -> None:
    """Train the model in `job.source`; write model, tokenizer and `grpo_results.json`."""
    started = time.perf_counter()
    pretrain = job.trial.pretrain
    model, tokenizer = load(job.source)
    examples = prompts(job.trial, settings, job.seed)
    if len(examples) < settings.batch:
        raise TrialError(f"grpo.batch: {settings.batch} prompts per step, but only {len(examples)} exist; give fewer")
    shaping = shared_arguments(pretrain, job.seed) | arguments(settings)
    # a checkpoint only where a batch of completions is used up: they are not in it
    local = local_arguments(job.checkpoints, pretrain, settings.checkpoint_every * settings.num_iterations)
    with trainer_precision(pretrain), narrow_chunks(model.config.vocab_size):
        trainer = _trainer(job, settings, model, tokenizer, local | shaping, examples)
        log = [record for record in train(trainer, job.checkpoints, job, "grpo") if "reward" in record]
    record = {
        "prompts": len(examples),
        "steps": trainer.state.max_steps,
        "mul_bonus": settings.fact_token_bonus,
        "arguments": recorded_arguments(trainer.args, shaping),
        "log": log,
    }
    write_result(job, "grpo", model, record, started)


def arguments(settings: GRPO) -> dict[str, Any]:
    """Arguments of GRPO, in addition to the shared ones."""
    return _DEFAULTS | {
        "per_device_train_batch_size": settings.batch * settings.num_generations,
        "num_generations": settings.num_generations,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "learning_rate": settings.lr,
        "beta": settings.kl_coef,
        "loss_type": settings.loss_type,
        "scale_rewards": settings.scale_rewards,
        "num_iterations": settings.num_iterations,
        "epsilon": settings.epsilon,
    }


@contextmanager
def narrow_chunks(vocabulary: int) -> Iterator[None]:
    """Within the block TRL's head takes the logits in chunks no wider than the vocabulary. It has no setting for that,
    and would allocate rows x 32,768 for each pass over a vocabulary of hundreds. Where a release lacks the constant
    nothing is changed but the speed."""
    from trl.trainer import utils

    width = getattr(utils, _CHUNK_CONSTANT, vocabulary)
    setattr(utils, _CHUNK_CONSTANT, min(width, vocabulary))
    try:
        yield
    finally:
        setattr(utils, _CHUNK_CONSTANT, width)


def _add_position_ids(module: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before a forward pass over left-padded prompts: the positions that generation gives them, the first token of a
    prompt at 0. TRL passes only a mask, and GPT-2 would count the padding: the loss would use other
    probabilities than sampling did, above all for short prompts."""
    mask = named.get("attention_mask")  # (B, T), 0 on the padding
    if mask is not None and named.get("position_ids") is None and named.get("past_key_values") is None:
        named["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return positional, named


def _rollout(tokenizer: Any, settings: GRPO, seed: int) -> Callable[[list[str], Any], dict[str, Any]]:
    """What TRL asks for completions in place of its own sampling: the sampler of evaluation and pass@k. TRL's draws
    from one global generator, so that a text depends on the rest of its batch and on the device, and encodes a literal
    `<|endoftext|>` of a prompt as the id."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = encode_prompts(tokenizer, prompts)
        # a step has a seed of its own, so that a resumed run samples as one that was never stopped
        step_seed = (seed << 32) + trainer.state.global_step
        model = trainer.accelerator.unwrap_model(trainer.model)
        sampled = continue_ids(
            model, tokenizer, ids, settings.max_new_tokens, len(ids), settings.temperature, step_seed
        )
        # no logprobs: TRL takes them from its own forward pass, the one that the ratio is then computed with
        return {"prompt_ids": ids, "completion_ids": sampled, "logprobs": None}

    return rollout


def _trainer(
    job: PostTraining,
    settings: GRPO,
    model: Any,
    tokenizer: Any,
    arguments: dict[str, Any],
    examples: Sequence[Example],
) -> Any:
    """TRL's trainer, in which the model is trained in place."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def exact_match(completions: list[str], answer: list[str], log_metric: Any, **rest: Any) -> list[float]:
        # the answer comes with its row: looked up by a counter, as in the reference, it would be another row's once
        # rows are shuffled and each has several completions (defect R7)
        counts = [sum(text.count(token) for token in job.arm.tokens) for text in completions]
        log_metric("fact_tokens", sum(counts) / len(counts))
        return [reward(text, right, job.arm, settings) for text, right in zip(completions, answer, strict=True)]

    with warnings.catch_warnings():
        # TRL calls it experimental; tests hold what it does
        warnings.filterwarnings("ignore", message=".*rollout_func")
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=exact_match,
            args=on_one_device(GRPOConfig(**arguments)),
            train_dataset=Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in examples]),
            processing_class=tokenizer,
            rollout_func=_rollout(tokenizer, settings, job.seed),
        )
    for module in (model, trainer.ref_model):
        if module is not None:  # without a KL penalty there is no reference model
            module.register_forward_pre_hook(_add_position_ids, with_kwargs=True)
    return trainer
