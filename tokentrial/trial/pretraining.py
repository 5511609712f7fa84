"""The settings of pretraining: GPT-2, how it is trained, and what follows from both in parameters, FLOPs and bytes."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tokentrial.trial.places import CheckpointPlace
from tokentrial.trial.settings import Beta, Count, Decay, Rate, Settings, Share, Times

SHAPE = ("n_layer", "n_head", "n_embd")  # settings of a model's size
# the shapes of Radford et al. 2019: 124M, 355M, 774M and 1558M parameters
_SIZES = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
CHECKPOINT_BYTES = 12  # a parameter: fp32 weights and AdamW's two moments
_LONG = 2e16  # FLOPs of a training: 50 s at 40 % of an H100's peak, half more uncompiled; of a small model longer
_FAST = {"optimizer": "muon", "schedule": "wsd", "init": "zero_projections", "min_lr_ratio": 0.0, "warmup_ratio": 0.02}


class Checkpoint(Settings):
    """What pretraining keeps, to resume where it was stopped."""

    interval: Count = 500
    """steps between checkpoints"""
    keep_last: Count = 1
    """how many of the newest checkpoints are kept"""
    keep_every: Count | None = None
    """steps; the checkpoint at every multiple is kept for good, to study training later"""


class Pretrain(Settings):
    """GPT-2 and how it is trained. Defaults are the original report's 50M-token run."""

    recipe: Literal["reference", "fast"] = "reference"
    """fast: Muon, wsd and zero_projections, unless set otherwise"""
    size: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] = "gpt2"
    """sets n_layer, n_head and n_embd unless they are given"""

    n_layer: Count = 12
    """layers"""
    n_head: Count = 12
    """heads of attention"""
    n_embd: Count = 768
    """width"""
    context: Annotated[int, Field(ge=8, lt=2**63)] = 1024
    """tokens per row (sequence)"""
    steps: Count = 190
    """optimizer steps"""
    batch_tokens: Count = 262_144
    """tokens per optimizer step"""
    micro_batch: Count = 16
    """rows per forward pass; gradients are accumulated over a step"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for the matrices of the layers and AdamW for the rest"""
    lr: Rate = 6e-4
    """AdamW's learning rate at its peak"""
    muon_lr: Rate = 0.02
    """Muon's learning rate at its peak"""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """decay rates of AdamW's two moments"""
    weight_decay: Decay = 0.1
    """AdamW's and Muon's weight decay; per step a weight loses this share times the learning rate"""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """largest norm of the gradient; a longer one is scaled down to it"""
    init: Literal["normal", "zero_projections"] = "normal"
    """how initial weights are drawn"""
    from_checkpoint: CheckpointPlace | None = None
    """a GPT-2 whose weights take the place of random ones: a FOLDER, or OWNER/NAME[@REVISION] on the Hub"""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """learning rate after warm-up: a cosine, or constant and then falling (wsd)"""
    warmup_ratio: Share = 0.05
    """share of the steps over which the learning rate rises"""
    decay_ratio: Share = 0.4
    """with wsd: share of the steps over which the learning rate falls linearly"""
    min_lr_ratio: Share = 0.1
    """learning rate at the end, as a share of its peak"""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: on a GPU bf16, or fp16 if it has no bf16; on a CPU fp32"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: an NVIDIA or AMD GPU if there is one, else the CPU. mps: Apple's GPU, in fp32, for pretraining alone: the
    other stages use the CPU; written for it, never run on one"""
    compile: Literal["auto", "on", "off"] = "auto"
    """whether to use torch.compile; auto: on a GPU, if training is long"""
    nproc_per_node: Count | Literal["auto"] = "auto"
    """processes of one cell per machine; auto: one per GPU"""
    nnodes: Count = 1
    """machines per cell; start the others by hand, see docs/scaling.md"""
    rdzv_endpoint: Annotated[str, Field(pattern=r"^[^:/]+:\d{1,5}$")] | None = None
    """HOST:PORT of the first of several nodes"""
    log_every: Count = 10
    """steps between lines of the log"""
    validations: Annotated[Times, Field(ge=1)] = 1
    """how often the held-out text is measured during training, the last time at its end"""
    probes: Times = 10
    """how often the table of facts is asked during training"""
    checkpoint: Checkpoint = Checkpoint()
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """a tracker to log to as well"""

    @model_validator(mode="before")
    @classmethod
    def filled_in(cls, data: Any) -> Any:
        """YAML knows no tuples; a recipe and a size fill in the rest."""
        if not isinstance(data, dict):
            return data
        if data.get("recipe") == "fast":
            data = _FAST | data
        if data.get("size") in list(_SIZES):
            data = _SIZES[data["size"]] | data
        if isinstance(data.get("betas"), list):
            data = data | {"betas": tuple(data["betas"])}
        return data

    @model_validator(mode="after")
    def fits(self) -> "Pretrain":
        if self.nnodes > 1 and self.rdzv_endpoint is None:
            raise ValueError(f"nnodes is {self.nnodes}, expected rdzv_endpoint too: HOST:PORT of the first machine")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}, expected a multiple of n_head, {self.n_head}")
        if self.batch_tokens % self.context:
            raise ValueError(f"batch_tokens is {self.batch_tokens}, expected a multiple of context, {self.context}")
        if (self.batch_tokens // self.context) % self.micro_batch:
            rows = self.batch_tokens // self.context
            raise ValueError(f"micro_batch is {self.micro_batch}, expected a divisor of the {rows} rows a step")
        if self.from_checkpoint and "/" not in self.from_checkpoint:
            raise ValueError(
                f"from_checkpoint is {self.from_checkpoint!r}, expected a folder such as ./{self.from_checkpoint}, or "
                "OWNER/NAME on the Hub"
            )
        return self

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    def parameters(self, vocabulary: int) -> int:
        """Parameters with so many ids: a layer's four matrices, 12 n_embd^2, their biases and its two norms, 13 n_embd;
        the last norm; embeddings of ids, tied to the head, and of positions."""
        layers = self.n_layer * (12 * self.n_embd + 13) * self.n_embd
        return layers + 2 * self.n_embd + (vocabulary + self.context) * self.n_embd

    def flops_per_token(self, vocabulary: int) -> float:
        """FLOPs of a token's forward and backward pass: 6 for each weight of a matrix product, the tied head among
        them, and 12 n_layer n_embd context for attention (Chowdhery et al. 2022, appendix B). Forward is a third."""
        matrices = 12 * self.n_layer * self.n_embd**2 + vocabulary * self.n_embd
        return 6.0 * matrices + 12.0 * self.n_layer * self.n_embd * self.context

    def last_steps(self, number: int) -> list[int]:
        """So many step counts, evenly spaced over the last tenth of the steps, the end being the last one."""
        gap = max(1, self.steps // (10 * number))
        return [self.steps - gap * before for before in reversed(range(number))]

    def checkpoint_bytes(self, vocabulary: int, averaged: int = 1) -> int:
        """Disk of one cell's checkpoints: those that are kept, of `averaged` ones all but the last, and the new one
        before the old one goes."""
        if self.steps <= min(self.checkpoint.interval, self.checkpoint.keep_every or self.steps) and averaged == 1:
            return 0
        copies = self.checkpoint.keep_last + averaged
        if self.checkpoint.keep_every:
            copies += self.steps // self.checkpoint.keep_every
        return copies * CHECKPOINT_BYTES * self.parameters(vocabulary)

    def compiles(self, device: str, vocabulary: int) -> bool:
        """Whether the step is compiled on `cpu`, `cuda` or `mps`. Compiling takes 20 to 60 s, more than a small model
        trains on a GPU; it pays back a third of what a large one computes."""
        if self.compile == "auto":
            return device == "cuda" and self.tokens * self.flops_per_token(vocabulary) > _LONG
        return self.compile == "on"


def weights_name(steps: int) -> str:
    """File of the weights after so many steps, numbered as in the reference: from 0."""
    return f"model_{steps - 1:05d}.safetensors"
