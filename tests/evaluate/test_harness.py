"""Our scores of GSM8K against EleutherAI's harness: its task, its filters, its metric, on the same completions."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from tokentrial.compare.read import read_systems
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import run_harness
from tokentrial.tasks.gsm8k import GSM8K

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs tokentrial[eval]")

# ways to end an answer, of which {n} is the right number and {m} a wrong one
ENDINGS = (
    "#### {n}", "#### {n}.", "#### ${n}", "#### {n:,}", "####{n}", "####  {n}", "#### {n} dollars",
    "#### {n}\n#### {m}", "#### {m}\n#### {n}", "#### {m}", "#### -{n}", "#### {n}.0", "#### {n},", "#### {n}%",
    "so it is {n}", "so it is ${n:,}.", "#### {n} but then {m}", "#### {m} but then {n}", "no number", "", "####",
    "#### ,", "#### .", "#### x{n}", "### {n}",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(shared_data):
    """(example, completion): 100 real solutions of models, and every odd ending with five real questions."""
    examples = {e.question: e for e in GSM8K(f"path:{shared_data}/gsm8k").examples("test")}
    found = []
    lines = (shared_data / "gsm8k" / "example_model_solutions.jsonl").read_text().splitlines()
    for number, line in enumerate(lines[:50]):
        row = json.loads(line)
        solved = [value["solution"] for key, value in row.items() if isinstance(value, dict) and "solution" in value]
        for solution in (solved[number % len(solved)], solved[(number + 1) % len(solved)]):
            found.append((examples[row["question"]], " " + solution.replace("A:", "####")))
    for number, ending in enumerate(ENDINGS):
        for example in list(examples.values())[100 + 5 * number : 105 + 5 * number]:
            right = int(example.answer)
            found.append((example, f" They have 12 of 3.5 each.\n{ending.format(n=right, m=right + 1)}"))
    return found


@pytest.fixture(scope="module")
def harness(rows, tmp_path_factory):
    """The harness's score of every completion, by filter: its own task on a local copy of the rows."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    spec = importlib.util.find_spec("lm_eval")
    settings = yaml.safe_load((Path(spec.origin).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    (folder / "rows.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{number}: {e.question}", "answer": e.completion.strip()}) + "\n"
            for number, (e, _) in enumerate(rows)
        )
    )
    del settings["dataset_name"], settings["training_split"], settings["fewshot_split"], settings["tag"]
    settings |= {
        "task": "gsm8k_rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "num_fewshot": 0,
    }
    (folder / "rows.yaml").write_text(yaml.safe_dump(settings))

    class Says(LM):
        """Says what the rows say."""

        def loglikelihood(self, requests):
            raise NotImplementedError

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            return [rows[int(r.args[0].removeprefix("Question: ").partition(":")[0])][1] for r in requests]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache" / "datasets"))
        results = simple_evaluate(
            model=Says(),
            tasks=["gsm8k_rows"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )
    scores = {}
    for sample in results["samples"]["gsm8k_rows"]:
        scores.setdefault(sample["filter"], {})[sample["doc_id"]] = bool(sample["exact_match"])
    return scores


@pytest.mark.parametrize(("name", "filtered"), [("score", "strict-match"), ("score_flexible", "flexible-extract")])
def test_our_score_is_the_harness_s_on_every_completion(rows, harness, name, filtered):
    ours = {number: getattr(GSM8K(), name)(e, completion) for number, (e, completion) in enumerate(rows)}
    assert len(harness[filtered]) == len(rows) >= 200
    differing = [(rows[n][0].answer, rows[n][1][-60:], ours[n]) for n in ours if ours[n] != harness[filtered][n]]
    assert differing == []
    real = [harness[filtered][n] for n in range(100)]
    assert 20 < sum(real) < 80  # of both kinds
    odd = [harness[filtered][n] for n in range(100, len(rows))]
    assert 20 < sum(odd) < len(odd) - 20


def test_what_it_writes_is_read_by_compare(tmp_path, monkeypatch):
    """3 of 4 right: a count, and not a share alone, as the tests of two models want it."""
    results = {"results": {"gsm8k": {"exact_match,strict-match": 0.75, "exact_match_stderr,strict-match": 0.25}}}
    written = results | {"n-samples": {"gsm8k": {"original": 1319, "effective": 4}}, "config": {"limit": 4}}
    monkeypatch.setattr("tokentrial.evaluate.evaluate.load", lambda folder, device: (None, None))
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM", lambda **of_model: None)
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda **asked: written)
    assert run_harness(tmp_path, tmp_path, ["gsm8k"], 4) == results["results"]
    [[system]] = read_systems([tmp_path / "harness_results.json"])
    assert [(items.correct, items.total) for items in system.models[0].items.values()] == [(3, 4)]


def test_without_the_harness_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(TrialError, match=r"--harness: lm-eval is not installed .*pip install '.\[eval\]'"):
        run_harness(tmp_path, tmp_path, ["gsm8k"], 1)
