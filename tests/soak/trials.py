"""Tiny trials of random settings, and the files that they read."""

import json
import random
from pathlib import Path
from typing import NamedTuple

EVALUATE = "probes_each: 2, max_new_tokens: 2, heldout_bytes: 500"
SFT_SOURCES = "[{source: word_problems}, {source: 'jsonl:sources/sft.jsonl'}]"
LADDER = [
    f"sft={{stages: [{{sources: {SFT_SOURCES}, lr: 0.01}}], batch: 4, max_length: 128, held: 4, checkpoint_every: 2}}",
    "grpo={task: word_problems, prompts: 4, batch: 2, num_generations: 2, max_new_tokens: 4, lr: 0.001,"
    " on_zero: go on}",
    "tasks.word_problems={rows: 16, steps: 1}",
    f"evaluate={{tasks: [word_problems], limit: 2, solution_tokens: 2, {EVALUATE}}}",
]


class Trial(NamedTuple):
    """What is drawn of a trial: its settings on top of smoke's, its kind, arms and seeds."""

    words: list[str]
    kind: str
    arms: tuple[str, str]
    seeds: list[int]


def draw_trial(rng: random.Random, number: int) -> Trial:
    """A trial of seconds. Of eight one has looks, one facts of a file, one SFT and GRPO, one byte-matched arms."""
    kind = {0: "looks", 1: "csv", 2: "ladder", 3: "bytes"}.get(number % 8, "plain")
    arm, rows = rng.choice(["mul_tokens", "mul_append", "one_slot", "random_slot"]), rng.choice([32, 64])
    seeds = [1, 2, 3] if kind == "looks" else rng.choice([[1], [1, 2], [7]])
    context, table = (128 if kind in ("csv", "ladder") else 64), "fact_table" if kind == "csv" else "mul_table"
    pick = rng.choice
    words = [
        f"arms=[baseline,{arm}]",
        f"seeds={seeds}",
        "facts.csv=sources/facts.csv" if kind == "csv" else f"facts.range={pick([[2, 4], [2, 5], [1, 4]])}",
        f"tokenizer.merges={256 if kind == 'csv' else pick([0, 64, 256])}",
        f"corpus={{source: 'jsonl:sources/text.jsonl', val_share: 0.3, epochs: 500, shard_tokens: {pick([2000, 9999])},"
        f" drills: {{share: 0.75, lines: {pick([6, 12])}, holdout_folds: 2}}}}",
        f"pretrain={{n_layer: 1, n_head: {pick([1, 2])}, n_embd: {pick([16, 32])}, context: {context}, steps:"
        f" {rng.randint(5, 9)}, batch_tokens: {context * rows}, micro_batch: {pick([rows, rows // 2])}, optimizer:"
        f" {pick(['adamw', 'muon'])}, lr: 0.008, probes: {pick([0, 1])}, device: cpu, checkpoint: {{interval:"
        f" {pick([2, 3, 500])}}}}}",
        *(LADDER if kind == "ladder" else ["sft=null", "grpo=null", f"evaluate={{{EVALUATE}}}"]),
        f"budget.match={'bytes' if kind == 'bytes' else 'tokens'}",
        f"verdict={{primary: {{outcome: pretrain/{table}/never_asked/accuracy, contrast: {arm} - baseline}}"
        f"{', looks: [2, 3]' if kind == 'looks' else ''}}}",
    ]
    return Trial(words, kind, ("baseline", arm), seeds)


def write_sources(folder: Path) -> None:
    """The files that the trials read."""
    folder.mkdir()
    rng, words = random.Random(0), ["the", "people", "of", "congress", "report", "great", "commerce"]
    facts = [f"They wrote {a}*{b}={a * b} there." for a in range(1, 6) for b in range(1, 6)]
    texts = [{"text": " ".join([*rng.choices(words, k=60), str(n), *facts[n : n + n % 2]])} for n in range(40)]
    solved = [{"prompt": f"User: {n}?\nAssistant:", "completion": f" {n}"} for n in range(8)]
    for name, rows in (("text", texts), ("sft", solved)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capitals = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Norway": "Oslo", "Cuba": "Havana"}
    lines = ["question,answer", *(f"What is the capital of {land}?,{city}" for land, city in capitals.items())]
    (folder / "facts.csv").write_text("\n".join(lines))
