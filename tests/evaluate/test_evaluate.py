"""The evaluation stage: what is read from a completion in each arm, and what is written of a cell."""

import json
import re
from dataclasses import replace

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.evaluate import evaluate as evaluation
from tokentrial.evaluate.evaluate import TableProbe, ask
from tokentrial.evaluate.generate import Completion
from tokentrial.evaluate.score import answer_logprobs
from tokentrial.evaluate.solve import gold_nats, solve
from tokentrial.pretrain.export import load_gpt, logits_gap
from tokentrial.steps.cell import Cell
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.gsm8k import Solutions
from tokentrial.tokenizer.export import to_transformers
from tokentrial.trial.settings import Evaluate


@pytest.fixture
def answered(monkeypatch, vocabulary):
    """`answered(arm, completion, a, b)`: the row of `What is a times b?` where the model says `completion`."""

    class Model:
        class config:
            vocab_size = vocabulary.size

    def make(arm, completion, a=6, b=9, never=frozenset()):
        treatment, task = arms.find(arm), Arithmetic()
        monkeypatch.setattr(
            evaluation,
            "complete",
            lambda model, tokenizer, prompts, *rest: [Completion(completion, 1, True)] * len(prompts),
        )
        [example] = [each for each in task.table() if each.operands == (a, b)]
        [row] = ask(Model, to_transformers(vocabulary, treatment, 64), treatment, task, [example], Evaluate(), never)
        return row

    return make


@pytest.mark.parametrize(
    ("arm", "completion", "read"),
    [
        ("baseline", " 54.", "54"),
        ("baseline", " 6*9=54", "54"),
        ("baseline", " 6 × 9 = 54.", "54"),
        ("baseline", " 54\n55", "54"),
        ("baseline", "\n54", None),
        ("baseline", " User: 54", None),
        ("baseline", " 54 User: What is 6 times 8?", "54"),
        ("baseline", " unknown", None),
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
def test_the_same_reader_in_every_arm_reads_plain_text(answered, arm, completion, read):
    row = answered(arm, completion)
    assert row["read"] == read
    assert row["correct"] == (read == "54")
    assert row["completion"] == completion
    assert "<" not in row["plain"]


def test_a_row_says_which_fact_it_asks_and_whether_that_was_asked(answered):
    never = frozenset({TIMES_TABLE.of(6, 9)})
    assert (answered("baseline", " 54", 9, 6, never)["fact"], answered("baseline", "", 9, 6, never)["asked"]) == (
        "6*9=54",
        False,
    )
    assert answered("baseline", " 48", 6, 8, never)["asked"] is True
    assert answered("baseline", " 6", 1, 6, never)["asked"] is None  # a row of 1 is of neither kind


def test_fact_tokens_are_counted(answered):
    assert answered("mul_tokens", " <MUL_6_9_54> <MUL_1_1_1>")["fact_tokens"] == 2
    assert answered("baseline", " 6*9=54")["fact_tokens"] == 0


# what the finished tiny trial wrote


def rows_of(finished, arm, seed):
    folder = Cell(arm, seed).folder(finished, "eval_pretrain")
    return [json.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_item_has_its_sample(finished, seed):
    """A fact's `asked` is what its own seed was served: by the count of drills that ask it, not by the fold's rule."""
    rows, expected = rows_of(finished, "mul_tokens", seed), Arithmetic(5).examples()
    assert [row["question"] for row in rows] == [example.question for example in expected]
    assert len(rows) == 81 + 5 * 5
    served = json.loads((finished.folder / "corpus" / "exposure.json").read_bytes())["served"]["mul_tokens"][str(seed)]
    asked = {fact: forms["question"] + forms["statement"] > 0 for fact, forms in served["facts"].items()}
    for row, example in zip(rows, expected, strict=True):
        assert row["answer"] == example.answer
        if row["task"] == "mul_table" and 1 not in example.operands:
            assert row["asked"] == asked[row["fact"]]
        else:
            assert row["asked"] is None
        assert ("choice_logprob" in row) == (row["task"] == "mul_table")
        assert row.get("choice_logprob", -1) < 0
        assert row["correct"] == (row["read"] == row["answer"])
    never = [fact for fact, was in asked.items() if not was]
    assert len(never) == 12
    assert sum(row["asked"] is False for row in rows) == sum(1 + (fact[0] != fact[2]) for fact in never)


def test_metrics_have_the_reference_s_fields(finished, shared_data):
    folder = Cell("mul_tokens", 1).folder(finished, "eval_pretrain")
    ours = json.loads((folder / "arithmetic_results.json").read_bytes())
    path = shared_data / "original_results" / "outputs" / "eval_hf_baseline_10b" / "arithmetic_results.json"
    theirs = json.loads(path.read_bytes())
    assert set(theirs["metrics"]) <= set(ours["metrics"])
    assert {k: type(v) for k, v in theirs["metrics"].items()} == {
        k: type(ours["metrics"][k]) for k in theirs["metrics"]
    }
    assert set(theirs["metrics"]["category_accuracies"]) <= set(ours["metrics"]["category_accuracies"])
    assert set(theirs["metrics"]["category_accuracies"]["addition"]) == set(
        ours["metrics"]["category_accuracies"]["addition"]
    )
    assert set(theirs["examples"][0]) == set(ours["examples"][0])


def test_metrics_add_up_to_the_samples(finished):
    for seed in (1, 2):
        rows = rows_of(finished, "baseline", seed)
        folder = Cell("baseline", seed).folder(finished, "eval_pretrain")
        metrics = json.loads((folder / "arithmetic_results.json").read_bytes())["metrics"]
        assert metrics["condition"] == "baseline"
        assert metrics["total_samples"] == len(rows)
        assert metrics["total_correct"] == sum(row["correct"] for row in rows)
        assert metrics["overall_accuracy"] == metrics["total_correct"] / len(rows)
        for task, category in metrics["category_accuracies"].items():
            chosen = [row["correct"] for row in rows if row["task"] == task]
            assert category == {"accuracy": sum(chosen) / len(chosen), "correct": sum(chosen), "total": len(chosen)}


def test_held_out_text_is_the_same_in_every_arm_of_a_seed(finished):
    for seed in (1, 2):
        records = [
            json.loads((Cell(arm, seed).folder(finished, "eval_pretrain") / "heldout_text.json").read_bytes())
            for arm in finished.arms
        ]
        documents = [[(d["set"], d["name"], d["bytes"]) for d in record["documents"]] for record in records]
        assert documents[0] == documents[1]
        assert {name for name, _, _ in documents[0]} == {"text", "drills"}
        assert all(d["bits"] > 0 for record in records for d in record["documents"])
        assert all(record["keeps_content"] for record in records)


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
    trial = tiny(tmp_path, "corpus.drills.never_asked_folds=0")
    model = load_gpt(Cell("baseline", 1).folder(finished, "pretrain"))
    probe = TableProbe(trial, vocabulary, arms.find("baseline"), 1)
    assert set(probe(1, model)) == {"all", "from_2", "asked"}  # no fact is left out of what is asked
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    probe(2, model)
    assert logits_gap(model, probe.exported) < 1e-5 * model.logits(torch.arange(64)[None]).abs().max()


@pytest.mark.parametrize("arm", arms.names())
def test_a_prompt_that_states_a_fact_is_asked_as_it_is(babbling, vocabulary, rows_given, arm):
    """Defect R3: in every arm, and whatever is asked of it; nor is a special token's name in it that token."""
    model, tokenizer, treatment = babbling(arm)
    stated = "so 6*9=54, 3x4=12 <|endoftext|> is"
    parts = re.split(treatment.cut, stated) if treatment.cut else [stated]
    ids = [token for part in parts for token in vocabulary.encode(part).tolist()]
    example = replace(Arithmetic().table()[0], prompt=stated, completion=" 6")
    given = rows_given(model)
    for asked in (
        lambda: ask(model, tokenizer, treatment, Arithmetic(), [example], Evaluate(new_tokens=1), frozenset()),
        lambda: solve(model, tokenizer, treatment, Solutions(), [example], 1, 1),
        lambda: gold_nats(model, tokenizer, treatment, [example], 1),
        lambda: answer_logprobs(model, tokenizer, treatment, [example]),
    ):
        given.clear()
        asked()
        assert given[-1][0][: len(ids)] == ids
