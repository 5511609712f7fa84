"""GRPO: the answer travels with the row, the prompts are the same in every arm, a stop changes nothing."""

import copy
import itertools
import math
import random
import shutil
from statistics import mean, stdev
from types import SimpleNamespace

import pytest
import torch
import trl
from transformers import AutoTokenizer

from tests.posttrain.conftest import ARMS, LONG, VOCABULARY, Stop, quiet, stop_at, training_problems, weights
from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import Completion
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.posttrain import grpo as grpos
from tokentrial.posttrain.grpo import measure_pass_at_k, prompts
from tokentrial.posttrain.trainer import CheckpointCallback, last_checkpoint
from tokentrial.run.declaration import declare
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.grpo import GRPOStage
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import write_manifest
from tokentrial.store.storage import Storage
from tokentrial.tasks.task import Example
from tokentrial.trial.settings import GRPO


def settings(**more):
    given = {
        "task": "word_problems",
        "prompts": 12,
        "num_generations": 3,
        "batch": 4,
        "max_new_tokens": 32,
        "lr": 0.001,
    }
    given |= {"temperature": 1.0, "kl_coef": 0.1, "checkpoint_every": 1} | more
    return "grpo={" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}"


@pytest.fixture
def reinforce(train_stage, untrained, tmp_path):
    """`reinforce(override, arm, name, progress, source)`: folder and record of GRPO, on the untrained model where no
    other is given."""

    def train(override, arm="baseline", name="grpo", progress=quiet, source=None):
        folder = tmp_path / name
        return folder, train_stage("grpo", folder, source or untrained(arm), arm, 1, [override], progress)

    return train


def answers():
    """Every training question's answer, worked out from its solution's last step."""
    last_steps = {e.prompt: e.completion.rpartition("=")[2] for e in training_problems()}
    return {prompt: step.partition(">>")[2].partition("\n")[0] for prompt, step in last_steps.items()}


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(script)`: GRPO samples `script(prompt, number)`, its number among all; (prompt, completion, reward) of
    every call of the reward, as the trainer sees them."""
    calls, numbers = [], itertools.count()

    def install(script):
        def continue_ids(model, tokenizer, prompt_ids, *rest):
            texts = [script(tokenizer.decode(ids), next(numbers)) for ids in prompt_ids]
            return [[*tokenizer(text)["input_ids"], VOCABULARY.eos] for text in texts]

        class Scripted(trl.GRPOTrainer):
            def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
                rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
                calls.append(list(zip(prompts, completions, rewards[:, 0].tolist(), strict=True)))
                return rewards

        monkeypatch.setattr(trl, "GRPOTrainer", Scripted)
        monkeypatch.setattr(grpos, "continue_ids", continue_ids)
        return calls

    return install


# the reward of a row is that row's


def test_the_reward_of_a_known_completion_is_that_of_its_own_row_in_the_same_order_in_every_arm(
    reinforce, scripted, tiny, tmp_path
):
    """Defect R7: the reference looked answers up by a global counter; with several generations and shuffling its
    reward was noise. Here a third of the completions are right, one is of another row, one says nothing."""
    right = answers()
    questions = sorted(right)

    def script(prompt, number):
        kind = random.Random(number).randrange(3)
        other = next(right[q] for q in questions[number:] + questions if right[q] != right[prompt])
        return (f" so\n#### {right[prompt]}", f" so\n#### {other}", " no idea")[kind]

    calls, orders = scripted(script), {}
    for arm in ARMS:
        calls.clear()
        reinforce(settings(), arm, arm)
        assert len(calls) == 3
        rewards = []
        for call in calls:
            for prompt, completion, reward in call:
                assert reward == float(completion == f" so\n#### {right[prompt]}"), (prompt, completion)
                rewards.append(reward)
        assert 5 < sum(rewards) < 20
        orders[arm] = [prompt for call in calls for prompt, _, _ in call]
    assert orders["baseline"] == orders["mul_tokens"] == orders["mul_append"]
    served = orders["baseline"][::3]  # three completions of each
    assert orders["baseline"] == [prompt for prompt in served for _ in range(3)]
    trial = tiny(tmp_path, *LONG, settings())
    rows = [e.prompt for e in prompts(trial, trial.grpo, 1)]
    # a counter over the rows in their order would have been wrong: they come shuffled
    assert sorted(served) == sorted(rows)
    assert served != rows


def test_what_is_rewarded_more_is_learnt_and_what_is_logged_of_every_step(reinforce, scripted, untrained):
    """The policy moves where rewards of a prompt differ, and stays where they do not."""
    right, token = answers(), "<MUL_6_9_54>"
    scripted(lambda prompt, number: f"{token * (number % 3)} #### {right[prompt]}")
    folder, record = reinforce(settings(fact_token_bonus=0.5), "mul_tokens")
    assert weights(folder) != weights(untrained("mul_tokens"))
    assert (record["condition"], record["seed"], record["prompts"], record["steps"]) == ("mul_tokens", 1, 12, 3)
    assert record["mul_bonus"] == 0.5
    assert [r["step"] for r in record["log"]] == [1, 2, 3]
    size = [len(VOCABULARY.encode_arm(arms.get_arm("mul_tokens"), f" #### {right[p]}")) + 1 for p in right]
    first, *_, last = record["log"]
    for logged in (first, last):
        assert logged["reward"] == pytest.approx(1 + 0.5 * 2 / 3)
        assert logged["fact_tokens"] == pytest.approx(1)  # 0, 1 and 2 of them
        assert logged["completions/clipped_ratio"] == logged["frac_reward_zero_std"] == 0
        assert min(size) <= logged["completions/mean_length"] - 1 <= max(size)
    assert first["kl"] == pytest.approx(0, abs=1e-6)  # the policy is still its reference
    assert last["kl"] > 1e-6
    assert record["seconds"] > 0
    scripted(lambda prompt, number: f" #### {right[prompt]}")
    folder, record = reinforce(settings(kl_coef=0), name="equal")
    assert weights(folder) == weights(untrained("baseline"))
    assert [r["reward"] for r in record["log"]] == [1.0] * 3
    assert record["log"][0]["frac_reward_zero_std"] == 1


# the objective, in plain formulas


@pytest.fixture
def steps(monkeypatch):
    """Every optimizer step of the GRPOTrainer that `trl` names when this is called: its rows, its loss, the weights."""
    seen = []

    def watch():
        class Watched(trl.GRPOTrainer):
            def compute_loss(self, model, inputs, *rest, **named):
                state = copy.deepcopy(model.state_dict())
                loss = super().compute_loss(model, inputs, *rest, **named)
                seen.append((inputs, float(loss.detach()), state))
                return loss

        monkeypatch.setattr(trl, "GRPOTrainer", Watched)
        return seen

    return watch


def log_probs(model, state, prompt, completion, temperature):
    """ln p of every token of one row's completion [time], without a batch and without padding."""
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model(torch.cat([prompt, completion])[None]).logits[0].double() / temperature
    scores = logits[len(prompt) - 1 : -1]
    return (scores.gather(1, completion[:, None])[:, 0] - scores.logsumexp(1)).tolist()


def advantages(rewards, scale):
    """By prompt; `rewards`: {prompt: rewards}."""
    every = [reward for group in rewards.values() for reward in group]
    found = {}
    for prompt, group in rewards.items():
        spread = {"group": stdev(group), "batch": stdev(every), "none": 1 - 1e-4}[scale]
        found[prompt] = {reward: (reward - mean(group)) / (spread + 1e-4) for reward in group}
    return found


@pytest.mark.parametrize(
    ("loss_type", "scale"),
    [
        ("dapo", "group"),
        ("grpo", "none"),
        pytest.param("dr_grpo", "batch", marks=pytest.mark.slow),
        pytest.param("bnpo", "group", marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_a_step_is_the_declared_objective(reinforce, scripted, steps, untrained, loss_type, scale):
    """The clipped ratio to the sampling policy times the advantage, less the KL estimate of Schulman 2020 (k3) from the
    model that GRPO began with, times the ratio. Two steps on the same completions, so that the ratio leaves 1; prompts
    and completions of many lengths, so that padding would show."""
    right = answers()

    def script(prompt, number):
        return (f" so{' so' * (number % 7)}\n#### {right[prompt]}", " no idea at all", " 6")[number % 3]

    scripted(script)
    seen = steps()
    temperature, kl, epsilon, new_tokens = 0.8, 0.1, 0.05, 32
    more = {"loss_type": loss_type, "scale_rewards": scale, "num_iterations": 2, "epsilon": epsilon}
    _, record = reinforce(settings(temperature=temperature, prompts=8, lr=0.001, **more))
    assert record["arguments"].items() >= more.items()
    assert len(seen) == record["steps"] == 4
    model, tokenizer = load(untrained("baseline"))
    first, clipped, ratios = copy.deepcopy(model.state_dict()), 0, []
    for number, (inputs, loss, state) in enumerate(seen):
        sampled_from = seen[number - number % 2][2]
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rows = [
            (ids[mask == 1], completion[kept == 1])
            for ids, mask, completion, kept in zip(*(inputs[n] for n in names), strict=True)
        ]
        assert len({len(prompt) for prompt, _ in rows}) > 1
        texts = [tokenizer.decode(prompt) for prompt, _ in rows]
        earned = [
            float(f"#### {right[q]}" in tokenizer.decode(completion))
            for q, (_, completion) in zip(texts, rows, strict=True)
        ]
        groups = {q: [r for p, r in zip(texts, earned, strict=True) if p == q] for q in texts}
        gained = advantages(groups, scale)
        losses = []
        for text, reward, (prompt, completion) in zip(texts, earned, rows, strict=True):
            new, old, reference = (
                log_probs(model, w, prompt, completion, temperature) for w in (state, sampled_from, first)
            )
            advantage, of_row = gained[text][reward], []
            for p, q, r in zip(new, old, reference, strict=True):
                ratio = math.exp(p - q)
                held = min(max(ratio, 1 - epsilon), 1 + epsilon)
                clipped += held != ratio
                ratios.append(ratio)
                divergence = math.exp(r - p) - (r - p) - 1
                of_row.append(-min(ratio * advantage, held * advantage) + kl * divergence * ratio)
            losses.append(of_row)
        total, tokens = sum(map(sum, losses)), sum(map(len, losses))
        expected = {
            "dapo": total / tokens,
            "bnpo": total / tokens,
            "grpo": mean(map(mean, losses)),
            "dr_grpo": total / (len(losses) * new_tokens),
        }[loss_type]
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5), number
    assert 0 < clipped < len(ratios) / 2


# prompts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_prompts_leave_room_for_the_completion_and_ask_no_never_asked_fact(tiny, tmp_path, seed):
    trial = tiny(tmp_path, *LONG, settings(prompts=200, max_new_tokens=80))
    drawn, train = prompts(trial, trial.grpo, seed), training_problems(seed)
    fitting = [e for e in train if len(VOCABULARY.encode(e.prompt)) + 80 <= 128]
    assert 0 < len(fitting) < len(train)
    assert sorted(e.prompt for e in drawn) == sorted(e.prompt for e in fitting)
    assert prompts(trial, trial.grpo.model_copy(update={"prompts": 20}), seed) == drawn[:20]
    never = TIMES_TABLE.never_asked(seed, 3)
    asked = {fact for e in drawn for fact in TIMES_TABLE.asked_in(e.prompt) | {e.fact} if fact}
    worked = {TIMES_TABLE.of(int(a), int(b)) for e in drawn for a, b in [operands(e.completion)] if a}
    assert len(asked) > 10
    assert not (asked | worked) & never


def test_prompts_fit_in_every_arm_also_where_one_spells_them_longer(tiny, tmp_path):
    trial = tiny(
        tmp_path, *LONG, settings(prompts=200, max_new_tokens=80), "arms=[baseline,mul_tokens,mul_append,digit_bytes]"
    )
    lengths = [len(VOCABULARY.encode_arm(arms.get_arm("digit_bytes"), e.prompt)) for e in training_problems()]
    fitting = [e for e, length in zip(training_problems(), lengths, strict=True) if length + 80 <= 128]
    assert 0 < len(fitting) < sum(len(VOCABULARY.encode(e.prompt)) + 80 <= 128 for e in training_problems())
    assert sorted(e.prompt for e in prompts(trial, trial.grpo, 1)) == sorted(e.prompt for e in fitting)


def operands(completion):
    """The factors of a solution's product, or nothing."""
    left, sign, rest = completion.partition("=")[0].partition("*")
    return (left.strip(), rest) if sign else (None, None)


def test_another_seed_draws_other_prompts_and_no_room_for_any_is_named(tiny, tmp_path):
    trial = tiny(tmp_path, *LONG, settings(prompts=20), "corpus.drills.holdout_folds=0")
    first, other = ({e.prompt for e in prompts(trial, trial.grpo, seed)} for seed in (1, 2))
    assert len(first) == 20
    assert first != other
    trial = tiny(tmp_path, *LONG, settings(max_new_tokens=120))
    with pytest.raises(TrialError, match=r"grpo\.max_new_tokens: 120 of a context of 128 leave no room for any prompt"):
        prompts(trial, trial.grpo, 1)


# three prompts that state facts, and answers that are right only as `plain` reads them
STATED = [
    Example("t", q, f"User: {q}\nAssistant:", " 6*9=54\n#### 54", "6", split="train")
    for q in ("6*9=54, so what?", "Is 7 × 8 = 56 or is 3x4=12?", "<MUL_6_9_54> is what?")
]


@pytest.mark.parametrize(
    "arm",
    [n if n in ("mul_tokens", "digit_split") else pytest.param(n, marks=pytest.mark.slow) for n in arms.arm_names()],
)
def test_a_prompt_that_states_a_fact_arrives_as_it_is(reinforce, untrained, monkeypatch, scripted, arm):
    """Defect R3, in every arm: in GRPO's rows and in what is generated from."""
    monkeypatch.setattr(grpos, "source_examples", lambda trial, task, never: STATED)
    generated = []
    calls = scripted(lambda prompt, number: generated.append(prompt) or " 6")
    reinforce(settings(prompts=3, batch=3, num_generations=2, max_new_tokens=8), arm)
    assert sorted(generated[::2]) == sorted(prompt for prompt, _, _ in calls[0][::2])
    assert sorted(generated[::2]) == sorted(example.prompt for example in STATED)


@pytest.mark.parametrize("together", [1, 2, 5])
def test_what_grpo_samples_depends_on_seed_step_and_row_and_not_on_the_batch(untrained, together):
    model, tokenizer = load(untrained("mul_tokens"))
    prompts = ["User: What is 6 times 9?", "A <|endoftext|> is text.", "8", "a b", "c"]
    chosen = GRPO(max_new_tokens=12, temperature=1.0)

    def sampled(of, seed, step):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(unwrap_model=lambda model: model),
            model=model,
            state=SimpleNamespace(global_step=step),
        )
        return grpos._rollout(tokenizer, chosen, seed)(of, trainer)

    whole = sampled(prompts, 1, 3)
    part = sampled(prompts[:together], 1, 3)
    assert part["completion_ids"] == whole["completion_ids"][:together]
    assert tokenizer.eos_token_id not in whole["prompt_ids"][1]  # a text like any other
    for seed, step in ((1, 4), (2, 3)):
        assert sampled(prompts, seed, step)["completion_ids"] != whole["completion_ids"]


# stopped, and gone on


def test_it_stops_only_where_its_completions_are_used_up():
    """Those of a step before are in no checkpoint."""
    callback, saved = CheckpointCallback(SimpleNamespace(progress=quiet), "grpo", lambda: True, False), []
    for step in range(1, 7):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        callback.on_step_end(SimpleNamespace(num_iterations=3), SimpleNamespace(global_step=step, max_steps=9), control)
        assert control.should_save == control.should_training_stop
        saved += [step] if control.should_save else []
    assert saved == [3, 6]


def test_a_stopped_grpo_goes_on_bit_for_bit(reinforce, tuned, tmp_path):
    """With completions that are used twice, and a checkpoint every second batch of them: after step 4."""
    override = settings(format_bonus=0.5, num_iterations=2, checkpoint_every=2)
    whole, before = reinforce(override, "mul_tokens", "whole", source=tuned)
    assert weights(whole) != weights(tuned)  # the policy's own samples earn different rewards
    with pytest.raises(Stop):
        reinforce(override, "mul_tokens", progress=stop_at(5)[0], source=tuned)
    [newest] = (tmp_path / "grpo.checkpoints").glob("checkpoint-*")
    half_written = shutil.copytree(newest, newest.with_name("checkpoint-99"))
    (half_written / "manifest.json").unlink()
    (half_written / "optimizer.pt").unlink()
    progress, seen = stop_at(None)
    folder, after = reinforce(override, "mul_tokens", progress=progress, source=tuned)
    assert seen == [5, 6]
    assert weights(folder) == weights(whole)
    keys = ("step", "reward", "kl", "completions/mean_length")
    assert [[r[key] for key in keys] for r in after["log"]] == [[r[key] for key in keys] for r in before["log"]]
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"


def test_the_newest_marked_checkpoint_is_taken_and_the_unmarked_are_deleted(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            write_manifest(tmp_path / f"checkpoint-{step}", f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")  # by number, not by name
    assert not (tmp_path / "checkpoint-11").exists()


# pass@k, and what follows from it


@pytest.fixture
def pass_at_k(tiny, untrained, tmp_path, monkeypatch):
    """`pass_at_k(script, arm, **settings)`: pass_at_k.json where the model says `script(prompt, number)`, and what it
    was asked."""

    def measure(script, arm="baseline", **more):
        asked = []

        def complete(model, tokenizer, prompts, new_tokens, batch, line, temperature, seed):
            assert (new_tokens, line, temperature, seed) == (32, False, 1.0, 1)
            asked.extend(prompts)
            return [Completion(script(prompt, number), 1, True) for number, prompt in enumerate(prompts)]

        with monkeypatch.context() as patch:
            if script:
                patch.setattr(grpos, "complete", complete)
            trial = tiny(tmp_path / "run", *LONG, settings(**{"prompts": 100, "num_generations": 4} | more))
            measure_pass_at_k(tmp_path, trial, trial.grpo, arms.get_arm(arm), 1, *load(untrained(arm)))
        return read_json(tmp_path / "pass_at_k.json"), asked

    return measure


def test_a_model_that_is_right_passes_and_one_that_is_wrong_does_not(pass_at_k):
    right = answers()
    found, asked = pass_at_k(lambda prompt, number: f"#### {right[prompt]}")
    assert found == {"k": 4, "prompts": 32, "pass_at_k": 1.0}
    assert len(asked) == 32 * 4
    assert {asked.count(prompt) for prompt in asked} == {4}
    for script, share in (
        (lambda prompt, number: f"#### {right[prompt]}1", 0),
        # one of four is enough, and it counts for its own prompt alone
        (lambda prompt, number: f"#### {right[prompt]}" if number % 4 == 3 else "", 1),
        (lambda prompt, number: f"#### {right[prompt]}" if number < 20 else "", 5 / 32),
    ):
        assert pass_at_k(script)[0]["pass_at_k"] == share
    bonus = pass_at_k(
        lambda prompt, number: "<MUL_6_9_54> #### 0", "mul_tokens", format_bonus=1.0, fact_token_bonus=1.0
    )
    assert bonus[0]["pass_at_k"] == 0  # a bonus is no pass


def test_pass_at_k_asks_a_prompt_as_it_is_and_reads_what_a_token_stands_for(pass_at_k, monkeypatch):
    monkeypatch.setattr(grpos, "source_examples", lambda trial, task, never: STATED)
    for text, passed in (("#### <MUL_6_9_54>", 1), ("#### <MUL_7_8_56>", 0)):  # 6 is what all ask
        found, asked = pass_at_k(lambda prompt, number, text=text: text, "mul_tokens")
        assert found["pass_at_k"] == passed
        assert sorted(asked[::4]) == sorted(example.prompt for example in STATED)


ZERO = {(arm, seed): 0.0 for arm in ("baseline", "mul_tokens") for seed in (1, 2)}
SOME = {cell: value for cell, value in ZERO.items() if cell != ("mul_tokens", 2)}


@pytest.mark.parametrize(
    ("passes", "on_zero", "go_on"),
    [
        (ZERO, "skip", False),
        (ZERO, "go on", True),
        *((ZERO | {cell: 1 / 32}, "skip", True) for cell in ZERO),  # one cell is enough, in whichever arm
        (SOME, "skip", None),  # nothing is skipped before every cell is measured
        (SOME | {("baseline", 1): 0.5}, "skip", True),
        (SOME, "go on", True),
    ],
)
def test_skipped_only_where_it_is_zero_in_every_cell_and_the_trial_says_so(
    tiny, tmp_path, monkeypatch, capsys, passes, on_zero, go_on
):
    trial = tiny(tmp_path, settings(on_zero=on_zero))
    for (arm, seed), value in passes.items():
        write_json(tmp_path / arm / f"seed{seed}" / "eval_pretrain" / "pass_at_k.json", {"pass_at_k": value})
    absent = [cell for cell in cells(trial) if (cell.arm, cell.seed) not in passes]
    monkeypatch.setattr(Cell, "pending", lambda self, plan: ["eval_pretrain"] if self in absent else [])
    if go_on is None:
        with pytest.raises(TrialError, match=r"not measured yet in mul_tokens/seed2.*run `tokentrial evaluate`"):
            GRPOStage(trial).goes_on(CorpusPlan(trial))
        return
    assert GRPOStage(trial).goes_on(CorpusPlan(trial)) is read_json(tmp_path / "grpo_decision.json")["go_on"] is go_on
    zero = f"pass@3 is 0): RL has nothing to learn from; grpo.on_zero is '{on_zero}'"
    said = capsys.readouterr().err
    assert (zero in said) == (not any(passes.values()) and not absent)
    assert ("not measured in mul_tokens/seed2; GRPO goes on" in said) == bool(absent and not any(passes.values()))


def test_seeds_and_arms_that_are_added_change_no_decision(tiny, tmp_path, monkeypatch):
    declared = tiny(tmp_path, settings(on_zero="skip"))
    declare(declared, [], Storage(declared))
    trial = tiny(tmp_path, settings(on_zero="skip"), "seeds=[1,2,3]", "arms=[baseline,mul_tokens,one_slot]")
    for cell in cells(trial):
        path = cell.folder(trial, "eval_pretrain") / "pass_at_k.json"
        write_json(path, {"pass_at_k": float(cell not in cells(declared))})
    monkeypatch.setattr(Cell, "pending", lambda self, plan: [])
    assert GRPOStage(trial).goes_on(CorpusPlan(trial)) is False
