"""The evaluation stage of one cell: probes, the right product among 36, held-out text; and evaluation of any causal
model in a folder, so that peers are scored by the same code, or by EleutherAI's harness.

eval_<stage>/arithmetic_results.json   the original report's fields
eval_<stage>/samples.jsonl             every item with its completion
eval_<stage>/heldout_text.json         bits and bytes of every held-out document
eval_pretrain/mechanism.json           linear probes of the fact tokens and of the model's state
"""

import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import torch

from tokentrial.arms.arm import Arm, get_arm
from tokentrial.corpus.shards import TEXT
from tokentrial.corpus.stream import drills_name, heldout_documents
from tokentrial.devices import default_device
from tokentrial.errors import SettingsError, TrialError
from tokentrial.evaluate.generate import complete
from tokentrial.evaluate.probe import probe_model
from tokentrial.evaluate.score import choice_logprobs, document_bits
from tokentrial.evaluate.solve import gold_nats, scored_row, solve, summary
from tokentrial.facts.facts import Fact
from tokentrial.pretrain.export import copy_weights, to_hf
from tokentrial.pretrain.gpt import GPT
from tokentrial.store.files import write_bytes, write_json
from tokentrial.tasks.arithmetic import Arithmetic, mean_over_facts, table_subsets, was_asked
from tokentrial.tasks.gsm8k import SolutionTask
from tokentrial.tasks.task import Example, Row
from tokentrial.tasks.training_examples import check_task_names, get_task, local_task
from tokentrial.tokenizer.export import ARM_KEY, to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.settings import Evaluate
from tokentrial.trial.trial import Trial

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


class TableProbe:
    """Asks the multiplication table of a model in training, on its own device: accuracy on asked and never-asked
    facts."""

    def __init__(self, trial: Trial, vocabulary: Vocabulary, arm: Arm, seed: int) -> None:
        self.task = Arithmetic(facts=arm.facts)
        self.vocabulary, self.arm, self.settings = vocabulary, arm, trial.evaluate
        self.never = arm.facts.never_asked(seed, trial.corpus.drills.holdout_folds)
        self.tokenizer = to_transformers(vocabulary, arm, trial.pretrain.context)
        self.exported: GPT2LMHeadModel | None = None

    def __call__(self, step: int, model: GPT) -> dict[str, float]:
        if self.exported is None:
            self.exported = to_hf(model, self.vocabulary.eos).to(model.wte.weight.device)
        else:  # made once: drawing the weights of a large model, to write over them, takes seconds
            copy_weights(model, self.exported)
        rows = ask(self.exported, self.tokenizer, self.arm, self.task, self.task.table(), self.settings, self.never)
        return {subset: mean_over_facts(chosen, "correct") for subset, chosen in table_subsets(rows).items() if chosen}


def ask(
    model: Any,
    tokenizer: Any,
    arm: Arm,
    task: Arithmetic,
    examples: Sequence[Example],
    settings: Evaluate,
    never: frozenset[Fact],
) -> list[dict[str, Any]]:
    """Complete every probe's prompt and score its plain text."""
    completions = complete(model, tokenizer, [e.prompt for e in examples], settings.max_new_tokens, settings.batch)
    return [
        scored_row(task, arm, example, completion)
        | {"operands": example.operands, "asked": was_asked(example.fact, arm.facts, never)}
        for example, completion in zip(examples, completions, strict=True)
    ]


def evaluate(
    folder: Path, trial: Trial, corpus: Path, vocabulary: Vocabulary, arm: Arm, seed: int, model: Any, tokenizer: Any
) -> None:
    """Evaluate the model of one cell, as `load` gives it, and write the results into `folder`."""
    settings, never = trial.evaluate, arm.facts.never_asked(seed, trial.corpus.drills.holdout_folds)
    samples, _ = probe_rows(folder, model, tokenizer, arm, settings, never)
    for name in settings.tasks:
        rows, _ = evaluate_solutions(folder, model, tokenizer, arm, get_task(name, trial, never), settings)
        samples += rows
    write_bytes(folder / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in samples))
    documents = []
    # drills of an earlier run of the folder may lie there still, where the trial has none
    drills = {"drills": drills_name(seed, trial.corpus.drills.holdout_folds)} if trial.corpus.drills.share else {}
    for kind, name in ({"text": TEXT} | drills).items():
        held = list(heldout_documents(corpus, name, vocabulary, arm, settings.heldout_bytes))
        bits = document_bits(model, [document.ids for document in held], settings.batch)
        documents += [
            {
                "set": kind,
                "name": document.name,
                "bytes": document.bytes,
                "bits": value,
                "rewritten": document.rewritten,
            }
            for document, value in zip(held, bits, strict=True)
        ]
    write_json(folder / "heldout_text.json", {"keeps_content": arm.has_comparable_bits, "documents": documents})


def write_mechanism(folder: Path, arm: Arm, seed: int, model: Any, tokenizer: Any) -> None:
    """Linear probes of what stands inside the model, into `mechanism.json`."""
    table, rng = Arithmetic(facts=arm.facts).table(), np.random.default_rng(seed)
    write_json(folder / "mechanism.json", {"probes": probe_model(model, tokenizer, arm, table, rng)})


def load(source: Path, device: str = "cpu") -> tuple[Any, Any]:
    """A causal model in fp32 and its tokenizer, from a folder; nothing in it is unpickled or run. Raises TrialError
    where it cannot be loaded whole, or holds weights that are no numbers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of whatever a folder made by others makes transformers trip over
        raise TrialError(
            f"{source}: its model cannot be loaded: {next(iter(str(error).splitlines()), type(error).__name__)}\n"
            "expected config.json, *.safetensors and tokenizer.json; nothing is unpickled, no code of a model is run"
        ) from error
    if loading["missing_keys"]:
        raise TrialError(f"{source}: its weights lack {', '.join(sorted(loading['missing_keys']))}; give a whole model")
    if broken := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise TrialError(f"{source}: {broken[0]} holds weights that are not finite; train it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if ARM_KEY in tokenizer.init_kwargs:
        tokenizer.backend_tokenizer.normalizer = None  # an export of ours: prompts are never rewritten (defect R3)
    return model.eval().to(device), tokenizer


def probe_rows(
    folder: Path, model: Any, tokenizer: Any, arm: Arm, settings: Evaluate, never: frozenset[Fact]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Arithmetic probes and the right product among 36; writes `arithmetic_results.json`. Returns rows and metrics."""
    started = time.perf_counter()
    task = Arithmetic(settings.probes_each, settings.probe_seed, arm.facts)
    examples = task.examples()
    rows = ask(model, tokenizer, arm, task, examples, settings, never)
    table = [i for i, example in enumerate(examples) if example.fact]
    choices = choice_logprobs(model, tokenizer, arm, [examples[i] for i in table])
    for i, choice in zip(table, choices, strict=True):
        rows[i]["choice_logprob"] = choice
    metrics = _metrics(rows, arm.name, time.perf_counter() - started)
    shown = [_shown(row) | {"category": row["task"]} for row in rows]
    write_json(folder / "arithmetic_results.json", {"metrics": metrics, "examples": shown})
    return rows, metrics


def evaluate_solutions(
    folder: Path, model: Any, tokenizer: Any, arm: Arm, task: SolutionTask, settings: Evaluate
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Solve a task's test problems; writes `<task>_results.json` with the original report's fields and every item.
    Returns rows and metrics."""
    started = time.perf_counter()
    examples = list(task.examples("test"))[: settings.limit]
    rows = solve(model, tokenizer, arm, task, examples, settings.solution_tokens, settings.batch)
    for row, nats in zip(rows, gold_nats(model, tokenizer, arm, examples, settings.batch), strict=True):
        row["gold_nats_per_byte"] = nats
    metrics = summary(rows, arm.name, time.perf_counter() - started)
    write_json(folder / f"{task.name}_results.json", {"metrics": metrics, "examples": [_shown(row) for row in rows]})
    return rows, metrics


def _shown(row: Row) -> dict[str, Any]:
    """A row as the reference writes its examples."""
    return {
        "question": row["question"],
        "true_answer": row["answer"],
        "pred_answer": row["read"] or "",
        "response": row["completion"],
        "is_correct": row["correct"],
    }


def _metrics(rows: Sequence[dict[str, Any]], condition: str, seconds: float) -> dict[str, Any]:
    """The original report's `metrics`."""
    by_task: dict[str, list[bool]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row["correct"])
    correct = sum(row["correct"] for row in rows)
    return {
        "condition": condition,
        "model_path": "hf",
        "overall_accuracy": correct / len(rows),
        "total_correct": correct,
        "total_samples": len(rows),
        "category_accuracies": {
            task: {"accuracy": sum(right) / len(right), "correct": sum(right), "total": len(right)}
            for task, right in by_task.items()
        },
        "eval_time_seconds": seconds,
    }


def evaluate_model(
    folder: Path, model_folder: Path, arm: str | None, tasks: Sequence[str], gsm8k: str, limit: int | None
) -> dict[str, Any]:
    """Metrics by task; every item goes to `<task>_results.json` in `folder`. The answers of an export of ours are read
    as its arm writes them, those of another model as `arm` does, or else as they stand."""
    if not (model_folder / "config.json").is_file():
        raise SettingsError(f"--model {model_folder}: no config.json there; give a folder of a causal model")
    try:
        check_task_names(tasks)
        solved = [local_task(name, gsm8k, "arithmetic") for name in dict.fromkeys(tasks) if name != "arithmetic"]
        for task in solved:
            task.check("test")  # before a large model is loaded
    except TrialError as error:
        raise SettingsError(f"--tasks: {error}") from None
    model, tokenizer = load(model_folder, default_device())
    settings, treatment = Evaluate(limit=limit), _arm_of(model_folder, tokenizer, arm)
    if limit is not None:
        settings = settings.model_copy(update={"probes_each": min(limit, settings.probes_each)})
    scores: dict[str, Any] = {}
    if "arithmetic" in tasks:
        _, scores["arithmetic"] = probe_rows(folder, model, tokenizer, treatment, settings, frozenset())
    for task in solved:
        _, scores[task.name] = evaluate_solutions(folder, model, tokenizer, treatment, task, settings)
    return scores


def _arm_of(model_folder: Path, tokenizer: Any, named: str | None) -> Arm:
    """The arm as whose answers a model's are read. Raises SettingsError where another is named than its export has, or
    the export's tokens are of other facts than those that `--model` asks."""
    own = tokenizer.init_kwargs.get(ARM_KEY)
    if own and named not in (None, own):
        raise SettingsError(f"--arm {named}: {model_folder} was exported of the arm {own!r}; leave --arm out")
    arm = get_arm(own or named or "baseline")
    if own and (lacking := [token for token in arm.tokens if token not in tokenizer.get_vocab()]):
        raise SettingsError(
            f"--model {model_folder}: it has no token {lacking[0]}, so that its facts are not the table that --model "
            "asks; evaluate it with its trial, `tokentrial evaluate TRIAL`"
        )
    return arm


def run_harness(folder: Path, model_folder: Path, tasks: Sequence[str], limit: int | None) -> dict[str, Any]:
    """Scores of EleutherAI's lm-eval on the same folder (the extra `eval`), written as it writes them."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TrialError(
            f"--harness: lm-eval is not installed ({error}); pip install '.[eval]' in the checkout of tokentrial"
        ) from None
    known = TaskManager()
    if strange := [task for task in tasks if task not in known.all_tasks]:
        near = difflib.get_close_matches(strange[0], known.all_tasks, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; `lm-eval ls tasks` lists them"
        raise SettingsError(f"--harness {strange[0]}: no lm-eval task{hint}")
    model, tokenizer = load(model_folder, default_device())
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    try:
        results = simple_evaluate(model=peer, tasks=list(tasks), limit=limit, task_manager=known)
    except (ConnectionError, FileNotFoundError) as error:  # its data sets are of the Hub
        raise TrialError(
            f"--harness {','.join(tasks)}: its data cannot be fetched ({error}); go online first"
        ) from None
    scores: dict[str, Any] = results["results"]
    write_json(folder / "harness_results.json", {"results": scores, "n-samples": results["n-samples"]})
    return scores
