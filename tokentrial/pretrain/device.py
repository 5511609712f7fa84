"""Where pretraining runs and in what precision, told without importing torch."""

from tokentrial.settings import Pretrain
from tokentrial.store import has_gpu


def resolve_device(settings: Pretrain) -> str:
    """`cpu` or `cuda`."""
    return ("cuda" if has_gpu() else "cpu") if settings.device == "auto" else settings.device


def resolve_dtype(settings: Pretrain) -> str:
    """`fp32` or `bf16`; bf16 is about three times slower than fp32 on a CPU."""
    if settings.dtype != "auto":
        return settings.dtype
    return "bf16" if resolve_device(settings) == "cuda" else "fp32"
