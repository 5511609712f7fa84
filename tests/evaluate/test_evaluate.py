"""The evaluation stage: what is read from a completion in each arm, and what is written of a cell."""

import json
from dataclasses import replace

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.evaluate import evaluate as evaluation
from tokentrial.evaluate.evaluate import TableProbe, ask, load
from tokentrial.evaluate.generate import Completion
from tokentrial.evaluate.score import answer_logprobs
from tokentrial.evaluate.solve import gold_nats, solve
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.pretrain.export import load_gpt, logits_gap
from tokentrial.steps.cell import Cell
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.gsm8k import SolutionTask
from tokentrial.tokenizer.export import to_transformers
from tokentrial.trial.settings import Evaluate


@pytest.fixture
def row_for(monkeypatch, vocabulary):
    """`row_for(arm, completion, a, b)`: the row of `What is a times b?` where the model says `completion`."""

    class Model:
        class config:
            vocab_size = vocabulary.size

    def make(arm, completion, a=6, b=9, never=frozenset()):
        treatment, task = arms.get_arm(arm), Arithmetic()
        monkeypatch.setattr(
            evaluation,
            "complete",
            lambda model, tokenizer, prompts, *rest: [Completion(completion, 1, True)] * len(prompts),
        )
        [example] = [example for example in task.table() if example.operands == (a, b)]
        [row] = ask(Model, to_transformers(vocabulary, treatment, 64), treatment, task, [example], Evaluate(), never)
        return row

    return make


@pytest.mark.parametrize(
    ("arm", "completion", "read"),
    [
        ("baseline", " 54.", "54"),  # more of the reader in tests/tasks/test_arithmetic.py
        ("baseline", " 55, no, 54", "55"),
        # defect R6: the answer is read out of the text a token stands for, never out of its name
        ("mul_tokens", " <MUL_6_9_54>.", "54"),
        ("mul_tokens", "<MUL_6_9_54>", "54"),
        ("mul_tokens", " <MUL_6_8_48>", "48"),
        ("mul_tokens", " 54 <MUL_6_8_48>", "54"),
        ("mul_append", " 54<MUL_6_9_54>.", "54"),
        ("mul_append", " 6*9=54<MUL_6_9_54>", "54"),
        ("mul_append", " <MUL_6_9_54>", "54"),
        ("one_slot", " <FACT>", None),
        ("one_slot", " <FACT> 54", "54"),
        ("append_slot", " 6*9=54<FACT>", "54"),
    ],
)
def test_the_same_reader_in_every_arm_reads_plain_text(row_for, arm, completion, read):
    row = row_for(arm, completion)
    assert row["read"] == read
    assert row["correct"] == (read == "54")
    assert row["completion"] == completion
    assert "<" not in row["plain"]


def test_a_row_says_which_fact_it_asks_whether_that_was_asked_and_its_fact_tokens(row_for):
    never = frozenset({TIMES_TABLE.of(6, 9)})
    row = row_for("baseline", " 54", 9, 6, never)
    assert (row["fact"], row["asked"], row["fact_tokens"]) == ("6*9=54", False, 0)
    assert row_for("baseline", " 48", 6, 8, never)["asked"] is True
    assert row_for("baseline", " 6", 1, 6, never)["asked"] is None  # a row of 1 is of neither kind
    assert row_for("mul_tokens", " <MUL_6_9_54> <MUL_1_1_1>")["fact_tokens"] == 2


# what the finished tiny trial wrote


def rows_of(finished, arm, seed):
    folder = Cell(arm, seed).folder(finished, "eval_pretrain")
    return [json.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()]


def test_every_item_has_its_sample(finished):
    """A fact's `asked` is what its own seed was served: by the count of drills that ask it, not by the fold's rule."""
    rows, expected = rows_of(finished, "mul_tokens", 2), Arithmetic(5).examples()
    assert [(row["question"], row["answer"]) for row in rows] == [(e.question, e.answer) for e in expected]
    assert len(rows) == 81 + 5 * 5
    served = json.loads((finished.folder / "corpus" / "exposure.json").read_bytes())["served"]["mul_tokens"]["2"]
    asked = {fact: forms["question"] + forms["statement"] > 0 for fact, forms in served["facts"].items()}
    assert list(asked.values()).count(False) == 12
    for row, example in zip(rows, expected, strict=True):
        of_a_fact = row["task"] == "mul_table" and 1 not in example.operands
        assert row["asked"] == (asked[row["fact"]] if of_a_fact else None)
        assert ("choice_logprob" in row) == (row["task"] == "mul_table")
        assert row.get("choice_logprob", -1) < 0
        assert row["correct"] == (row["read"] == row["answer"])


def test_metrics_add_up_to_the_samples_and_have_the_reference_s_fields(finished, shared_data):
    reference = shared_data / "original_results" / "outputs" / "eval_hf_baseline_10b" / "arithmetic_results.json"
    expected = json.loads(reference.read_bytes())
    rows = rows_of(finished, "baseline", 2)
    folder = Cell("baseline", 2).folder(finished, "eval_pretrain")
    ours = json.loads((folder / "arithmetic_results.json").read_bytes())
    metrics = ours["metrics"]
    assert (metrics["condition"], metrics["total_samples"]) == ("baseline", len(rows))
    assert metrics["total_correct"] == sum(row["correct"] for row in rows)
    assert metrics["overall_accuracy"] == metrics["total_correct"] / len(rows)
    for task, category in metrics["category_accuracies"].items():
        chosen = [row["correct"] for row in rows if row["task"] == task]
        assert category == {"accuracy": sum(chosen) / len(chosen), "correct": sum(chosen), "total": len(chosen)}
    assert {key: type(value) for key, value in expected["metrics"].items()} == {
        key: type(metrics.get(key)) for key in expected["metrics"]
    }
    assert expected["metrics"]["category_accuracies"].keys() <= metrics["category_accuracies"].keys()
    assert expected["examples"][0].keys() == ours["examples"][0].keys()


def test_held_out_text_is_the_same_in_every_arm_of_a_seed(finished):
    records = [
        json.loads((Cell(arm, 1).folder(finished, "eval_pretrain") / "heldout_text.json").read_bytes())
        for arm in finished.arms
    ]
    documents = [[(d["set"], d["name"], d["bytes"]) for d in record["documents"]] for record in records]
    assert documents[0] == documents[1]
    assert {name for name, _, _ in documents[0]} == {"text", "drills"}
    assert all(d["bits"] > 0 for record in records for d in record["documents"])
    assert all(record["keeps_content"] for record in records)


def test_drills_of_an_earlier_run_are_not_measured_where_the_trial_has_none(finished, vocabulary, tmp_path):
    drills = finished.corpus.drills.model_copy(update={"share": 0.0})
    trial = finished.model_copy(update={"corpus": finished.corpus.model_copy(update={"drills": drills})})
    model = load(Cell("baseline", 1).folder(trial, "export"))
    evaluation.evaluate(tmp_path, trial, trial.folder / "corpus", vocabulary, arms.get_arm("baseline"), 1, *model)
    record = json.loads((tmp_path / "heldout_text.json").read_bytes())
    assert {document["set"] for document in record["documents"]} == {"text"}


def test_the_last_probe_of_training_is_what_the_evaluation_finds(finished):
    """Two roads to one figure: the model in training, and the exported one read back from its files."""
    for arm in finished.arms:
        results = json.loads((Cell(arm, 2).folder(finished, "pretrain") / "results.json").read_bytes())
        last = results["curve"][-1]
        assert last["step"] == finished.pretrain.steps
        for subset, wanted in (("asked", True), ("never_asked", False)):
            by_fact = {}
            for row in rows_of(finished, arm, 2):
                if row["asked"] is wanted:
                    by_fact.setdefault(row["fact"], []).append(row["correct"])
            means = [sum(found) / len(found) for found in by_fact.values()]
            assert last[subset] == pytest.approx(sum(means) / len(means))


@torch.no_grad()
def test_the_table_is_asked_of_the_weights_as_they_are_now(finished, vocabulary, tiny, tmp_path):
    """Their copy for transformers is made once and written over after."""
    trial = tiny(tmp_path, "corpus.drills.holdout_folds=0")
    model = load_gpt(Cell("baseline", 1).folder(finished, "pretrain"))
    probe = TableProbe(trial, vocabulary, arms.get_arm("baseline"), 1)
    assert set(probe(1, model)) == {"all", "from_2", "asked"}  # no fact is left out of what is asked
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    probe(2, model)
    assert logits_gap(model, probe.exported) < 1e-5 * model.logits(torch.arange(64)[None]).abs().max()


@pytest.mark.parametrize("arm", arms.arm_names())
def test_a_prompt_that_states_a_fact_is_asked_as_it_is(babbling, vocabulary, rows_given, arm):
    """Defect R3: in every arm, and whatever is asked of it; nor is a special token's name in it that token."""
    model, tokenizer, treatment = babbling(arm)
    stated = "so 6*9=54, 3x4=12 <|endoftext|> is"
    parts = [segment.text for segment in arms.Arm.segments(treatment, stated)]  # split as its digits are, no more
    ids = [token for part in parts for token in vocabulary.encode(part).tolist()]
    example = replace(Arithmetic().table()[0], prompt=stated, completion=" 6")
    given = rows_given(model)
    for asked in (
        lambda: ask(model, tokenizer, treatment, Arithmetic(), [example], Evaluate(max_new_tokens=1), frozenset()),
        lambda: solve(model, tokenizer, treatment, SolutionTask(), [example], 1, 1),
        lambda: gold_nats(model, tokenizer, treatment, [example], 1),
        lambda: answer_logprobs(model, tokenizer, treatment, [example]),
    ):
        given.clear()
        asked()
        assert given[-1][0][: len(ids)] == ids
