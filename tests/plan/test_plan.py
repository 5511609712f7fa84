"""The plan: its hours against what is known of the original report's runs, its disk against what a run
writes, its seeds against the theory of power; and that it touches nothing."""

import json
import re
from importlib.resources import files
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

from tokentrial import devices
from tokentrial.devices import HERE, by_cuda_name, group, parse_prices, this_machine
from tokentrial.errors import SettingsError, TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.plan import plan as plans
from tokentrial.plan.disk import cell_bytes
from tokentrial.plan.power import ASSUMED, Noise, noise_of, seeds
from tokentrial.plan.work import cells_at_a_time, hours, work
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.measure import STEPS, Throughput, measure
from tokentrial.report.results import CellResults, ResultsTable
from tokentrial.run import run as runs
from tokentrial.statistics.power import mde, planning_sd, power
from tokentrial.steps import corpus
from tokentrial.steps.cell import cells
from tokentrial.steps.costs import lengths, vocabulary_size
from tokentrial.steps.evaluate import EvaluateStage
from tokentrial.steps.stage import stage_names
from tokentrial.tasks.gsm8k import GSM8K
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.load import load, shipped
from tokentrial.trial.pretraining import Checkpoint, Pretrain

LOGPROB = "verdict.primary.outcome=pretrain/mul_table/never_asked/choice_logprob"


def hours_of(name, device, *overrides):
    trial = load(name, overrides)
    return hours(trial, work(trial), group(device, {}))


@pytest.fixture
def planned(tokentrial, tmp_path, monkeypatch):
    """`planned(words)`: (exit code, stdout, stderr) of `tokentrial plan` in an empty folder, which stays empty."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        ended = tokentrial("plan", *words)
        assert list(tmp_path.iterdir()) == []
        return ended

    return run


# what is known: the original report's A40, its 4 x H200, its GRPO


def test_the_seeds_50m_run_on_an_a40_took_13_minutes_to_pretrain_8_to_tune_and_3_an_evaluation():
    trial = load("gpt2_50m")
    evaluations = sum(stage.startswith("eval_") for stage in stage_names(trial))
    minutes = {stage: 60 * of for stage, of in hours_of("gpt2_50m", "A40").items()}
    assert minutes["pretrain"] == pytest.approx(13, rel=0.25)
    assert 1 < minutes["sft"] <= 8  # less, as ours pads less
    assert minutes["evaluate"] / evaluations <= 3
    pretraining = work(trial)["pretrain"]  # three forward passes of every token
    assert pretraining.tokens == 190 * 262_144
    assert pretraining.flops == pytest.approx(pretraining.tokens * 0.855e9, rel=0.01)


def test_ten_billion_tokens_take_less_than_the_references_two_and_a_half_hours_on_four_h200():
    """One H100 takes 463,600 tokens a second of ours; the original report's code took 278,000 on an H200."""
    planned = hours_of("gpt2_10b", "4xH200")["pretrain"]
    assert planned == pytest.approx(1e10 / (4 * 463_600) / 3600, rel=0.1)
    assert planned == pytest.approx(2.5 * 278_000 / 463_600, rel=0.1)
    assert corpus.disk_bytes(load("gpt2_10b")) / 1e9 == pytest.approx(2 * 9.97, rel=0.2)  # two bytes a token


def test_the_references_eighty_thousand_rollouts_took_two_hours_and_a_fifth():
    """A thousand prompts of four are 4,000 of them."""
    trial = load("gpt2_10b")
    grpo = hours(trial, {"grpo": work(trial)["grpo"]}, group("H200", {}))["grpo"]
    assert grpo * 80_000 / (trial.grpo.prompts * trial.grpo.num_generations) == pytest.approx(2.2, rel=0.25)


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8ks_published_lengths_are_those_of_its_rows(shared_data, split):
    vocabulary, known = Vocabulary(50_000, len(TIMES_TABLE)), lengths(load("gpt2_50m"), "gsm8k", split)
    rows = GSM8K(f"path:{shared_data}/gsm8k").examples(split)
    assert known.rows == len(rows)
    sample = rows[:1280]
    prompts = [len(vocabulary.encode(row.prompt)) for row in sample]
    completions = [len(vocabulary.encode(row.completion)) + 1 for row in sample]
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    assert known.prompt == pytest.approx(fmean(prompts), rel=0.02)
    assert known.completion == pytest.approx(fmean(completions), rel=0.02)
    longest = fmean(max(whole[i : i + 16]) for i in range(0, len(whole), 16))
    assert known.longest_of(16) == pytest.approx(longest, rel=0.05)


def test_gsm8k_of_ones_own_is_planned_by_its_own_rows(tmp_path):
    rows = [{"question": f"Ann has {i} pens. How many?", "answer": f"{i}\n#### {i}"} for i in range(12)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trial = load("gpt2_50m", [f"tasks.gsm8k=path:{tmp_path}"])
    for split in ("train", "test"):
        known = lengths(trial, "gsm8k", split)
        assert (known.rows, known.row < 40) == (12, True)


# the model's counts


def test_the_parameters_are_the_models():
    layers, heads, width, context, vocabulary = 3, 3, 96, 128, 877
    settings = Pretrain(n_layer=layers, n_head=heads, n_embd=width, context=context, batch_tokens=2048, micro_batch=1)
    model = GPT(Config(vocabulary, layers, heads, width, context), 0)
    assert settings.parameters(vocabulary) == to_hf(model, 0).num_parameters()


def test_several_gpus_share_pretraining_alone_and_are_all_paid_for():
    trial = load("gpt2_10b")
    one, eight = (plans.costs(trial, group(name, {"A40": 0.5})) for name in ("A40", "8xA40"))
    assert eight["hours_per_cell"]["pretrain"] == pytest.approx(one["hours_per_cell"]["pretrain"] / 8, rel=0.01)
    assert eight["hours_per_cell"]["grpo"] == one["hours_per_cell"]["grpo"]
    assert eight["dollars"] == pytest.approx(eight["hours"] * 8 * 0.5)
    assert eight["tokens_per_s"] == pytest.approx(8 * one["tokens_per_s"])


def test_a_cpu_works_at_as_many_cells_as_it_has_cores():
    trial = load("smoke")  # six cells
    two = this_machine({}).device._replace(workers=2)
    costs = [plans.costs(trial, devices.Group(1, two._replace(workers=workers))) for workers in (1, 2)]
    alone, both = (cost["hours"] - cost["corpus_hours"] for cost in costs)
    assert alone == pytest.approx(2 * both)


# memory and disk


def test_the_gpu_holds_sixteen_bytes_a_parameter_and_activations():
    """Micro-batches of 16 x 1024 at 34 bytes a token, width and layer (Korthikanti et al. 2022): 5.1 GB."""
    trial = load("gpt2_50m", ["sft=null", "grpo=null", "verdict.secondary=[]"])
    activations = 34 * 16 * 1024 * 768 * 12
    expected = 16 * trial.pretrain.parameters(vocabulary_size(trial)) + activations
    assert 1 < plans.costs(trial, group("A40", {}))["gpu_memory_gb"] - expected / 1e9 < 2


def test_the_disk_is_planned_for_what_a_run_writes(climbed):
    """Not less, and not twice as much: models, results and samples of every cell."""
    folders = [climbed.folder / cell.arm / f"seed{cell.seed}" for cell in cells(climbed)]
    written = sum(path.stat().st_size for cell in folders for path in cell.rglob("*") if path.is_file())
    planned = cell_bytes(climbed, [stage_names(climbed)] * len(folders), workers=0)
    assert written <= planned <= 2 * written


def test_an_evaluation_of_more_facts_takes_more_disk():
    few, many = (load("smoke", [f"facts.range=[1,{last}]"]) for last in (9, 12))
    assert EvaluateStage(many, "pretrain").disk_bytes() > EvaluateStage(few, "pretrain").disk_bytes()


def test_cells_at_work_hold_two_checkpoints_of_a_trainer_each():
    trial = load("gpt2_50m")
    every = [stage_names(trial)] * 9
    one, two = (cell_bytes(trial, every, workers) for workers in (1, 2))
    assert two - one == 2 * 12 * trial.pretrain.parameters(vocabulary_size(trial))


def test_a_short_pretraining_keeps_no_checkpoint_and_a_long_one_two_and_every_kept_one():
    settings = Pretrain(steps=2_000, checkpoint=Checkpoint(interval=500, keep_every=1_000))
    one = 12 * settings.parameters(50_349)
    assert settings.checkpoint_bytes(50_349) == (2 + 2) * one
    assert settings.model_copy(update={"steps": 500}).checkpoint_bytes(50_349) == 0


def test_a_run_asks_the_disk_for_what_the_plan_says(finished_copy, tiny, inline, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "need_disk", lambda folder, needed, what, reserve: asked.append(needed))
    monkeypatch.setattr("tokentrial.run.run.run_cell", lambda *given: None)
    trial = tiny(finished_copy, "seeds=[1,2,3]", "workers=1")
    runs.run(trial, ["corpus", "pretrain"])
    assert asked == [cell_bytes(trial, [["pretrain"]] * 2, workers=1)]


# seeds and money


@pytest.fixture
def pilot(tmp_path):
    """`pilot(trial, differences)`: a run's table of results, in which the primary outcome differs so by seed."""

    def make(trial, differences):
        (tmp_path / "pilot").mkdir(exist_ok=True)
        table = ResultsTable(tmp_path / "pilot")
        for seed, difference in enumerate(differences):
            for arm, value in zip(trial.verdict.primary.arms, (0.5 + difference, 0.5), strict=True):
                table.add(arm, seed, "pretrain", CellResults({trial.verdict.primary.outcome: value}), [])
        table.close()
        (tmp_path / "pilot" / "declared.json").write_text(
            json.dumps({"declaration": {"verdict": trial.verdict.model_dump(mode="json")}})
        )
        return tmp_path / "pilot"

    return make


def test_the_seeds_needed_are_the_fewest_that_find_the_declared_effect():
    found = seeds(load("pilot"), ASSUMED)
    assert (found["smallest_effect"], found["planning_sd"]) == (0.10, 0.25)  # what is assumed stands
    assert power(0.10, 0.25, found["needed"]) >= 0.8 > power(0.10, 0.25, found["needed"] - 1)
    assert found["mde80"] == pytest.approx(mde(0.25, len(load("pilot").seeds)))


@pytest.mark.parametrize("differences", [[0.1, 0.3], [0.1, 0.4, 0.2], [0.1, 0.2, 0.5, 0.3, 0.2, 0.4, 0.1]])
def test_the_noise_of_a_pilot_is_planned_with_its_upper_bound_by_the_number_of_its_seeds(pilot, differences):
    trial = load("pilot")
    noise = noise_of(trial, None, pilot(trial, differences))
    assert noise.sd == pytest.approx(stdev(differences))
    assert noise.planning_sd == pytest.approx(planning_sd(stdev(differences), len(differences)))
    assert noise_of(trial, 0.3, None).planning_sd == 0.3  # what is given stands


def test_the_noise_of_accuracy_is_assumed_of_no_other_metric(pilot):
    """Nor is its smallest effect, which has another unit."""
    trial = load("pilot", [LOGPROB])
    unknown = seeds(trial, noise_of(trial, None, None))
    assert {unknown[key] for key in ("noise_sd", "planning_sd", "needed", "mde80", "power", "smallest_effect")} == {
        None
    }
    noise = noise_of(trial, None, pilot(trial, [0.1, 0.9, 0.4]))
    known = seeds(trial, noise)
    assert known["mde80"] == pytest.approx(mde(noise.planning_sd, 6))
    assert (known["needed"], known["power"]) == (None, None)
    declared = load("pilot", [LOGPROB, "verdict.primary.smallest_effect=0.8"])
    assert seeds(declared, noise)["needed"] > 2
    [row, *_] = plans.budget(trial, 9, [group("A40", {})], noise_of(trial, None, None))
    assert (row["effect80"], row["enough"]) == (None, False)


def test_a_pilot_that_cannot_tell_the_noise_is_refused(tmp_path, pilot):
    trial = load("pilot")
    with pytest.raises(TrialError, match=r"run `tokentrial report .*absent` first"):
        noise_of(trial, None, tmp_path / "absent")
    folder = pilot(trial, [0.1, 0.2])
    with pytest.raises(SettingsError, match="it has no outcome pretrain/mul_table/never_asked/choice_logprob"):
        noise_of(load("pilot", [LOGPROB]), None, folder)


def has_warning(*overrides, sd):
    trial, where = load("pilot", overrides), [group("A40", {})]
    return any(
        "No improvement would be found" in note for note in plans.plan(trial, where, Noise(sd, "given"))["notes"]
    )


def test_seeds_that_find_no_possible_effect_are_warned_of():
    """Whoever knows no arithmetic echoes the larger operand and is right in 17 of 81: 0.79 is left above it."""
    whole = "verdict.primary.outcome=pretrain/mul_table/all/accuracy"
    edge = (1 - 17 / 81) / mde(1.0, 6)
    assert has_warning(whole, sd=1.01 * edge)
    assert not has_warning(whole, sd=0.99 * edge)
    assert has_warning("seeds=[1,2,3]", sd=0.365)  # 1.19 of accuracy: what the gpt2 trials once declared
    assert has_warning("verdict.smallest_effect=0.95", sd=0.01)
    assert not has_warning(LOGPROB, sd=10.0)  # has no end


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("gpt2_")])
def test_the_gpt2_trials_declare_what_their_seeds_find_by_the_noise_that_they_name(name):
    """A guess among the table's products has ln P -3.58."""
    trial = load(name)
    finds = mde(0.45, len(trial.seeds))
    assert finds <= trial.verdict.margin(trial.verdict.primary) <= 1.1 * finds < 3.58 / 2
    assert "sd 0.45" in (files("tokentrial") / "trials" / f"{name}.yaml").read_text()


def test_looks_are_planned_with_their_boundaries_and_the_seeds_to_expect():
    twelve = ("seeds=[1,2,3,4,5,6,7,8,9,10,11,12]", "verdict.smallest_effect=0.5")
    by_looks = seeds(load("pilot", [*twelve, "verdict.looks=[6,12]"]), ASSUMED)
    assert by_looks["boundaries"] == pytest.approx((4.65, 2.243), abs=0.005)  # of 4 million draws
    assert by_looks["power"] > 0.99
    fourteen = ("seeds=[1,2,3,4,5,6,7,8,9,10,11,12,13,14]", "verdict.smallest_effect=0.5")
    spare = seeds(load("pilot", [*fourteen, "verdict.looks=[6,12]"]), ASSUMED)
    assert spare == by_looks  # no test uses seeds beyond the last look
    assert 6 < by_looks["mean_seeds"] < 10  # half of the trials and more stop at 6
    at_once = seeds(load("pilot", twelve), ASSUMED)
    assert at_once["power"] == pytest.approx(power(0.5, 0.25, 12))
    assert at_once["boundaries"] is None


@pytest.mark.parametrize("device", ["A40", "4xA100-80"])
def test_a_budget_buys_as_many_seeds_as_it_holds_and_no_more(device):
    trial = load("gpt2_1b")
    rows = plans.budget(trial, 300, [group(device, {})], Noise(0.4, "given"))
    sizes = [(size, arms) for size in ("50M", "200M", "1B", "10B") for arms in (3, 2)]
    assert [(row["size"], len(row["arms"])) for row in rows] == sizes
    for row in rows:
        spent = row["dollars_corpus"] + row["seeds"] * row["dollars_a_seed"]
        assert spent <= 300 < spent + row["dollars_a_seed"]
        assert row["effect80"] == mde(0.4, row["seeds"])
        assert row["enough"] == (row["seeds"] >= 3)  # 1.5 nats
    # a size costs what its own trial does
    own = plans.costs(load("gpt2_10b", ["seeds=[1]"]), group(device, {}))["dollars"]
    assert rows[6]["dollars_a_seed"] + rows[6]["dollars_corpus"] == pytest.approx(own, rel=0.02)


@pytest.mark.parametrize(
    "family",
    [
        ["sweep={pretrain.n_layer: [6, 12]}", "robustness_reruns=[budget.match=bytes]"],
        ["tune={grid: {pretrain.lr: [0.0003, 0.0006]}, seeds: [101, 102]}"],  # of seeds of its own, once
    ],
)
def test_a_budget_pays_for_what_the_plan_prices_variants_and_idle_workers_included(family):
    """Three workers take four cells in two turns."""
    where = group("A40", {})
    where = where._replace(device=where.device._replace(workers=3))

    def price(count):
        overrides = [*family, "corpus.tokens=budget", f"seeds={[*range(1, count + 1)]}"]
        made = plans.plan(load("gpt2_50m", overrides), [where], ASSUMED)
        return sum(part["devices"]["A40"]["dollars"] for part in (made, *made["variants"]))

    for dollars in (0.99 * price(4), 1.01 * price(4)):
        row = plans.budget(load("gpt2_50m", family), dollars, [where], ASSUMED)[0]
        assert (row["size"], len(row["arms"])) == ("50M", 3)
        assert price(row["seeds"]) <= dollars < price(row["seeds"] + 1)
        assert row["hours"] == pytest.approx(price(row["seeds"]) / where.device.price)


# the device table


def test_a_gpu_is_known_by_its_name_with_its_memory():
    assert by_cuda_name("NVIDIA RTX A4000") is None  # no A40
    assert by_cuda_name("NVIDIA H100 PCIe").name == "H100-PCIe"
    assert by_cuda_name("NVIDIA A100-SXM4-80GB").name == "A100-80"
    for name, gb in {"NVIDIA A100-SXM4-40GB": 40, "NVIDIA A100 80GB PCIe": 80, "Tesla V100-SXM2-16GB": 16}.items():
        assert by_cuda_name(name).memory_gb == gb


def test_small_cells_share_a_gpu_and_large_ones_do_not(monkeypatch):
    monkeypatch.setattr("tokentrial.plan.work.cores", lambda: 16)
    monkeypatch.setattr("tokentrial.plan.work.psutil.virtual_memory", lambda: SimpleNamespace(available=128e9))
    pilot, large = load("pilot"), load("gpt2_50m")
    assert cells_at_a_time(pilot, group("H100", {})) == 16  # one a core: its kernels take microseconds
    assert cells_at_a_time(large, group("H100", {})) == 1  # a pass is 14 PFLOP: it fills the card
    assert cells_at_a_time(pilot, group("2xH100", {})) == 1  # they share each cell
    monkeypatch.setattr("tokentrial.plan.work.psutil.virtual_memory", lambda: SimpleNamespace(available=16e9))
    assert cells_at_a_time(pilot, group("H100", {})) == 4  # 3 GB each of nine tenths of 16


def test_this_machines_gpus_are_those_that_the_driver_lists(monkeypatch, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "information").write_text("Model: \t\t NVIDIA A40\nIRQ: 1\n")
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    found = this_machine({})
    assert (found.number, found.device.tflops, found.device.price) == (2, 149.7, 0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # a job's share of them
    assert this_machine({}).number == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert this_machine({}, "cpu").device.cuda == ""
    # one that the table, or the driver, does not know counts as the slowest
    (tmp_path / "0" / "information").write_text("Model: NVIDIA GeForce RTX 3060\n")
    assert (this_machine({}).number, this_machine({}).device.tflops) == (2, 65.0)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "absent")
    assert (this_machine({}).number, this_machine({}).device.tflops) == (1, 65.0)


@pytest.mark.parametrize(
    ("build", "present", "hiding", "expected"),
    [
        ("2.13.0", "", {}, False),
        ("2.13.0+cu130", "/proc/driver/nvidia/gpus", {}, True),
        ("2.13.0", "/usr/lib/wsl/lib/libcuda.so.1", {}, True),  # WSL2
        ("2.13.0", "/dev/nvidia0", {"CUDA_VISIBLE_DEVICES": "0"}, True),
        ("2.13.0", "/dev/dxg", {}, False),  # WSL2 with a GPU that is not NVIDIA's
        ("2.13.0", "/dev/kfd", {}, False),
        ("2.13.0+rocm7.1", "/dev/kfd", {}, True),
        ("2.13.0+rocm7.1", "/dev/nvidia0", {}, False),
        ("2.13.0+cpu", "/proc/driver/nvidia/gpus", {}, False),  # its torch computes on no GPU
        ("2.13.0", "/dev/nvidia0", {"CUDA_VISIBLE_DEVICES": ""}, False),
        ("2.13.0", "/dev/nvidia0", {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        ("2.13.0+rocm7.1", "/dev/kfd", {"HIP_VISIBLE_DEVICES": "-1"}, False),
    ],
)
def test_a_gpu_is_one_that_is_there_that_is_not_hidden_and_that_torch_computes_on(
    monkeypatch, build, present, hiding, expected
):
    monkeypatch.setattr(devices, "version", lambda package: build)
    monkeypatch.setattr(devices.Path, "exists", lambda path: str(path) == present)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in hiding.items():
        monkeypatch.setenv(name, value)
    assert devices.has_gpu() is expected


def test_a_price_is_given_by_name():
    prices = parse_prices(["A40=0.35", f"{HERE}=0.1"])
    found = group("12xa40", prices)
    assert (found.number, found.device.name, found.device.price) == (12, "A40", 0.35)
    assert this_machine(prices).device.price == 0.1
    assert group("H100", prices).device.priced == "2026-03"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--device A41", "--device A41: .*did you mean A40?"),
        ("--device 0xA40", "--device 0xA40: .*expected 1 or more"),
        ("--device 3xA40 pretrain.micro_batch=8 pretrain.batch_tokens=8192", "--device 3xA40: its GPUs do not share"),
        *((f"--price {price}", "expected NAME=DOLLARS") for price in ("A40", "A40=cheap", "A40=-1", "=0.3", "A40=nan")),
        ("--noise 0.1 --pilot .", "found --noise and --pilot, expected one of them"),
        ("--noise -1", "--noise -1: expected a standard deviation"),
        ("--budget 5 --device V100", "--budget: V100 has no price"),
        ("arms=[baseline,mul_tokens,mul_append,no_such]", "no arm 'no_such'"),
        (
            "verdict.primary.outcome=pretrain/mul_table/aksed/acuracy",
            "does not measure it; did you mean pretrain/mul_table/asked/accuracy?",
        ),
    ],
)
def test_what_cannot_be_planned_is_bad_usage(planned, words, message):
    code, out, err = planned("gpt2_50m", *words.split())
    assert (code, out) == (2, "")
    assert re.search(message.replace("?", "[?]"), err), err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("gpt2_50m --device A40 --price A40=0.35 --budget 300 --noise 0.45",
         ["64k tokens/s in the original", "A40 0.35 (given)", "find 1.47 in", "needs 3 seeds", "GSM8K accuracy stays"]),
        # 0.37 on the A40; the H100 trains 463,600 / 278,000 times faster than the code by which it was so
        ("gpt2_50m --device H100 --device A40", ["its pretraining, H100 0.22;"]),
        ("gpt2_50m pretrain.size=gpt2-xl --device T4 --device H200",
         ["Too little memory: T4; lower pretrain.micro_batch"]),
        ("pilot pretrain.steps=200000", ["sotu holds about", "give more text or corpus.epochs"]),
    ],
)  # fmt: skip
def test_the_tables_say_what_they_rest_on_and_what_is_wrong(planned, words, parts):
    code, out, err = planned(*words.split())
    assert code == 0, err
    shown = " ".join((out + err).split())
    assert all(part in shown for part in parts), shown


def test_this_machine_is_measured_in_real_steps(tiny, tmp_path):
    trial = tiny(tmp_path / "run")
    seen = measure(trial.pretrain, vocabulary_size(trial))
    assert seen.steps == STEPS == 20
    assert seen.tokens_per_s > 0


def test_a_measured_speed_takes_the_place_of_the_assumed_one(monkeypatch):
    monkeypatch.setattr("tokentrial.pretrain.measure.measure", lambda *given: Throughput(7_000.0, 20))
    trial = load("pilot")
    [here] = plans.measured(trial, plans.chosen_groups(trial, [HERE], {}), {})
    assert plans.costs(trial, here)["tokens_per_s"] == pytest.approx(7_000 * here.device.workers)
    assert here.device.source == "measured in 20 steps: 7,000 tokens/s a worker"


# the command


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_trial_has_a_plan_and_nothing_is_written(planned, name):
    code, out, err = planned(name, "--json")
    made, trial = json.loads(out), load(name)
    ladder = [stage for stage in ("sft", "grpo") if getattr(trial, stage)]
    assert (code, err, made["trial"]) == (0, "", name)
    assert {"tokens", "flops", "disk_peak_gb", "devices", "seeds_needed", "assumptions"} <= made.keys()
    assert {"A40", "4xA100-80", "8xA100-80", "H100", "H200", "4090", "L4", HERE} <= made["devices"].keys()
    for cost in made["devices"].values():
        assert {"hours_per_cell", "hours", "dollars", "gpu_memory_gb"} <= cost.keys()
        assert cost["hours_per_cell"].keys() == {"pretrain", "export", "evaluate", *ladder}
        assert cost["hours"] > sum(cost["hours_per_cell"].values()) > 0


def test_a_sweep_and_a_rerun_are_planned_beside_the_trial_each_as_the_trial_it_is(planned):
    family = (
        "gpt2_50m",
        "sweep={pretrain.n_layer: [6, 12]}",
        "robustness_reruns=[budget.match=bytes]",
        "--device",
        "A40",
    )
    made, alone, smaller = (
        json.loads(planned(*words, "--device", "A40", "--json")[1])
        for words in (family[:-2], family[:1], ("gpt2_50m", "pretrain.n_layer=6"))
    )
    names = ["sweep pretrain.n_layer=6", "also budget.match=bytes"]  # 12 layers: the trial itself
    assert [(row["name"], row["cells"]) for row in made["variants"]] == [(names[0], 9), (names[1], 6)]
    assert made["devices"] == alone["devices"]
    assert made["variants"][0]["devices"]["A40"]["hours"] == smaller["devices"]["A40"]["hours"]
    total = sum(part["devices"]["A40"]["hours"] for part in (made, *made["variants"]))
    [line] = [line for line in planned(*family)[1].splitlines() if line.split()[:2] == ["all", "24"]]
    assert f"{total:.2f}" in line
