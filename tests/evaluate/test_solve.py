"""Worked solutions: strict and flexible scores after `plain`, the gold solution's nats, and any causal model."""

import json
import math

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.errors import SettingsError
from tokentrial.evaluate import solve as solving
from tokentrial.evaluate.evaluate import evaluate_model, evaluate_solutions
from tokentrial.evaluate.generate import Completion
from tokentrial.evaluate.solve import gold_nats, solve, summary
from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.store.files import read_json
from tokentrial.tasks.gsm8k import GSM8K, SolutionTask, solution_prompt
from tokentrial.tasks.own_rows import AnswerOnly
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.settings import Evaluate

ARMS = ("baseline", "mul_tokens", "mul_append")


def example(question, completion, answer="54"):
    return Example("t", question, solution_prompt(question), completion, answer)


SHORT = [
    example("6 by 9?", " 6*9=54\n#### 54"),
    example("Go", " #### 54"),
    example("What then", " 7*8=56 so\n6*9=54 é\n#### 54"),
    example("a b c d", " 2*3=7\n#### 54"),
]


@pytest.fixture
def row_for(monkeypatch):
    """`row_for(arm, completion, tokens, stopped)`: the row of a problem whose answer is 54."""

    def make(arm, completion, tokens=7, stopped=True):
        monkeypatch.setattr(solving, "complete", lambda *given, **named: [Completion(completion, tokens, stopped)])
        [row] = solve(None, None, arms.get_arm(arm), SolutionTask(), SHORT[:1], 10, 1)
        return row

    return make


@pytest.mark.parametrize(
    ("arm", "completion", "strict", "flexible"),
    [
        ("baseline", "#### 55 is not 54", "55", "54"),  # more of the readers in tests/tasks/test_gsm8k.py
        ("baseline", " nothing", None, None),
        # defect R6: read from the text a token stands for, never from its name
        ("mul_tokens", " <MUL_6_9_54>", None, "54"),
        ("mul_tokens", " <MUL_6_9_54>\n#### 54", "54", "54"),
        ("mul_tokens", " 3 <MUL_1_1_1>", None, "1"),
        ("mul_append", " 6*9=54<MUL_6_9_54>\n#### 54", "54", "54"),
        ("mul_append", " so 54<MUL_6_8_48>", None, "48"),
        ("append_slot", " 6*9=54<FACT>", None, "54"),
    ],
)
def test_strict_is_the_number_after_the_marker_and_flexible_the_last(row_for, arm, completion, strict, flexible):
    row = row_for(arm, completion)
    assert (row["read"], row["read_flexible"]) == (strict, flexible)
    assert (row["correct"], row["correct_flexible"]) == (strict == "54", flexible == "54")
    assert row["completion"] == completion
    assert "<" not in row["plain"]


def test_a_row_says_how_long_it_was_whether_it_ended_and_its_fact_tokens(row_for):
    row = row_for("mul_tokens", "<MUL_6_9_54> <MUL_6_9_54>", 9, False)
    assert (row["tokens"], row["stopped"], row["fact_tokens"]) == (9, False, 2)
    row = row_for("baseline", "<MUL_6_9_54>", 3, True)
    assert (row["tokens"], row["stopped"], row["fact_tokens"]) == (3, True, 0)
    assert row["site"] is True  # the gold solution states 6*9=54


def test_the_summary_adds_up():
    keys = ("correct", "correct_flexible", "tokens", "stopped", "fact_tokens", "gold_nats_per_byte")
    rows = [
        (True, True, 10, True, 2, 1.0),
        (False, True, 20, True, 0, 2.0),
        (False, False, 60, False, 1, math.nan),
        (False, False, 6, True, 0, 6.0),
    ]
    assert summary([dict(zip(keys, row, strict=True)) for row in rows], "mul_tokens", 2.5) == {
        "condition": "mul_tokens",
        "model_path": "model",
        "accuracy": 0.25,
        "correct": 1,
        "total": 4,
        "avg_response_tokens": 24,
        "mul_token_count": 3,
        "mul_tokens_per_response": 0.75,
        "eval_time_seconds": 2.5,
        "accuracy_flexible": 0.5,
        "share_stopped": 0.75,
        "gold_nats_per_byte": 3.0,
        "gold_too_long": 1,
    }


def test_the_reference_s_fields_are_there(shared_data):
    found = sorted((shared_data / "original_results" / "outputs").rglob("gsm8k_results.json"))
    assert found
    row = {"correct": True, "correct_flexible": True, "stopped": True, "tokens": 3, "fact_tokens": 0}
    ours = summary([row | {"gold_nats_per_byte": 1.0}], "baseline", 1.0)
    for path in found:
        for key, value in json.loads(path.read_bytes())["metrics"].items():
            assert isinstance(ours[key], (type(value), int, float)), key


# the gold solution


@pytest.mark.parametrize("arm", ARMS)
def test_gold_nats_are_those_of_every_token_after_the_prompt_per_original_byte(babbling, vocabulary, arm):
    """Row by row, token by token, against whole batches."""
    model, tokenizer, treatment = babbling(arm)
    expected = []
    for problem in SHORT:
        prompt = vocabulary.encode(problem.prompt).tolist()
        ids = [*prompt, *vocabulary.encode_arm(treatment, problem.completion).tolist(), vocabulary.eos]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        nats = sum(
            float(logits[position - 1].logsumexp(0) - logits[position - 1, ids[position]])
            for position in range(len(prompt), len(ids))
        )
        expected.append(nats / len(problem.completion.encode()))
    assert len(SHORT[2].completion) < len(SHORT[2].completion.encode())  # bytes, not characters
    for batch in (1, 3, 8):
        assert gold_nats(model, tokenizer, treatment, SHORT, batch) == pytest.approx(expected, rel=1e-5)


def test_a_gold_solution_that_does_not_fit_has_no_nats_and_null_in_the_files(babbling, vocabulary, tmp_path):
    model, tokenizer, arm = babbling("baseline")
    size = len(vocabulary.encode(SHORT[1].prompt)) + 1  # with eos
    rows = []
    for room in (0, 1):  # the context's 64 ids are filled, then one too many
        completion = "z" * (64 - size + room)
        assert len(vocabulary.encode(completion)) == len(completion)
        rows.append(Example("t", "Go", SHORT[1].prompt, completion, "54"))
    found = gold_nats(model, tokenizer, arm, [rows[1], SHORT[0], rows[0]], 2)
    assert [math.isnan(value) for value in found] == [True, False, False]
    settings = Evaluate(limit=5, solution_tokens=4)
    rows, metrics = evaluate_solutions(tmp_path, model, tokenizer, arm, WordProblems(10, 3), settings)
    assert metrics["gold_too_long"] == sum(math.isnan(row["gold_nats_per_byte"]) for row in rows) > 0
    assert read_json(tmp_path / "word_problems_results.json")["metrics"]["gold_too_long"] == metrics["gold_too_long"]
    assert "NaN" not in (tmp_path / "word_problems_results.json").read_text()


# any causal model in a folder


def peer(folder, kind, positions=768):
    """A freshly initialised model of another making with a tokenizer of ours."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    vocabulary = Vocabulary(256, 45)
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": positions}
    shape |= {"bos_token_id": vocabulary.eos, "eos_token_id": vocabulary.eos}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary.size, **shape))
    else:  # its embedding has more rows than its tokenizer has ids
        model = LlamaForCausalLM(LlamaConfig(vocab_size=640, intermediate_size=32, num_key_value_heads=1, **shape))
    model.save_pretrained(folder)
    to_transformers(vocabulary, arms.get_arm("baseline"), positions).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "ids"), [("gpt2", 621), ("llama", 640)])
def test_any_causal_model_is_scored_by_the_same_code(tmp_path, shared_data, vocabulary, kind, ids):
    folder = peer(tmp_path / "model", kind)
    gsm8k, svamp = f"path:{shared_data}/gsm8k", f"path:{shared_data}/word_problems/SVAMP.json"
    scores = evaluate_model(tmp_path / "out", folder, "baseline", ["gsm8k", svamp, "arithmetic"], gsm8k, 3)
    assert set(scores) == {"gsm8k", "svamp", "arithmetic"}
    for name, task in (("gsm8k", GSM8K(gsm8k)), ("svamp", AnswerOnly(svamp.removeprefix("path:")))):
        metrics, written = scores[name], read_json(tmp_path / "out" / f"{name}_results.json")
        examples = task.examples("test")[:3]
        assert written["metrics"] == metrics
        assert [row["question"] for row in written["examples"]] == [example.question for example in examples]
        assert metrics["total"] == 3
        assert 0 < metrics["avg_response_tokens"] <= 256
        # weights of 0.02: all ids are almost equally likely, ln(ids) nats for each token and for eos
        golds = [example.completion for example in examples]
        nats = [(len(vocabulary.encode(gold)) + 1) * math.log(ids) / len(gold.encode()) for gold in golds]
        assert metrics["gold_nats_per_byte"] == pytest.approx(sum(nats) / 3, rel=0.02)
    # a limit holds for the probes too, and leaves the table whole
    totals = {name: of["total"] for name, of in scores["arithmetic"]["category_accuracies"].items()}
    assert totals.pop("mul_table") == 81
    assert set(totals.values()) == {3}
    assert (tmp_path / "out" / "arithmetic_results.json").exists()


@pytest.mark.parametrize(
    ("exported", "named"), [("mul_tokens", None), ("mul_tokens", "mul_tokens"), ("baseline", None)]
)
def test_the_answers_of_an_export_are_read_as_those_of_its_arm(tmp_path, vocabulary, exported, named):
    folder = peer(tmp_path / "model", "gpt2")
    to_transformers(vocabulary, arms.get_arm(exported), 64).save_pretrained(folder)
    scores = evaluate_model(tmp_path / "out", folder, named, ["arithmetic"], "hub", 1)
    assert scores["arithmetic"]["condition"] == exported


def test_an_arm_or_facts_that_an_export_has_not_are_refused(tmp_path, vocabulary):
    folder = peer(tmp_path / "model", "gpt2")
    with pytest.raises(SettingsError, match=r"--arm mul_tokens: .*model was exported of the arm 'baseline'"):
        evaluate_model(tmp_path / "out", folder, "mul_tokens", ["arithmetic"], "hub", 1)
    sums = build_facts(FactSettings(family="addition"))
    to_transformers(vocabulary, arms.get_arm("mul_tokens", sums), 64).save_pretrained(folder)
    with pytest.raises(SettingsError, match=r"model: it has no token <MUL_1_1_1>, .* evaluate it with its trial"):
        evaluate_model(tmp_path / "out", folder, None, ["arithmetic"], "hub", 1)


def test_a_folder_without_a_model_or_a_task_there_is_none_of_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"no config\.json there; give a folder of a causal model"):
        evaluate_model(tmp_path, tmp_path, "baseline", ["arithmetic"], "hub", 1)
    folder = peer(tmp_path / "model", "gpt2", 64)
    with pytest.raises(SettingsError, match="--tasks: no task 'gms8k', expected gsm8k, arithmetic"):
        evaluate_model(tmp_path, folder, "baseline", ["gms8k"], "hub", 1)
    with pytest.raises(SettingsError, match="not found; expected a folder"):
        evaluate_model(tmp_path, folder, "baseline", ["gsm8k"], f"path:{tmp_path}", 1)
