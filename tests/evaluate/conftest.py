"""Models without training: one that says what a script says, one whose every word depends on all before it."""

import functools

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.pretrain.export import to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

CONTEXT = 64


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary(256, 45)


@pytest.fixture
def scripted(vocabulary):
    """`scripted(arm, says)`: (model, tokenizer). `says(position)` are ids, the likeliest first: what the model gives
    after the token at this position. Blocks add nothing; position p lies along axis p, and so do its ids' rows. The
    last norm's bias undoes its shift, so that an axis says nothing of the others."""

    def make(arm, says, vocabulary=vocabulary):
        model = GPT(Config(vocabulary.size, 1, 1, CONTEXT, CONTEXT), seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith("ln_f"):
                    parameter.zero_()
            model.wpe.weight.copy_(100 * torch.eye(CONTEXT))
            model.ln_f.bias.fill_((CONTEXT - 1) ** -0.5)  # mean over deviation of a vector with one entry
            for position in range(CONTEXT):
                for rank, token in enumerate(says(position)):
                    model.wte.weight[token, position] = 2.0 - 0.5 * rank
        treatment = arms.get_arm(arm)
        return to_hf(model, vocabulary.eos), to_transformers(vocabulary, treatment, CONTEXT), treatment

    return make


@pytest.fixture
def babbling(vocabulary):
    """`babbling(arm)`: (model, tokenizer, arm), weights drawn so wide that no two prompts get the same answer."""

    def make(arm):
        model = GPT(Config(vocabulary.size, 2, 2, 32, CONTEXT), seed=0)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.4)
        treatment = arms.get_arm(arm)
        return to_hf(model, vocabulary.eos), to_transformers(vocabulary, treatment, CONTEXT), treatment

    return make


@pytest.fixture
def rows_given():
    """`rows_given(model)`: a list to which every forward pass from here on adds the rows of ids that it is given."""

    def spy(model):
        given, forward = [], model.forward

        @functools.wraps(forward)
        def spied(input_ids, **more):
            given.append(input_ids.tolist())
            return forward(input_ids, **more)

        model.forward = spied
        return given

    return spy
