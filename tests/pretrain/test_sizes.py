"""The trials of the original report's sizes: their budgets and shapes, and two steps of each on a shrunken model."""

import pytest
import yaml

from tokentrial.errors import SettingsError
from tokentrial.run.run import run
from tokentrial.steps.cell import cells
from tokentrial.store.files import read_json
from tokentrial.trial.load import load, shipped

# steps and tokens a step, as the original report and its repository give them
BUDGETS = {
    "gpt2_50m": (190, 262_144),
    "gpt2_200m": (763, 262_144),
    "gpt2_1b": (2_000, 524_288),
    "gpt2_10b": (19_073, 524_288),
}
SHAPES = {  # layers, heads, width and parameters of Radford et al. 2019, table 2 (recounted: the table's are off)
    "gpt2": (12, 12, 768, 124e6),
    "gpt2-medium": (24, 16, 1024, 355e6),
    "gpt2-large": (36, 20, 1280, 774e6),
    "gpt2-xl": (48, 25, 1600, 1558e6),
}
SHRUNKEN = (
    "arms=[baseline,mul_tokens]",
    "seeds=[1]",
    "tokenizer.merges=256",
    "corpus.val_share=0.2",
    "corpus.epochs=20",
    "corpus.drills.share=0.6",  # two steps of 2 % would not serve every fact, and the audit would say so
    "sft=null",
    "grpo=null",
    "evaluate.tasks=[]",
    "verdict.secondary=[]",
    "pretrain.n_layer=1",
    "pretrain.n_head=2",
    "pretrain.n_embd=32",
    "pretrain.context=64",
    "pretrain.steps=2",
    "pretrain.batch_tokens=16384",
    "pretrain.micro_batch=4",
    "pretrain.probes=0",
    "pretrain.device=cpu",
)


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("gpt2_")])
def test_a_size_is_the_seed_reports(name):
    trial = load(name)
    assert (trial.pretrain.steps, trial.pretrain.batch_tokens) == BUDGETS[name]
    shape = trial.pretrain
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.context) == (12, 12, 768, 1024)
    assert trial.tokenizer.merges == 50_000
    assert (shape.optimizer, shape.schedule, shape.lr, shape.min_lr_ratio) == ("adamw", "cosine", 6e-4, 0.1)
    assert (shape.betas, shape.weight_decay, shape.grad_clip) == ((0.9, 0.95), 0.1, 1.0)
    assert 0.04 <= shape.warmup_ratio <= 0.05
    assert shape.checkpoint.interval == 500
    assert trial.corpus.drills.holdout_folds == 0  # as in the original report, every fact is asked


@pytest.mark.parametrize("name", ["gpt2_50m", *(pytest.param(n, marks=pytest.mark.slow) for n in [*BUDGETS][1:])])
def test_two_steps_of_a_size_on_a_shrunken_model(name, source, tmp_path, inline):
    trial = load(name, [f"corpus.source=jsonl:{source}", f"output={tmp_path / 'run'}", *SHRUNKEN])
    run(trial, ("corpus", "pretrain", "export"))
    for cell in cells(trial):
        results = read_json(cell.folder(trial, "pretrain") / "results.json")
        assert (results["total_steps"], results["total_tokens"]) == (2, 32_768)
        assert (cell.folder(trial, "export") / "model.safetensors").exists()


@pytest.mark.parametrize("size", SHAPES)
def test_one_setting_gives_a_size_of_gpt2(size):
    shape = load("gpt2_1b", [f"pretrain.size={size}"]).pretrain
    *expected, parameters = SHAPES[size]
    assert [shape.n_layer, shape.n_head, shape.n_embd] == expected
    counted = 12 * shape.n_layer * shape.n_embd**2 + (50_257 + shape.context) * shape.n_embd
    assert counted == pytest.approx(parameters, rel=0.01)


def test_what_is_given_counts_before_a_size_and_a_recipe(tmp_path):
    given = ["pretrain.size=gpt2-medium", "pretrain.n_layer=2", "pretrain.recipe=fast"]
    fast = load("gpt2_1b", given)
    assert (fast.pretrain.n_layer, fast.pretrain.n_head, fast.pretrain.n_embd) == (2, 16, 1024)
    chosen = [getattr(fast.pretrain, name) for name in ("optimizer", "schedule", "init", "min_lr_ratio")]
    assert chosen == ["muon", "wsd", "zero_projections", 0.0]
    assert load("gpt2_1b", [*given, "pretrain.schedule=cosine"]).pretrain.schedule == "cosine"
    # a resolved trial reads back as itself
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(fast.model_dump(mode="json")))
    assert load(str(tmp_path / "trial.yaml")) == fast


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"pretrain\.size: found 'gpt3'.*gpt2-medium"):
        load("gpt2_1b", ["pretrain.size=gpt3"])
