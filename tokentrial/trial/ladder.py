"""The ladder of a trial: the same arms and seeds at several sizes of the model, so that an effect can be followed over
compute. How many tokens a size reads, and at what rate it learns, follows from the trial's own size by one rule."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tokentrial.trial.pretraining import SHAPE, Pretrain
from tokentrial.trial.settings import Count, Settings


def size_name(shape: "Rung | Pretrain") -> str:
    """Layers x width: `2x64`."""
    return f"{shape.n_layer}x{shape.n_embd}"


class Rung(Settings):
    """One size of the model; what is left out follows from the ladder's rules."""

    n_layer: Count
    """layers"""
    n_head: Count
    """attention heads"""
    n_embd: Count
    """width"""
    tokens: Count | None = None
    """pretraining tokens; null: by the ladder's rule"""
    lr: Annotated[float, Field(gt=0)] | None = None
    """AdamW's learning rate; null: by the ladder's rule"""
    seeds: Annotated[int, Field(ge=2)] | None = None
    """how many of the trial's seeds this size uses, from the first; a trend uses the seeds that every size has"""

    @property
    def name(self) -> str:
        return size_name(self)


class Ladder(Settings):
    """Sizes beside the trial's own, each a whole trial in a folder of its own, and the rules that they share."""

    sizes: Annotated[list[Rung], Field(min_length=1)]
    """further sizes, besides the trial's own"""
    tokens_per_parameter: Annotated[float, Field(gt=0)] | None = None
    """tokens of pretraining for each parameter of the layers, without embeddings, which dominate a tiny model
    (20 is the rule of Hoffmann et al. 2022, who count all parameters); this rule or tokens_exponent"""
    tokens_exponent: Annotated[float, Field(ge=0, lt=1)] | None = None
    """tokens grow from the trial's own by this power of compute (0.5: Hoffmann et al. 2022; 0.27: Kaplan et al. 2020)
    """
    lr: Literal["constant", "inverse_width"] = "constant"
    """AdamW's learning rate at each size. constant: the trial's own; inverse_width: the trial's own x (its width /
    this size's width) (Yang et al. 2022, for hidden matrices). Muon's rate needs no rule: its updates have the same
    spectral norm at every width (Jordan 2024)"""

    @model_validator(mode="after")
    def says_each_size_once(self) -> "Ladder":
        rules = [rule for rule in (self.tokens_per_parameter, self.tokens_exponent) if rule is not None]
        unsaid = [rung.name for rung in self.sizes if rung.tokens is None]
        if len(rules) > 1 or (unsaid and not rules):
            raise ValueError(
                f"found {len(rules)} rules for the tokens of {', '.join(unsaid) or 'its sizes'}, expected "
                "tokens_per_parameter or tokens_exponent, or tokens at every size"
            )
        names = [rung.name for rung in self.sizes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"sizes holds {twice} twice, expected each size once")
        if wrong := next((rung for rung in self.sizes if rung.n_embd % rung.n_head), None):
            raise ValueError(f"sizes: {wrong.name}: n_head is {wrong.n_head}, expected a divisor of n_embd")
        return self


def rung_settings(
    ladder: Ladder, rung: Rung, pretrain: Pretrain, vocabulary: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """What a size changes in the trial's settings, by dotted name; `vocabulary` ids, `seeds` the trial's own."""
    size = pretrain.model_copy(update={"n_layer": rung.n_layer, "n_head": rung.n_head, "n_embd": rung.n_embd})
    lr = pretrain.lr * pretrain.n_embd / rung.n_embd if ladder.lr == "inverse_width" else pretrain.lr
    changed: dict[str, Any] = {f"pretrain.{name}": getattr(rung, name) for name in SHAPE}
    tokens = rung.tokens or _tokens(ladder, size, pretrain, vocabulary)
    changed |= {"pretrain.steps": max(1, round(tokens / pretrain.batch_tokens)), "pretrain.lr": rung.lr or lr}
    if rung.seeds is not None:
        changed["seeds"] = list(seeds[: rung.seeds])
    return changed


def _tokens(ladder: Ladder, size: Pretrain, pretrain: Pretrain, vocabulary: int) -> float:
    if ladder.tokens_per_parameter is not None:
        return ladder.tokens_per_parameter * (size.parameters(vocabulary) - embeddings(size, vocabulary))
    # compute = FLOPs a token x tokens, and tokens ~ compute^a: so tokens ~ (FLOPs a token)^(a / (1 - a))
    exponent = ladder.tokens_exponent or 0.0
    growth = size.flops_per_token(vocabulary) / pretrain.flops_per_token(vocabulary)
    return pretrain.tokens * float(growth ** (exponent / (1 - exponent)))


def embeddings(size: Pretrain, vocabulary: int) -> int:
    """Parameters of the embeddings of ids and positions."""
    return (vocabulary + size.context) * size.n_embd
