"""Small exported models to train on: one that is untrained, one that has learnt the form of a solution."""

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.posttrain.sft import sft
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

CONTEXT = 128
ARMS = ("baseline", "mul_tokens", "mul_append")
VOCABULARY = Vocabulary(256, 45)

LONG = (
    "pretrain.context=128",
    "pretrain.micro_batch=32",
    "tasks.word_problems={rows: 200, steps: 1}",
    "evaluate.solution_tokens=40",
)


def quiet(share, text):
    """Progress that nobody looks at."""


class Stop(Exception):
    """What a test stops a training by."""


def stop_at(step):
    """Progress that raises after so many steps, and the steps it saw."""
    seen = []

    def progress(share, text):
        seen.append(int(text.rpartition(" ")[2]))
        if seen[-1] == step:
            raise Stop

    return progress, seen


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """`untrained(arm)`: folder of an exported model with the same random weights in every arm."""
    made = {}

    def make(arm):
        if arm not in made:
            made[arm] = tmp_path_factory.mktemp("untrained") / arm
            model = GPT(Config(VOCABULARY.size, 1, 2, 32, CONTEXT), seed=1)
            to_hf(model, VOCABULARY.eos).save_pretrained(made[arm])
            to_transformers(VOCABULARY, arms.get_arm(arm), CONTEXT).save_pretrained(made[arm])
        return made[arm]

    return make


@pytest.fixture(scope="session")
def tuned(tiny, untrained, tmp_path_factory):
    """`tuned(arm)`: folder of the untrained model after a short SFT on one-step word problems."""
    made = {}

    def make(arm):
        if arm not in made:
            folder = made[arm] = tmp_path_factory.mktemp("tuned") / arm
            folder.mkdir()
            stage = "{sources: [{source: word_problems}], epochs: 6, lr: 0.01}"
            trial = tiny(folder, *LONG, f"sft={{stages: [{stage}], batch: 8, max_length: 128, held: 16}}")
            sft(folder, folder / "checkpoints", trial, trial.sft, arms.get_arm(arm), 1, untrained(arm), quiet)
        return made[arm]

    return make


@pytest.fixture
def weights():
    """`weights(folder)`: its tensors by name."""
    from safetensors.torch import load_file

    return lambda folder: load_file(folder / "model.safetensors")


@pytest.fixture
def same():
    """`same(a, b)`: whether two sets of weights are equal bit for bit."""
    return lambda a, b: a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
