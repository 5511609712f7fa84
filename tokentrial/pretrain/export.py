"""Out to Hugging Face and in from it: GPT2LMHeadModel and tokenizer, not exported unless its logits are those of the
trained model; and a model that begins with the weights of such a checkpoint.

The original report's code transposed only the weights whose shapes differed, so every square `c_proj` went out wrong
and every number measured on it was void (defect R1).
"""

import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.store.files import read_json, write_bytes
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.pretraining import weights_name

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

# of the largest logit: fp32 leaves about 8e-7 of it, a weight that went out wrong a hundredth and more
TOLERANCE = 2e-5
# transformers keeps GPT-2's Conv1D: these weights stand there as [in, out]
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def load_gpt(folder: Path, steps: int | None = None) -> GPT:
    """The trained model of a `pretrain` folder, on the CPU in fp32, at its end or after so many steps."""
    results = read_json(folder / "results.json")
    shape = results["gpt_config"]
    config = Config(shape["vocab_size"], shape["n_layer"], shape["n_head"], shape["n_embd"], shape["block_size"])
    model = GPT(config, results["seed"])
    model.load_state_dict(load_file(folder / weights_name(steps or results["total_steps"])))
    return model.eval()


def to_hf(model: GPT, eos: int) -> "GPT2LMHeadModel":
    """The same model as GPT2LMHeadModel, in fp32 on the CPU; the padded rows are trimmed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = model.config
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eos)
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    size = {"n_positions": shape.context, "n_embd": shape.n_embd, "n_layer": shape.n_layer, "n_head": shape.n_head}
    # the name of GELU tanh that transformers computes in one fused operation: `gelu_new` takes eight
    config = GPT2Config(vocab_size=shape.vocab, activation_function="gelu_pytorch_tanh", **size, **drops, **ends)
    exported = GPT2LMHeadModel(config).eval()
    copy_weights(model, exported)
    return exported


def copy_weights(model: GPT, exported: "GPT2LMHeadModel") -> None:
    """Copy a model's weights into one that `to_hf` made of it, on whatever device."""
    state = {
        f"transformer.{name}": tensor.t() if name.endswith(_TRANSPOSED) else tensor
        for name, tensor in model.state_dict().items()
    }
    state["transformer.wte.weight"] = state["transformer.wte.weight"][: model.config.vocab]  # (rows, C) to (vocab, C)
    # strict: a name that is missing or left over is an error here and no weight at random
    exported.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})


def from_hf(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a GPT2LMHeadModel, or of a GPT2Model, by our names, in fp32: the inverse of `to_hf`'s conversion."""
    named = {name.removeprefix("transformer."): tensor.float() for name, tensor in state.items()}
    return {
        name: tensor.t().contiguous() if name.endswith(_TRANSPOSED) else tensor
        for name, tensor in named.items()
        # the head is tied to wte, and old checkpoints hold the causal mask
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


@torch.no_grad()
def load_initial_weights(model: GPT, folder: Path, vocabulary: Vocabulary, arm: Arm) -> None:
    """Give the model the weights of the GPT-2 in `folder`; positions beyond the model's context are cut.

    Rows of ids up to eos are the checkpoint's. What lies behind is new: an arm's own tokens begin as the mean of the
    digits they stand for, or of the words where there are none, every other row as the mean of all (Hewitt 2021: so the
    old ids' probabilities hardly change).
    """
    try:
        files = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
        state = from_hf(dict(chain.from_iterable(file.items() for file in files)))
        old, new = state["wte.weight"][: vocabulary.eos + 1], torch.zeros(model.wte.weight.shape)  # (rows, C)
        new[: vocabulary.size] = old.mean(dim=0)  # the padded rows stay zero
        new[: len(old)] = old
        for token, row in vocabulary.token_ids(arm).items():
            new[row] = old[_source_ids(token, vocabulary, arm)].mean(dim=0)
        state |= {"wte.weight": new, "wpe.weight": state["wpe.weight"][: model.config.context]}
        model.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError, IndexError) as error:
        raise TrialError(
            f"pretrain.from_checkpoint: the weights in {folder} do not match its config.json: "
            f"{' '.join(str(error).split())}"
        ) from None


def _source_ids(token: str, vocabulary: Vocabulary, arm: Arm) -> list[int]:
    """Ids of the digits of what a token stands for, else of its words, of a whole fact those of the answer; of all
    digits where it stands for any fact."""
    text = arm.untokenize(token)
    digits = re.findall(r"[0-9]", text)
    if text and not digits:
        return list(map(int, vocabulary.encode(f" {text.rpartition('=')[2]}")))
    return [vocabulary.ranks[digit.encode()] for digit in digits or "0123456789"]


@torch.no_grad()
def logits_gap(model: GPT, exported: "GPT2LMHeadModel") -> float:
    """Largest difference of the logits on random ids [1, context], as a share of the largest logit."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab, (1, model.config.context), generator=generator).to(model.wte.weight.device)
    logits = model.logits(ids)
    return float((logits - exported(ids).logits).abs().max() / logits.abs().max())


def export(
    folder: Path,
    pretrained: Path,
    arm: Arm,
    vocabulary: Vocabulary,
    trial: str,
    rewrite: bool = True,
    device: str = "cpu",
    steps: int | None = None,
) -> None:
    """Write model, model card and tokenizer into `folder`; with `rewrite` the tokenizer applies the arm itself. The
    logits are held against each other on `device`. With `steps` it is the model after so many, without a card. Raises
    TrialError where the logits do not agree."""
    model = load_gpt(pretrained, steps)
    if broken := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise TrialError(f"{pretrained}: {broken[0]} holds weights that are not finite; lower pretrain.lr, train again")
    exported = to_hf(model, vocabulary.eos)
    gap = logits_gap(model.to(device), exported.to(device))
    if not gap <= TOLERANCE:
        raise TrialError(
            f"{folder}: not exported: logits differ from the trained model's by {gap:.2e} of the largest, expected "
            f"at most {TOLERANCE:.0e}; the conversion of weights is wrong, please report it"
        )
    exported.save_pretrained(folder)
    to_transformers(vocabulary, arm, model.config.context, rewrite).save_pretrained(folder)
    if steps is None:
        card = _card(trial, arm, vocabulary, read_json(pretrained / "results.json"), gap, rewrite)
        write_bytes(folder / "README.md", card.encode())


def _card(trial: str, arm: Arm, vocabulary: Vocabulary, results: dict[str, Any], gap: float, rewrite: bool) -> str:
    """The model card; it says whether a text has to be rewritten before it is given to the tokenizer."""
    if not arm.tokens:
        applied = "The arm writes no tokens."
    elif arm.is_random:
        applied = "The arm draws its tokens at random: the tokenizer does not write them."
    elif not rewrite:
        applied = "The tokenizer does not apply the arm (tokenizer.rewrite was false): give it rewritten text."
    else:
        applied = "The tokenizer applies the arm: facts in a text become their tokens."
    parameters, tokens = results["num_params"], results["total_tokens"]
    merges, eos, base, last = vocabulary.n_merges, vocabulary.eos, vocabulary.base, vocabulary.size - 1
    return f"""---
library_name: transformers
tags: [tokentrial]
---
# {trial}: {arm.name}, seed {results["seed"]}

A GPT-2 ({parameters:,} parameters, {tokens:,} tokens of pretraining) trained by tokentrial as one cell of the trial
`{trial}`. Arm: {arm.summary}. It was trained for an experiment, not for use.

GPT-2's first {merges:,} merges; eos is id {eos}; the arm's tokens are ids {base} to {last}. Logits agree with the
trained model to {gap:.1e} of the largest in fp32. {applied}
"""
