"""What a trained model says to a prompt: its completion, the likeliest next tokens and, where the prompt asks a fact
of the table, how likely it finds each of its answers.
"""

from pathlib import Path
from typing import Any

import torch

from tokentrial.arms import arm as arms
from tokentrial.devices import default_device
from tokentrial.errors import SettingsError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete, encode_prompts, unsayable
from tokentrial.evaluate.score import answer_logprobs
from tokentrial.facts.families import build_facts
from tokentrial.inspection.side_by_side import Column, Span, highlight
from tokentrial.run.run_folder import model_folder, open_cell
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tokenizer.vocabulary import replace_surrogates


def sample(
    cell_folder: Path, prompt: str, stage: str, new_tokens: int, temperature: float | None, seed: int, top: int
) -> dict[str, Any]:
    """What the model of OUT/ARM/seedK after a stage says: greedy, or sampled at a temperature with this seed.

    The prompt is given to it as it is, without a chat's form and not rewritten; only the name of a fact token in it is
    that token. Raises SettingsError where it is empty or fills the model's context.
    """
    trial, cell = open_cell(cell_folder)
    arm, prompt = arms.get_arm(cell.arm, build_facts(trial.facts)), replace_surrogates(prompt)
    model, tokenizer = load(model_folder(trial, cell, stage), default_device())
    [ids] = encode_prompts(tokenizer, [prompt])
    context = model.config.max_position_embeddings
    if not 0 < len(ids) < context:
        raise SettingsError(f"PROMPT: it has {len(ids)} tokens, expected 1 to {context - 1} for {cell.name}; change it")
    with torch.no_grad():
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -1].float()  # (V,)
    logits[unsayable(tokenizer)] = -torch.inf
    likeliest = logits.log_softmax(-1).topk(min(top, len(logits)))
    asked = [example for example in Arithmetic(facts=arm.facts).table() if prompt == example.prompt]
    [completion] = complete(model, tokenizer, [prompt], new_tokens, 1, line=False, temperature=temperature, seed=seed)
    return {
        "cell": cell.name,
        "arm": cell.arm,
        "seed": cell.seed,
        "stage": stage,
        "prompt": prompt,
        "completion": completion.text,
        "fact_tokens": list(arm.tokens),
        "plain": arm.untokenize(completion.text),
        "tokens": completion.tokens,
        "stopped": completion.stopped,
        "next": [
            {"token": tokenizer.decode([i]), "logprob": logprob}
            for logprob, i in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
            if logprob > -torch.inf
        ],
        "answers": [
            {"answer": answer, "logprob": logprob}
            for logprobs in answer_logprobs(model, tokenizer, arm, asked)
            for logprob, answer in sorted(zip(logprobs, arm.facts.answers, strict=True), reverse=True)[:top]
        ],
    }


def sample_column(sampled: dict[str, Any]) -> Column:
    """What a model said, for a table."""
    tokens = tuple(sampled["fact_tokens"])
    next_tokens: list[Span] = []
    for i, likely in enumerate(sampled["next"]):
        next_tokens.append(Span("\n" * bool(i) + f"{likely['logprob']:7.2f} "))
        next_tokens += highlight(repr(likely["token"]), tokens, "other")
    column = {
        "prompt": highlight(sampled["prompt"], tokens, "given"),
        "completion": highlight(sampled["completion"], tokens),
        "reads as": [Span(sampled["plain"])],
        "next token": next_tokens,
    }
    if sampled["answers"]:
        lines = [f"{answer['logprob']:7.2f} {answer['answer']}" for answer in sampled["answers"]]
        column["table answers"] = [Span("\n".join(lines))]
    return column
