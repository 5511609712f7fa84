"""Small exported models to train on: one that is untrained, one that has learnt the form of a solution."""

import shutil
from functools import cache

import pytest
from safetensors.torch import load_file

from tokentrial.arms import arm as arms
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.posttrain.grpo import grpo
from tokentrial.posttrain.sft import sft
from tokentrial.posttrain.trainer import PostTraining
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.store.files import read_json
from tokentrial.tasks.word_problems import WordProblems
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


def training_problems(seed=1):
    """The word problems that the trials of these tests train a seed on."""
    return WordProblems(200, 1, 0, TIMES_TABLE.never_asked(seed, 3)).examples("train")


def weights(folder):
    """The bytes of a model's weights, by which two are the same bit for bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """`untrained(arm)`: folder of an exported model with the same random weights in every arm."""

    @cache
    def export(arm):
        folder = tmp_path_factory.mktemp("untrained") / arm
        to_hf(GPT(Config(VOCABULARY.size, 1, 2, 32, CONTEXT), seed=1), VOCABULARY.eos).save_pretrained(folder)
        to_transformers(VOCABULARY, arms.get_arm(arm), CONTEXT).save_pretrained(folder)
        return folder

    return export


@pytest.fixture(scope="session")
def train_stage(tiny):
    """`train_stage(stage, folder, source, arm, seed, overrides, progress)`: the record of SFT or GRPO of the model in
    `source`, with checkpoints beside `folder`."""

    def train(stage, folder, source, arm, seed, overrides, progress=quiet):
        trial = tiny(folder.with_name("run"), *LONG, *overrides)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoints = folder.with_name(f"{folder.name}.checkpoints")
        job = PostTraining(folder, checkpoints, trial, arms.get_arm(arm), seed, source, progress)
        {"sft": sft, "grpo": grpo}[stage](job, getattr(trial, stage))
        return read_json(folder / f"{stage}_results.json")

    return train


@pytest.fixture(scope="session")
def tuned(train_stage, untrained, tmp_path_factory):
    """Folder of the untrained model after a short SFT of mul_tokens on one-step word problems."""
    folder = tmp_path_factory.mktemp("tuned") / "sft"
    stage = "{sources: [{source: word_problems}], epochs: 6, lr: 0.01}"
    override = f"sft={{stages: [{stage}], batch: 8, max_length: 128, held: 16}}"
    train_stage("sft", folder, untrained("mul_tokens"), "mul_tokens", 1, [override])
    return folder
