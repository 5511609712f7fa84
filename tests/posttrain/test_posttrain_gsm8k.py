"""The seed's post-training half on the real GSM8K, small and on the CPU: SFT, GRPO, an evaluation of 50 rows."""

import math

import pytest

from tests.posttrain.conftest import quiet
from tokentrial.arms import arm as arms
from tokentrial.evaluate.evaluate import evaluate_solutions, load
from tokentrial.evaluate.solve import gold_nats
from tokentrial.posttrain.grpo import grpo
from tokentrial.posttrain.sft import sft
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.store.files import read_json
from tokentrial.tasks.gsm8k import GSM8K
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

CONTEXT = 640


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_a_small_model_goes_through_sft_grpo_and_evaluation(tiny, shared_data, tmp_path, arm):
    vocabulary, treatment = Vocabulary(1024, 45), arms.find(arm)
    trial = tiny(
        tmp_path / "run",
        f"tasks.gsm8k=path:{shared_data}/gsm8k",
        f"pretrain.context={CONTEXT}",
        f"pretrain.batch_tokens={CONTEXT}",
        "pretrain.micro_batch=1",
        # a hundredth of the rows
        "sft={stages: [{sources: [{source: gsm8k, weight: 0.03}], epochs: 1, lr: 0.003}], batch: 8, max_length: 512}",
        "grpo={task: gsm8k, prompts: 8, generations: 2, batch: 2, new_tokens: 48, lr: 0.001, format_bonus: 0.5}",
        "evaluate={tasks: [gsm8k], limit: 50, solution_tokens: 64}",
    )
    folders = {name: tmp_path / name for name in ("hf", "sft", "grpo", "evaluated")}
    for folder in folders.values():
        folder.mkdir()
    to_hf(GPT(Config(vocabulary.size, 2, 2, 64, CONTEXT), seed=1), vocabulary.eos).save_pretrained(folders["hf"])
    to_transformers(vocabulary, treatment, CONTEXT).save_pretrained(folders["hf"])

    sft(folders["sft"], tmp_path / "a", trial, trial.sft, treatment, 1, folders["hf"], quiet)
    record = read_json(folders["sft"] / "sft_results.json")
    [stage] = record["stages"]
    # 7,473 rows, 3 % of them drawn, a tenth of those held
    assert (stage["rows"] + stage["left_out"], stage["held_rows"]) == (224 - 22, 22)
    assert stage["steps"] == math.ceil(stage["rows"] / 8)
    assert stage["longest"] <= 512
    assert record["eval_loss"] < math.log(vocabulary.size) - 1  # it has learnt something of how solutions look

    grpo(folders["grpo"], tmp_path / "b", trial, trial.grpo, treatment, 1, folders["sft"], quiet)
    record = read_json(folders["grpo"] / "grpo_results.json")
    assert (record["prompts"], record["steps"]) == (8, 4)
    assert all(math.isfinite(r["reward"]) and math.isfinite(r["kl"]) for r in record["log"])

    model, tokenizer = load(folders["grpo"])
    task = GSM8K(trial.tasks.gsm8k)
    assert (len(task.examples("train")), len(task.examples("test"))) == (7473, 1319)
    rows, metrics = evaluate_solutions(folders["evaluated"], model, tokenizer, treatment, task, trial.evaluate)
    assert metrics["total"] == len(rows) == 50
    assert [row["question"] for row in rows] == [e.question for e in task.examples("test")[:50]]
    assert metrics["accuracy"] == sum(row["read"] == row["answer"] for row in rows) / 50
    model, tokenizer = load(folders["hf"])
    untrained = gold_nats(model, tokenizer, treatment, task.examples("test")[:50], 50)
    assert 0 < metrics["gold_nats_per_byte"] < 0.9 * sum(untrained) / 50
