"""Batched evaluation against one prompt at a time through transformers' `generate`, on the same model.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py

The model has the shape of trials/pilot.yaml and wide random weights, so that it neither stops early nor says the same
of every prompt. Both ways are timed in turns. Completions must be the same, except where the two best logits of the
single run lie within 1e-4 of each other: those are counted.
"""

import json
import sys
import time
from statistics import median

import torch

from tokentrial.arms import arm as arms
from tokentrial.evaluate.generate import TURN, complete, encode_prompts, unsayable
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.load import load

PROMPTS = 128
REPETITIONS = 3
TIE = 1e-4


def main() -> None:
    trial = load("pilot")
    shape, settings = trial.pretrain, trial.evaluate
    vocabulary = Vocabulary(trial.tokenizer.merges, len(TIMES_TABLE))
    gpt = GPT(Config(vocabulary.size, shape.n_layer, shape.n_head, shape.n_embd, shape.context), seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    model = to_hf(gpt, vocabulary.eos)
    tokenizer = to_transformers(vocabulary, arms.get_arm("mul_tokens"), shape.context)
    new_tokens = settings.solution_tokens
    problems = WordProblems(trial.tasks.word_problems.rows, trial.tasks.word_problems.steps).examples("train")
    room = shape.context - new_tokens
    prompts = [p.prompt for p in problems if len(encode_prompts(tokenizer, [p.prompt])[0]) <= room][:PROMPTS]

    seconds: dict[str, list[float]] = {"batched": [], "one at a time": []}
    complete(model, tokenizer, prompts[:8], new_tokens, 8, line=False)  # both ways are warm
    alone(model, tokenizer, prompts[0], new_tokens)
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        batched = [c.text for c in complete(model, tokenizer, prompts, new_tokens, settings.batch, line=False)]
        seconds["batched"].append(time.perf_counter() - started)
        started = time.perf_counter()
        single = [alone(model, tokenizer, prompt, new_tokens) for prompt in prompts]
        seconds["one at a time"].append(time.perf_counter() - started)

    texts = [tokenizer.decode(ids, skip_special_tokens=True).partition(TURN)[0] for ids in single]
    differing = [i for i in range(len(prompts)) if batched[i] != texts[i]]
    ties = sum(gap(model, tokenizer, prompts[i], single[i], batched[i]) < TIE for i in differing)
    tokens = sum(map(len, single))

    print(f"{len(prompts)} prompts, up to {new_tokens} new tokens, {tokens} in all, {len(set(texts))} different texts")
    print(f"{'':16}{'median s':>10}{'least':>10}{'most':>10}{'tokens/s':>12}")
    for name, taken in seconds.items():
        middle = median(taken)
        print(f"{name:16}{middle:10.3f}{min(taken):10.3f}{max(taken):10.3f}{tokens / middle:12,.0f}")
    ratio = median(seconds["one at a time"]) / median(seconds["batched"])
    print(json.dumps({"batched_vs_single": round(ratio, 2), "differing": len(differing), "near_ties": ties}))
    sys.exit(len(differing) != ties)


def alone(model, tokenizer, prompt: str, new_tokens: int) -> list[int]:
    """Greedy ids of one prompt, ended as in the evaluation."""
    ids = torch.tensor(encode_prompts(tokenizer, [prompt]))
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=unsayable(tokenizer) or None,
        stop_strings=[TURN],
        tokenizer=tokenizer,
    )
    said: list[int] = out[0, ids.shape[1] :].tolist()
    return said


@torch.no_grad()
def gap(model, tokenizer, prompt: str, said: list[int], other: str) -> float:
    """How far apart the two best logits are where the completion leaves the other text."""
    prefixes = [tokenizer.decode(said[: i + 1], skip_special_tokens=True) for i in range(len(said))]
    leaves = next((i for i, prefix in enumerate(prefixes) if not other.startswith(prefix)), len(said) - 1)
    before = encode_prompts(tokenizer, [prompt])[0] + said[:leaves]
    logits = model(torch.tensor([before])).logits[0, -1]
    logits[unsayable(tokenizer)] = -torch.inf
    best, second = logits.topk(2).values.tolist()
    return float(best - second)


if __name__ == "__main__":
    main()
