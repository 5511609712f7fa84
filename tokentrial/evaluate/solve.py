"""Solving word problems: greedy solutions, strict and flexible scores, and the nats of the gold solution."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tokentrial.arms.arm import Arm
from tokentrial.arms.facts import sites
from tokentrial.evaluate.generate import complete, encode_prompts
from tokentrial.tasks.gsm8k import Solutions, read_last
from tokentrial.tasks.task import Example, Row


def solve(
    model: Any, tokenizer: Any, arm: Arm, task: Solutions, examples: Sequence[Example], new_tokens: int, batch: int
) -> list[dict[str, Any]]:
    """One row an example, scored after `plain`: strict is the number after the marker, flexible the last number."""
    completions = complete(model, tokenizer, [e.prompt for e in examples], new_tokens, batch, line=False)
    rows = []
    for example, completion in zip(examples, completions, strict=True):
        plain = arm.plain(completion.text)
        rows.append(
            {
                "task": task.name,
                "question": example.question,
                "answer": example.answer,
                "completion": completion.text,
                "plain": plain,
                "read": task.read(plain),
                "correct": task.score(example, plain),
                "read_flexible": read_last(plain),
                "correct_flexible": task.score_flexible(example, plain),
                "fact": example.fact.equation if example.fact else None,
                "tokens": completion.tokens,
                "stopped": completion.stopped,
                "site": any(True for _ in sites(example.completion)),
                "fact_tokens": sum(completion.text.count(token) for token in arm.tokens),
            }
        )
    return rows


@torch.no_grad()
def gold_nats(model: Any, tokenizer: Any, arm: Arm, examples: Sequence[Example], batch: int) -> list[float]:
    """Nats of each example's gold solution and eos after its prompt, per byte of the original solution: the continuous
    outcome while accuracy is at its floor. The solution is rewritten as the arm was trained; NaN where it does not fit
    the context, null in JSON."""
    prompts = encode_prompts(tokenizer, [example.prompt for example in examples])
    solutions = encode_prompts(tokenizer, [arm.rewrite(example.completion) for example in examples])
    encoded = [
        (prompt, [*solution, tokenizer.eos_token_id]) for prompt, solution in zip(prompts, solutions, strict=True)
    ]
    nats = [math.nan] * len(examples)
    fitting = [
        i
        for i, (prompt, solution) in enumerate(encoded)
        if len(prompt) + len(solution) <= model.config.max_position_embeddings
    ]
    fitting.sort(key=lambda i: sum(map(len, encoded[i])))
    for start in range(0, len(fitting), batch):
        chosen = fitting[start : start + batch]
        width = max(sum(map(len, encoded[i])) for i in chosen)
        ids = torch.tensor([[*(row := encoded[i][0] + encoded[i][1]), *[0] * (width - len(row))] for i in chosen])
        # the padding stands behind every real id, so a causal model needs no mask
        logprobs = model(ids[:, :-1].to(model.device)).logits.float().log_softmax(-1)
        losses = -logprobs.gather(2, ids[:, 1:, None].to(model.device))[..., 0].double().cpu()
        for row, i in zip(losses, chosen, strict=True):
            prompt, solution = encoded[i]
            total = row[len(prompt) - 1 : len(prompt) + len(solution) - 1].sum()
            nats[i] = float(total) / len(examples[i].completion.encode())
    return nats


def summary(rows: Sequence[Row], condition: str, seconds: float) -> dict[str, Any]:
    """The reference's `metrics` of a GSM8K evaluation, and ours beside them."""
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
        "mul_tokens_per_response": fact_tokens / count,
        "eval_time_seconds": seconds,
        "accuracy_flexible": flexible / count,
        "share_stopped": sum(bool(row["stopped"]) for row in rows) / count,
        "gold_nats_per_byte": sum(nats) / len(nats) if nats else None,
        "gold_too_long": count - len(nats),
    }
