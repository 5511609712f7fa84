"""Evaluation of any causal model in a folder, so that peers are scored by the same code, or by EleutherAI's harness."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.errors import SettingsError, TrialError
from tokentrial.evaluate.evaluate import evaluate_solutions, load, probe_rows
from tokentrial.settings import Evaluate
from tokentrial.store import has_gpu, write_json
from tokentrial.tasks.gsm8k import GSM8K, Sums


def evaluate_model(
    folder: Path, model_folder: Path, arm: str, tasks: Sequence[str], gsm8k: str, limit: int | None
) -> dict[str, Any]:
    """Metrics by task; every item goes to `<task>_results.json` in `folder`."""
    if not (model_folder / "config.json").is_file():
        raise SettingsError(f"--model {model_folder}: no config.json there; give a folder of a causal model")
    model, tokenizer = load(model_folder, "cuda" if has_gpu() else "cpu")
    settings, treatment = Evaluate(limit=limit), arms.find(arm)
    scores: dict[str, Any] = {}
    for name in tasks:
        if name == "arithmetic":
            _, scores[name] = probe_rows(folder, model, tokenizer, treatment, settings, frozenset())
        elif name == "gsm8k" or name.startswith("path:"):
            task = GSM8K(gsm8k) if name == "gsm8k" else Sums(name)
            _, scores[task.name] = evaluate_solutions(folder, model, tokenizer, treatment, task, settings)
        else:
            raise SettingsError(f"--tasks {name}: there are arithmetic, gsm8k and path:FILE.json")
    return scores


def run_harness(folder: Path, model_folder: Path, tasks: Sequence[str], limit: int | None) -> dict[str, Any]:
    """Scores of EleutherAI's lm-eval on the same folder (`pip install tokentrial[eval]`)."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise TrialError(f"--harness: lm-eval is not installed ({error}); pip install 'tokentrial[eval]'") from None
    model, tokenizer = load(model_folder, "cuda" if has_gpu() else "cpu")
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    results = simple_evaluate(model=peer, tasks=list(tasks), limit=limit)
    scores: dict[str, Any] = results["results"]
    write_json(folder / "harness_results.json", scores)
    return scores
