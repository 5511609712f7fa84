"""Solving word problems: greedy solutions, strict and flexible scores, and the nats of the gold solution."""

import math
from collections.abc import Sequence
from typing import Any

from tokentrial.arms.arm import Arm
from tokentrial.evaluate.generate import Completion, complete, encode_plain, encode_prompts, limits
from tokentrial.evaluate.score import scored
from tokentrial.pretrain.validate import token_nats
from tokentrial.tasks.gsm8k import SolutionTask, extract_last
from tokentrial.tasks.task import Example, Row, Task


def scored_row(task: Task, arm: Arm, example: Example, completion: Completion) -> dict[str, Any]:
    """What `samples.jsonl` holds of an item of any task: its completion as the model wrote it and in plain text, what
    is read in that, and whether it is right."""
    plain = arm.untokenize(completion.text)
    return {
        "task": example.task,
        "question": example.question,
        "answer": example.answer,
        "completion": completion.text,
        "plain": plain,
        "read": task.extract_answer(plain),
        "correct": task.score(example, plain),
        "fact": example.fact.equation if example.fact else None,
        "fact_tokens": sum(completion.text.count(token) for token in arm.tokens),
    }


def solve(
    model: Any, tokenizer: Any, arm: Arm, task: SolutionTask, examples: Sequence[Example], new_tokens: int, batch: int
) -> list[dict[str, Any]]:
    """One row an example, scored as plain text: strict is the number after the marker, flexible the last number."""
    completions = complete(model, tokenizer, [e.prompt for e in examples], new_tokens, batch, line=False)
    rows = []
    for example, completion in zip(examples, completions, strict=True):
        row = scored_row(task, arm, example, completion)
        rows.append(
            row
            | {
                "read_flexible": extract_last(row["plain"]),
                "correct_flexible": task.score_flexible(example, row["plain"]),
                "tokens": completion.tokens,
                "stopped": completion.stopped,
                "site": any(True for _ in arm.facts.sites(example.completion)),
            }
        )
    return rows


def gold_nats(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example], batch: int) -> list[float]:
    """Nats of each example's gold solution and eos after its prompt, per byte of the original solution: the continuous
    outcome while accuracy is at its floor. The solution is rewritten as the arm was trained; NaN where it does not fit
    the context, null in JSON."""
    prompts = encode_prompts(tokenizer, [example.prompt for example in examples])
    solutions = encode_plain(tokenizer, [arm.rewrite(example.completion) for example in examples])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [[*prompt, *solution, *end] for prompt, solution in zip(prompts, solutions, strict=True)]
    fitting = [i for i, row in enumerate(rows) if len(row) <= limits(model)[1]]
    nats = [math.nan] * len(examples)
    for i, nats_of_row in zip(fitting, token_nats(scored(model), [rows[i] for i in fitting], batch), strict=True):
        nats[i] = float(nats_of_row[len(prompts[i]) - 1 :].sum()) / len(examples[i].completion.encode())
    return nats


def summary(rows: Sequence[Row], condition: str, seconds: float) -> dict[str, Any]:
    """The original report's `metrics` of a GSM8K evaluation, and ours beside them."""
    count = len(rows)
    correct, flexible = (sum(bool(row[key]) for row in rows) for key in ("correct", "correct_flexible"))
    fact_tokens = sum(row["fact_tokens"] for row in rows)
    nats = [row["gold_nats_per_byte"] for row in rows if math.isfinite(row["gold_nats_per_byte"])]
    return {
        "condition": condition,
        "model_path": "model",
        "accuracy": correct / count,
        "correct": correct,
        "total": count,
        "avg_response_tokens": sum(row["tokens"] for row in rows) / count,
        "mul_token_count": fact_tokens,
        "mul_tokens_per_response": fact_tokens / count,  # the original report's field, of every arm
        "eval_time_seconds": seconds,
        "accuracy_flexible": flexible / count,
        "share_stopped": sum(bool(row["stopped"]) for row in rows) / count,
        "gold_nats_per_byte": sum(nats) / len(nats) if nats else None,
        "gold_too_long": count - len(nats),
    }
