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

from tests.posttrain.conftest import ARMS, LONG, VOCABULARY, Stop, quiet, stop_at
from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import Completion
from tokentrial.posttrain import grpo as grpos
from tokentrial.posttrain.grpo import grpo, measure_pass, prompts
from tokentrial.posttrain.trainer import Watch, last_complete
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.grpo import GRPOStage
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import write_manifest
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial.settings import GRPO


def settings(**more):
    given = {
        "task": "word_problems",
        "prompts": 12,
        "generations": 3,
        "batch": 4,
        "new_tokens": 32,
        "temperature": 1.0,
        "lr": 0.001,
        "kl": 0.1,
        "checkpoint_every": 1,
    } | more
    return "grpo={" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}"


@pytest.fixture
def reinforce(tiny, tuned, tmp_path):
    """`reinforce(override, arm, name, progress)`: (folder, checkpoints, record) of GRPO on the tuned model."""

    def make(override, arm="baseline", name="grpo", progress=quiet, seed=1):
        trial = tiny(tmp_path / "run", *LONG, override)
        folder, checkpoints = tmp_path / name, tmp_path / f"{name}.checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        grpo(folder, checkpoints, trial, trial.grpo, arms.find(arm), seed, tuned(arm), progress)
        return folder, checkpoints, read_json(folder / "grpo_results.json")

    return make


def answers(seed=1):
    """Every training question's answer, worked out from its solution's last step."""
    found = {}
    for example in WordProblems(200, 1, 0, TIMES_TABLE.never_asked(seed, 3)).examples("train"):
        found[example.prompt] = example.completion.rpartition("=")[2].partition(">>")[2].partition("\n")[0]
    return found


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(say)`: GRPO samples `say(prompt, number)`, its number among all; (prompt, completion, reward) of every
    call of the reward, as the trainer sees them."""
    calls, numbers = [], itertools.count()

    def make(say):
        def continue_ids(model, tokenizer, prompt_ids, *rest):
            texts = [say(tokenizer.decode(ids), next(numbers)) for ids in prompt_ids]
            return [[*tokenizer(text)["input_ids"], VOCABULARY.eos] for text in texts]

        class Scripted(trl.GRPOTrainer):
            def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
                rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
                calls.append(list(zip(prompts, completions, rewards[:, 0].tolist(), strict=True)))
                return rewards

        monkeypatch.setattr(trl, "GRPOTrainer", Scripted)
        monkeypatch.setattr(grpos, "continue_ids", continue_ids)
        return calls

    return make


# the reward of a row is that row's


@pytest.mark.parametrize("arm", ["mul_tokens", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ARMS[::2])])
def test_the_reward_of_a_known_completion_is_that_of_its_own_row(reinforce, scripted, arm):
    """Defect R7: the reference looked answers up by a global counter; with several generations and shuffling its
    reward was noise. Here a third of the completions are right, one is of another row, one says nothing."""
    right = answers()
    questions = sorted(right)

    def say(prompt, number):
        kind = random.Random(number).randrange(3)
        other = next(right[q] for q in questions[number:] + questions if right[q] != right[prompt])
        return (f" so\n#### {right[prompt]}", f" so\n#### {other}", " no idea")[kind]

    calls = scripted(say)
    reinforce(settings(prompts=24), arm)
    assert len(calls) == 6
    rewards = []
    for call in calls:
        asked = [prompt for prompt, _, _ in call]
        assert [asked.count(prompt) for prompt in asked] == [3] * 12
        for prompt, completion, reward in call:
            assert reward == float(completion == f" so\n#### {right[prompt]}"), (prompt, completion)
            rewards.append(reward)
    assert 15 < sum(rewards) < 35
    # a counter over the rows in their order would have been wrong: they come shuffled
    served = [prompt for call in calls for prompt, _, _ in call[::3]]
    assert sorted(served) == sorted(set(served))


def test_rows_come_in_the_same_order_in_every_arm_and_shuffled(reinforce, scripted, tiny, tuned, tmp_path):
    orders = {}
    calls = scripted(lambda prompt, number: "#### 1")
    for arm in ARMS:
        calls.clear()
        reinforce(settings(), arm, arm)
        orders[arm] = [prompt for call in calls for prompt, _, _ in call]
    assert orders["baseline"] == orders["mul_tokens"] == orders["mul_append"]
    trial = tiny(tmp_path, *LONG, settings())
    rows = [e.prompt for e in prompts(trial, trial.grpo, AutoTokenizer.from_pretrained(tuned("baseline")), 1)]
    assert sorted(orders["baseline"][::3]) == sorted(rows)
    assert orders["baseline"][::3] != rows


def test_what_is_rewarded_more_is_said_more(reinforce, scripted, weights, same, tuned):
    """The policy moves where rewards of a prompt differ, and stays where they do not."""
    right = answers()
    scripted(lambda prompt, number: f" #### {right[prompt] if number % 3 else 'no'}")
    folder, _, record = reinforce(settings())
    assert not same(weights(folder), weights(tuned("baseline")))
    assert [round(r["reward"], 6) for r in record["log"]] == [round(2 / 3, 6)] * 3
    assert record["last"]["frac_reward_zero_std"] == 0
    scripted(lambda prompt, number: f" #### {right[prompt]}")
    folder, _, record = reinforce(settings(kl=0), name="equal")
    assert same(weights(folder), weights(tuned("baseline")))
    assert [r["reward"] for r in record["log"]] == [1.0] * 3
    assert record["first"]["frac_reward_zero_std"] == 1


# the objective, in plain formulas


@pytest.fixture
def steps(monkeypatch):
    """Every optimizer step of the GRPOTrainer that `trl` names when this is called: its rows, its loss, the weights."""
    seen = []

    def watch():
        class Watched(trl.GRPOTrainer):
            def compute_loss(self, model, inputs, *rest, **named):
                weights = copy.deepcopy(model.state_dict())
                loss = super().compute_loss(model, inputs, *rest, **named)
                seen.append((inputs, float(loss.detach()), weights))
                return loss

        monkeypatch.setattr(trl, "GRPOTrainer", Watched)
        return seen

    return watch


def log_probs(model, weights, prompt, completion, temperature):
    """ln p of every token of one row's completion [time], without a batch and without padding."""
    model.load_state_dict(weights)
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
    ("loss_type", "scale"), [("dapo", "group"), ("grpo", "none"), ("dr_grpo", "batch"), ("bnpo", "group")]
)
def test_the_loss_of_a_step_is_the_declared_objective(reinforce, scripted, steps, tuned, loss_type, scale):
    """The clipped ratio to the sampling policy times the advantage, less the KL estimate of Schulman 2020 (k3) from the
    model that GRPO began with, times the ratio. Two steps on the same completions, so that the ratio leaves 1; prompts
    and completions of many lengths, so that padding would show."""
    right = answers()

    def say(prompt, number):
        return (f" so{' so' * (number % 7)}\n#### {right[prompt]}", " no idea at all", " 6")[number % 3]

    scripted(say)
    seen = steps()
    temperature, kl, epsilon, new_tokens = 0.8, 0.1, 0.05, 32
    more = {"loss_type": loss_type, "scale_rewards": scale, "num_iterations": 2, "epsilon": epsilon}
    _, _, record = reinforce(settings(temperature=temperature, prompts=8, lr=0.001, **more))
    assert record["arguments"].items() >= more.items()
    assert len(seen) == record["steps"] == 4
    model, tokenizer = load(tuned("baseline"))
    first, clipped, ratios = copy.deepcopy(model.state_dict()), 0, []
    for number, (inputs, loss, weights) in enumerate(seen):
        sampled_from = seen[number - number % 2][2]
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rows = [
            (ids[mask == 1], said[kept == 1]) for ids, mask, said, kept in zip(*(inputs[n] for n in names), strict=True)
        ]
        assert len({len(prompt) for prompt, _ in rows}) > 1
        texts = [tokenizer.decode(prompt) for prompt, _ in rows]
        earned = [float(f"#### {right[q]}" in tokenizer.decode(said)) for q, (_, said) in zip(texts, rows, strict=True)]
        groups = {q: [r for p, r in zip(texts, earned, strict=True) if p == q] for q in texts}
        gained = advantages(groups, scale)
        losses = []
        for text, reward, (prompt, said) in zip(texts, earned, rows, strict=True):
            new, old, reference = (
                log_probs(model, w, prompt, said, temperature) for w in (weights, sampled_from, first)
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


# what is logged


def test_what_is_logged_of_every_step(reinforce, scripted):
    right = answers()
    token = "<MUL_6_9_54>"
    scripted(lambda prompt, number: f"{token * (number % 3)} #### {right[prompt]}")
    _, _, record = reinforce(settings(mul_bonus=0.5), "mul_tokens")
    assert (record["condition"], record["seed"], record["prompts"], record["steps"]) == ("mul_tokens", 1, 12, 3)
    assert record["mul_bonus"] == 0.5
    assert [r["step"] for r in record["log"]] == [1, 2, 3]
    size = [len(VOCABULARY.encode_arm(arms.find("mul_tokens"), f" #### {right[p]}")) + 1 for p in right]
    for logged in (record["first"], record["last"]):
        assert logged["reward"] == pytest.approx(1 + 0.5 * 2 / 3)
        assert logged["fact_tokens"] == pytest.approx(1)  # 0, 1 and 2 of them
        assert logged["truncated"] == 0
        assert logged["frac_reward_zero_std"] == 0
        assert min(size) <= logged["length"] - 1 <= max(size)
        assert logged["kl"] >= 0
    assert record["first"]["kl"] == pytest.approx(0, abs=1e-6)  # the policy is still its reference
    assert record["last"]["kl"] > 1e-6
    assert record["seconds"] > 0


def test_a_completion_that_is_cut_is_counted(reinforce):
    _, _, record = reinforce(settings(new_tokens=2))
    assert record["last"]["truncated"] == 1
    assert record["last"]["length"] == 2


def test_the_policy_s_own_samples_train_it(reinforce, weights, same, tuned):
    """Without a script: the tuned model's samples earn different rewards."""
    folder, _, record = reinforce(settings(format_bonus=0.5, generations=4), "mul_tokens")
    assert any(r["reward_std"] > 0 for r in record["log"])
    assert not same(weights(folder), weights(tuned("mul_tokens")))
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"


# prompts


def test_prompts_are_the_same_in_every_arm_and_leave_room_for_the_completion(tiny, tuned, tmp_path):
    drawn = {}
    for arm in ARMS:
        trial = tiny(tmp_path, *LONG, settings(prompts=200, new_tokens=80))
        drawn[arm] = prompts(trial, trial.grpo, AutoTokenizer.from_pretrained(tuned(arm)), 1)
    assert drawn["baseline"] == drawn["mul_tokens"] == drawn["mul_append"]
    train = WordProblems(200, 1, 0, TIMES_TABLE.never_asked(1, 3)).examples("train")
    fitting = [e for e in train if len(VOCABULARY.encode(e.prompt)) + 80 <= 128]
    assert 0 < len(fitting) < len(train)
    assert sorted(e.prompt for e in drawn["baseline"]) == sorted(e.prompt for e in fitting)
    assert all(e.split == "train" for e in drawn["baseline"])


def test_no_more_prompts_than_asked_for_drawn_by_the_seed(tiny, tuned, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tuned("baseline"))
    trial = tiny(tmp_path, *LONG, settings(prompts=20), "corpus.drills.never_asked_folds=0")
    first, again, other = (prompts(trial, trial.grpo, tokenizer, seed) for seed in (1, 1, 2))
    assert len(first) == 20
    assert first == again
    assert {e.prompt for e in first} != {e.prompt for e in other}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_never_asked_fact_is_not_asked(tiny, tuned, tmp_path, seed):
    trial = tiny(tmp_path, *LONG, settings(prompts=200))
    drawn = prompts(trial, trial.grpo, AutoTokenizer.from_pretrained(tuned("baseline")), seed)
    never = TIMES_TABLE.never_asked(seed, 3)
    asked = {fact for e in drawn for fact in TIMES_TABLE.asked_in(e.prompt) | {e.fact} if fact}
    worked = {TIMES_TABLE.of(int(a), int(b)) for e in drawn for a, b in [operands(e.completion)] if a}
    assert len(asked) > 10
    assert not (asked | worked) & never


def operands(completion):
    """The factors of a solution's product, or nothing."""
    left, sign, rest = completion.partition("=")[0].partition("*")
    return (left.strip(), rest) if sign else (None, None)


def test_no_room_for_any_prompt_is_named(tiny, tuned, tmp_path):
    trial = tiny(tmp_path, *LONG, settings(new_tokens=120))
    with pytest.raises(TrialError, match=r"grpo\.new_tokens: 120 of a context of 128 leave no room for any prompt"):
        prompts(trial, trial.grpo, AutoTokenizer.from_pretrained(tuned("baseline")), 1)


# three prompts that state facts, and answers that are right only as `plain` reads them
STATED = [
    Example("t", q, f"User: {q}\nAssistant:", " 6*9=54\n#### 54", "6", split="train")
    for q in ("6*9=54, so what?", "Is 7 × 8 = 56 or is 3x4=12?", "<MUL_6_9_54> is what?")
]


@pytest.mark.parametrize("arm", arms.names())
def test_a_prompt_that_states_a_fact_arrives_as_it_is(tiny, untrained, tmp_path, monkeypatch, scripted, arm):
    """Defect R3, in every arm: in GRPO's rows, in what is generated from, and in pass@k."""
    monkeypatch.setattr(grpos, "source_rows", lambda trial, task, never: STATED)
    stated = sorted(example.prompt for example in STATED)
    trial = tiny(tmp_path / "run", settings(prompts=3, batch=3, generations=2, new_tokens=8), *LONG)
    asked = []
    monkeypatch.setattr(grpos, "complete", lambda m, t, given, *rest, **named: asked.extend(given) or [])
    with pytest.raises(ValueError, match="zip"):  # nothing is said
        measure_pass(tmp_path, trial, trial.grpo, arms.find(arm), 1, *load(untrained(arm)))
    assert sorted(asked[::2]) == stated
    generated = []
    calls = scripted(lambda prompt, number: generated.append(prompt) or " 6")
    grpo(tmp_path, tmp_path / "c", trial, trial.grpo, arms.find(arm), 1, untrained(arm), quiet)
    assert sorted(generated[::2]) == sorted(prompt for prompt, _, _ in calls[0][::2]) == stated


@pytest.mark.parametrize("together", [1, 2, 5])
def test_what_grpo_samples_depends_on_seed_step_and_row_and_not_on_the_batch(untrained, together):
    model, tokenizer = load(untrained("mul_tokens"))
    prompts = ["User: What is 6 times 9?", "A <|endoftext|> is text.", "8", "a b", "c"]
    chosen = GRPO(new_tokens=12, temperature=1.0)

    def sampled(of, seed, step):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(unwrap_model=lambda model: model),
            model=model,
            state=SimpleNamespace(global_step=step),
        )
        return grpos._rollouts(tokenizer, chosen, seed)(of, trainer)

    whole = sampled(prompts, 1, 3)
    part = sampled(prompts[:together], 1, 3)
    assert part["completion_ids"] == whole["completion_ids"][:together]
    assert tokenizer.eos_token_id not in whole["prompt_ids"][1]  # a text like any other
    for seed, step in ((1, 4), (2, 3)):
        assert sampled(prompts, seed, step)["completion_ids"] != whole["completion_ids"]


# stopped, and gone on


SAMPLED = {"prompts": 20, "format_bonus": 0.5, "generations": 3, "checkpoint_every": 2}


def test_it_stops_only_where_its_completions_are_used_up():
    """Those of a step before are in no checkpoint."""
    watch, saved = Watch(quiet, "grpo", lambda: True, lambda path: None), []
    for step in range(1, 7):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        watch.on_step_end(SimpleNamespace(num_iterations=3), SimpleNamespace(global_step=step, max_steps=9), control)
        assert control.should_save == control.should_training_stop
        saved += [step] if control.should_save else []
    assert saved == [3, 6]


def test_completions_that_are_used_twice_are_gone_on_from_bit_for_bit(reinforce, weights, same):
    twice = settings(prompts=12, format_bonus=0.5, generations=2, num_iterations=2)
    undisturbed, _, _ = reinforce(twice, name="undisturbed")
    with pytest.raises(Stop):
        reinforce(twice, progress=stop_at(4)[0])
    progress, steps = stop_at(None)
    folder, _, _ = reinforce(twice, progress=progress)
    assert steps == [3, 4, 5, 6]
    assert same(weights(folder), weights(undisturbed))


@pytest.mark.parametrize("half_written", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stopped_grpo_goes_on_bit_for_bit(reinforce, tuned, weights, same, tmp_path, half_written):
    undisturbed, _, before = reinforce(settings(**SAMPLED), "mul_tokens", "undisturbed")
    assert not same(weights(undisturbed), weights(tuned("mul_tokens")))
    with pytest.raises(Stop):
        reinforce(settings(**SAMPLED), "mul_tokens", progress=stop_at(5)[0])
    checkpoints = tmp_path / "grpo.checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-4"]
    if half_written:
        shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-5")
        (checkpoints / "checkpoint-5" / "manifest.json").unlink()
        (checkpoints / "checkpoint-5" / "optimizer.pt").unlink()
    progress, steps = stop_at(None)
    folder, _, after = reinforce(settings(**SAMPLED), "mul_tokens", progress=progress)
    assert steps == [5]
    assert same(weights(folder), weights(undisturbed))
    logged = [
        [{k: r[k] for k in ("step", "reward", "kl", "completions/mean_length")} for r in record["log"]]
        for record in (before, after)
    ]
    assert logged[0] == logged[1]


def test_the_newest_marked_checkpoint_is_taken_and_the_unmarked_are_deleted(tmp_path):
    assert last_complete(tmp_path / "none") is None
    for step, whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            write_manifest(tmp_path / f"checkpoint-{step}", f"checkpoint-{step}")
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-10")  # by number, not by name
    assert not (tmp_path / "checkpoint-11").exists()


# pass@k, and what follows from it


@pytest.fixture
def measured(tiny, tuned, tmp_path, monkeypatch):
    """`measured(says, override, arm)`: pass_at_k.json where the model says `says(prompt, number)`."""

    def make(says, override=None, arm="baseline"):
        given = []

        def complete(model, tokenizer, asked, new_tokens, batch, line, temperature, seed):
            assert seed == 1  # the cell's
            given.append((list(asked), new_tokens, line, temperature))
            return [Completion(says(prompt, number), 1, True) for number, prompt in enumerate(asked)]

        monkeypatch.setattr(grpos, "complete", complete)
        trial = tiny(tmp_path / "run", *LONG, override or settings(prompts=100, generations=4))
        measure_pass(tmp_path, trial, trial.grpo, arms.find(arm), 1, *load(tuned(arm)))
        return read_json(tmp_path / "pass_at_k.json"), given

    return make


def test_a_model_that_is_right_passes_and_one_that_is_wrong_does_not(measured):
    right = answers()
    found, [(asked, new_tokens, line, temperature)] = measured(lambda prompt, number: f"#### {right[prompt]}")
    assert found == {"k": 4, "prompts": 32, "pass_at_k": 1.0}
    assert len(asked) == 32 * 4
    assert {asked.count(prompt) for prompt in asked} == {4}
    assert (new_tokens, line, temperature) == (32, False, 1.0)
    assert measured(lambda prompt, number: f"#### {right[prompt]}1")[0]["pass_at_k"] == 0
    # one of four is enough, and it counts for its own prompt alone
    assert measured(lambda prompt, number: f"#### {right[prompt]}" if number % 4 == 3 else "")[0]["pass_at_k"] == 1
    assert measured(lambda prompt, number: f"#### {right[prompt]}" if number < 20 else "")[0]["pass_at_k"] == 5 / 32
    assert measured(lambda prompt, number: f"#### {right[prompt]}", arm="mul_tokens")[0]["pass_at_k"] == 1


def test_a_bonus_is_no_pass(measured):
    bonus = settings(prompts=100, format_bonus=1.0, mul_bonus=1.0)
    assert measured(lambda prompt, number: "<MUL_6_9_54> #### 0", bonus, "mul_tokens")[0]["pass_at_k"] == 0


def test_pass_at_k_reads_what_a_token_stands_for(measured, monkeypatch):
    monkeypatch.setattr(grpos, "source_rows", lambda trial, task, never: STATED)
    for said, passed in (("#### <MUL_6_9_54>", 1), ("#### <MUL_7_8_56>", 0)):  # 6 is what all ask
        assert measured(lambda prompt, number, said=said: said, arm="mul_tokens")[0]["pass_at_k"] == passed


def test_samples_are_drawn_at_the_trial_s_temperature_from_the_seed(tiny, tuned, tmp_path):
    trial = tiny(tmp_path / "run", *LONG, settings(prompts=100, generations=4))
    found = []
    for _ in range(2):
        torch.rand(3)  # whatever was drawn before
        measure_pass(tmp_path, trial, trial.grpo, arms.find("baseline"), 1, *load(tuned("baseline")))
        found.append(read_json(tmp_path / "pass_at_k.json"))
    assert found[0] == found[1]


@pytest.fixture
def decided(tiny, tmp_path, monkeypatch):
    """`decided(passes, on_zero, pending)`: whether GRPO goes on of these pass@k by cell, and what it wrote."""

    def make(passes, on_zero, pending=()):
        trial = tiny(tmp_path, settings(on_zero=on_zero))
        for (arm, seed), value in passes.items():
            write_json(tmp_path / arm / f"seed{seed}" / "eval_pretrain" / "pass_at_k.json", {"pass_at_k": value})
        absent = [cell for cell in cells(trial) if (cell.arm, cell.seed) not in passes]
        monkeypatch.setattr(Cell, "pending", lambda self, plan: ["eval_pretrain"] if self in absent else [])
        return GRPOStage(trial).goes_on(CorpusPlan(trial)), read_json(tmp_path / "grpo_decision.json")

    return make


ZERO = {(arm, seed): 0.0 for arm in ("baseline", "mul_tokens") for seed in (1, 2)}


def test_skipped_only_where_it_is_zero_in_every_cell_and_the_trial_says_so(decided, capsys):
    go_on, written = decided(ZERO, "skip")
    assert go_on is written["go_on"] is False
    assert written["pass_at_k"] == {f"{arm}/seed{seed}": 0.0 for arm, seed in ZERO}
    said = capsys.readouterr().err
    assert "pass@3 is 0" in said
    assert "RL has nothing to learn from; grpo.on_zero is 'skip'" in said
    assert decided(ZERO, "go on")[0] is True
    assert "grpo.on_zero is 'go on'" in capsys.readouterr().err
    for cell in ZERO:  # one cell is enough, in whichever arm
        assert decided(ZERO | {cell: 1 / 32}, "skip")[0] is True
    assert capsys.readouterr().err == ""


def test_nothing_is_skipped_before_every_cell_is_measured(decided):
    some = {cell: value for cell, value in ZERO.items() if cell != ("mul_tokens", 2)}
    with pytest.raises(TrialError, match=r"not measured yet in mul_tokens/seed2.*run `tokentrial evaluate`"):
        decided(some, "skip")
    assert decided(some | {("baseline", 1): 0.5}, "skip")[0] is True
