"""A model begins with the weights of a checkpoint instead of random ones.

Rows of ids up to eos are the checkpoint's. What lies behind is new: an arm's own tokens begin as the mean of the digits
they stand for, or of the words of an answer without any, every other row as the mean of all (Hewitt 2021: so the old
ids' probabilities hardly change).
"""

import re
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.pretrain.export import from_hf
from tokentrial.pretrain.gpt import GPT
from tokentrial.tokenizer.vocabulary import Vocabulary


@torch.no_grad()
def begin(model: GPT, folder: Path, vocabulary: Vocabulary, arm: Arm) -> None:
    """Give the model the checkpoint's weights; positions beyond its context are cut."""
    try:
        files = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
        state = from_hf(dict(chain.from_iterable(file.items() for file in files)))
        old, new = state["wte.weight"][: vocabulary.eos + 1], torch.zeros(model.wte.weight.shape)
        new[: vocabulary.size] = old.mean(dim=0)
        new[: len(old)] = old
        for token, row in vocabulary.token_ids(arm).items():
            new[row] = old[_stood_for(token, vocabulary, arm)].mean(dim=0)
        state |= {"wte.weight": new, "wpe.weight": state["wpe.weight"][: model.config.context]}
        model.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError, IndexError) as error:
        raise TrialError(
            f"pretrain.init: the weights in {folder} are not those of its config.json: {' '.join(str(error).split())}"
        ) from None


def _stood_for(token: str, vocabulary: Vocabulary, arm: Arm) -> list[int]:
    """Ids of the digits of a token's fact, else of its answer's words; of all digits where it stands for any fact."""
    fact = arm.facts.by_token.get(token)
    digits = re.findall(r"[0-9]", fact.equation if fact else token)
    if fact and not digits:
        return list(map(int, vocabulary.encode(f" {fact.answer}")))
    return [vocabulary.ranks[digit.encode()] for digit in digits or "0123456789"]
