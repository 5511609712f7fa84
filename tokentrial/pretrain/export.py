"""Export to Hugging Face: GPT2LMHeadModel and tokenizer, refused unless its logits are those of the trained model.

The reference experiment transposed only the weights whose shapes differed, so every square `c_proj` went out wrong
and every number measured on it was void (defect R1).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from tokentrial.arms.arm import Arm
from tokentrial.errors import TrialError
from tokentrial.pretrain.checkpoint import weights_name
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.store import read_json, write_bytes
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

TOLERANCE = 1e-4
# transformers keeps GPT-2's Conv1D: these weights stand there as [in, out]
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

_CARD = """---
library_name: transformers
tags: [tokentrial]
---
# {trial}: {arm}, seed {seed}

A GPT-2 ({parameters:,} parameters, {tokens:,} tokens of pretraining) trained by tokentrial as one cell of the trial
`{trial}`. Arm: {summary}. It is an instrument of an experiment, not a model for use.

GPT-2's first {merges:,} merges; eos is id {eos}; the arm's tokens are ids {base} to {last}. Logits agree with the
trained model to {gap:.1e} in fp32. {applied}
"""


def _applied(arm: Arm, rewrite: bool) -> str:
    """Whether a text has to be rewritten before it is given to the tokenizer, for the card."""
    if not arm.tokens:
        return "The arm writes no tokens."
    if arm.draws:
        return "The arm draws its tokens at random: the tokenizer does not write them."
    if not rewrite:
        return "The tokenizer does not apply the arm (tokenizer.rewrite was false): give it rewritten text."
    return "The tokenizer applies the arm: what stands in a text as a fact becomes its token."


def load_gpt(folder: Path) -> GPT:
    """The trained model of a `pretrain` folder, on the CPU in fp32."""
    results = read_json(folder / "results.json")
    shape = results["gpt_config"]
    config = Config(shape["vocab_size"], shape["n_layer"], shape["n_head"], shape["n_embd"], shape["block_size"])
    model = GPT(config, results["seed"])
    model.load_state_dict(load_file(folder / weights_name(results["total_steps"])))
    return model.eval()


def to_hf(model: GPT, eos: int) -> "GPT2LMHeadModel":
    """The same model as GPT2LMHeadModel, in fp32 on the CPU; the padded rows are trimmed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = model.config
    config = GPT2Config(
        vocab_size=shape.vocab,
        n_positions=shape.context,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
        tie_word_embeddings=True,
    )
    exported = GPT2LMHeadModel(config)
    state = {f"transformer.{name}": tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    for name in state:
        if name.endswith(_TRANSPOSED):
            state[name] = state[name].t().contiguous()
    state["transformer.wte.weight"] = state["transformer.wte.weight"][: shape.vocab].clone()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    exported.load_state_dict(state)
    return exported.eval()


def from_hf(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a GPT2LMHeadModel, or of a GPT2Model, by our names, in fp32: the inverse of `to_hf`'s conversion."""
    named = {name.removeprefix("transformer."): tensor.float() for name, tensor in state.items()}
    return {
        name: tensor.t().contiguous() if name.endswith(_TRANSPOSED) else tensor
        for name, tensor in named.items()
        # the head is tied, and old checkpoints hold the causal mask
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


@torch.no_grad()
def logits_gap(model: GPT, exported: "GPT2LMHeadModel", seed: int = 0) -> float:
    """Largest difference of the logits on random ids [4, context]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab, (4, model.config.context), generator=generator)
    return float((model.cpu().float().logits(ids) - exported(ids).logits).abs().max())


def export(folder: Path, pretrained: Path, arm: Arm, vocabulary: Vocabulary, trial: str, rewrite: bool = True) -> None:
    """Write model, model card and tokenizer into `folder`; with `rewrite` the tokenizer applies the arm itself. Raises
    TrialError where the logits do not agree."""
    model = load_gpt(pretrained)
    if broken := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise TrialError(f"{pretrained}: {broken[0]} holds weights that are no numbers; lower pretrain.lr, train again")
    exported = to_hf(model, vocabulary.eos)
    gap = logits_gap(model, exported)
    if not gap <= TOLERANCE:
        raise TrialError(
            f"{folder}: not exported: logits differ from the trained model's by {gap:.2e}, expected at most "
            f"{TOLERANCE:.0e}; the conversion of weights is wrong"
        )
    exported.save_pretrained(folder)
    tokenizer = to_transformers(vocabulary, arm, model.config.context, rewrite)
    tokenizer.save_pretrained(folder)
    results = read_json(pretrained / "results.json")
    card = _CARD.format(
        trial=trial,
        arm=arm.name,
        seed=results["seed"],
        parameters=results["num_params"],
        tokens=results["total_tokens"],
        summary=arm.summary,
        merges=vocabulary.merges,
        eos=vocabulary.eos,
        base=vocabulary.base,
        last=vocabulary.size - 1,
        gap=gap,
        applied=_applied(arm, rewrite),
    )
    write_bytes(folder / "README.md", card.encode())
