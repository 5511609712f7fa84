"""Where pretraining runs and in what precision, told without importing torch unless there is a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokentrial.devices import default_device
from tokentrial.trial.pretraining import Pretrain


def resolve_device(settings: Pretrain) -> str:
    """`cpu`, `cuda` or `mps`."""
    return default_device() if settings.device == "auto" else settings.device


def later_device(settings: Pretrain) -> str:
    """Where the stages after pretraining compute, `cpu` or `cuda`: scores are summed in double, which mps lacks."""
    return "cuda" if resolve_device(settings) == "cuda" else "cpu"


def ranks_of(settings: Pretrain) -> int:
    """Processes that train one cell: as the settings say, else one for every GPU that CUDA knows, and one elsewhere."""
    if settings.nproc_per_node != "auto":
        return settings.nproc_per_node
    if resolve_device(settings) != "cuda":
        return 1
    import torch

    return torch.cuda.device_count()


def resolve_dtype(settings: Pretrain) -> str:
    """`fp32`, `bf16` or `fp16`. On a CPU fp32: bf16 is not faster there. On a GPU torch is asked what it has."""
    if settings.dtype != "auto":
        return settings.dtype
    if resolve_device(settings) != "cuda":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Within the block products of fp32 matrices are made in TF32 where a GPU has it, or exactly: training takes the
    speed, scores are to be the weights' own. Afterwards as before. The switch is global: left as a stage set it, the
    next stage of the same worker would compute other digits than in a worker of its own, under the same fingerprint.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
