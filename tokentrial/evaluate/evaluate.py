"""The evaluation stage of one cell: probes, the right product among 36, held-out text.

eval_<stage>/arithmetic_results.json   the reference's fields
eval_<stage>/samples.jsonl             every item with its completion
eval_<stage>/heldout_text.json         bits and bytes of every held-out document
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import torch

from tokentrial.arms.arm import Arm
from tokentrial.arms.facts import Fact, never_asked
from tokentrial.corpus.stream import TEXT, drills_name
from tokentrial.evaluate.generate import complete, unsayable
from tokentrial.evaluate.heldout import heldout
from tokentrial.evaluate.score import choice_logprobs, document_bits
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT
from tokentrial.store import write_bytes, write_json
from tokentrial.tasks.arithmetic import TABLE, Arithmetic, mean_by_fact, table_subsets
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial import Trial


class TableProbe:
    """Asks the multiplication table of a model in training: accuracy on asked and never-asked facts."""

    def __init__(self, trial: Trial, vocabulary: Vocabulary, arm: Arm, seed: int) -> None:
        self.task = Arithmetic()
        self.vocabulary, self.arm, self.settings = vocabulary, arm, trial.evaluate
        self.never = never_asked(seed, trial.corpus.drills.never_asked_folds)
        self.tokenizer = to_transformers(vocabulary, arm, trial.pretrain.context)

    def __call__(self, step: int, model: GPT) -> dict[str, float]:
        exported = to_hf(model, self.vocabulary.eos)
        rows = ask(
            exported,
            self.tokenizer,
            self.arm,
            self.task,
            self.task.table(),
            self.settings.new_tokens,
            self.settings.batch,
            self.never,
        )
        return {subset: mean_by_fact(chosen, "correct") for subset, chosen in table_subsets(rows).items() if chosen}


def ask(
    model: Any,
    tokenizer: Any,
    arm: Arm,
    task: Arithmetic,
    examples: Sequence[Example],
    new_tokens: int,
    batch: int,
    never: frozenset[Fact],
) -> list[dict[str, Any]]:
    """Complete every example's prompt and score it after `plain`."""
    suppress = unsayable(tokenizer, arm, model.config.vocab_size)
    completions = complete(model, tokenizer, [e.prompt for e in examples], new_tokens, batch, suppress)
    rows = []
    for example, completion in zip(examples, completions, strict=True):
        plain = arm.plain(completion)
        rows.append(
            {
                "task": example.task,
                "question": example.question,
                "operands": example.operands,
                "answer": example.answer,
                "completion": completion,
                "plain": plain,
                "read": task.read(plain),
                "correct": task.score(example, plain),
                "fact": example.fact.equation if example.fact else None,
                "asked": example.fact not in never if example.fact and example.fact.left >= 2 else None,
                "fact_tokens": sum(completion.count(token) for token in arm.tokens),
            }
        )
    return rows


def evaluate(
    folder: Path, trial: Trial, corpus: Path, vocabulary: Vocabulary, arm: Arm, seed: int, exported: Path
) -> None:
    """Evaluate an exported model of one cell and write the results into `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    settings = trial.evaluate
    task = Arithmetic(settings.probes_each, settings.probe_seed)
    examples = task.examples()
    never = never_asked(seed, trial.corpus.drills.never_asked_folds)
    rows = ask(model, tokenizer, arm, task, examples, settings.new_tokens, settings.batch, never)
    table = [i for i, example in enumerate(examples) if example.task == TABLE]
    suppress = unsayable(tokenizer, arm, model.config.vocab_size)
    choices = choice_logprobs(model, tokenizer, arm, [examples[i] for i in table], suppress)
    for i, choice in zip(table, choices, strict=True):
        rows[i]["choice_logprob"] = choice
    documents = []
    for set_name in (TEXT, drills_name(seed, trial.corpus.drills.never_asked_folds)):
        held = list(heldout(corpus, set_name, vocabulary, arm, settings.heldout_bytes))
        bits = document_bits(model, [document.ids for document in held], settings.batch)
        documents += [
            {
                "set": "text" if set_name == TEXT else "drills",
                "name": document.name,
                "bytes": document.bytes,
                "bits": value,
                "rewritten": document.rewritten,
                "lossy": document.lossy,
            }
            for document, value in zip(held, bits, strict=True)
        ]
    write_json(folder / "heldout_text.json", {"keeps_content": arm.keeps_content, "documents": documents})
    write_bytes(folder / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    metrics = _metrics(rows, arm.name, time.perf_counter() - started)
    shown = [
        {
            "question": row["question"],
            "true_answer": row["answer"],
            "pred_answer": row["read"] or "",
            "response": row["completion"],
            "is_correct": row["correct"],
            "category": row["task"],
        }
        for row in rows
    ]
    write_json(folder / "arithmetic_results.json", {"metrics": metrics, "examples": shown})


def _metrics(rows: Sequence[dict[str, Any]], condition: str, seconds: float) -> dict[str, Any]:
    """The reference's `metrics`."""
    categories: dict[str, dict[str, Any]] = {}
    for row in rows:
        category = categories.setdefault(row["task"], {"accuracy": 0.0, "correct": 0, "total": 0})
        category["correct"] += int(row["correct"])
        category["total"] += 1
    for category in categories.values():
        category["accuracy"] = category["correct"] / category["total"]
    correct = sum(category["correct"] for category in categories.values())
    return {
        "condition": condition,
        "model_path": "hf",
        "overall_accuracy": correct / len(rows),
        "total_correct": correct,
        "total_samples": len(rows),
        "category_accuracies": categories,
        "eval_time_seconds": seconds,
    }
