"""The processes that train one cell together: torchrun starts them, DistributedDataParallel joins their gradients.

One process alone is the rule on a CPU and on one GPU. The global batch and the order of documents do not depend on how
many there are: every rank takes its rows of the same batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from tokentrial.errors import SettingsError
from tokentrial.pretrain.device import precision, resolve_device
from tokentrial.trial.pretraining import Pretrain

# a rank that dies ends the group by torchrun's hand; the default of ten minutes would end one that waits for the first
# rank's probes and uploads
_TIMEOUT = timedelta(hours=6)


class Ranks(NamedTuple):
    """This process among those of its cell; the one of rank 0 writes."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    def rows(self, rows: int, micro_batch: int) -> tuple[range, int]:
        """This rank's rows of the global batch, and how many of them a forward pass takes."""
        if rows % self.world:
            raise SettingsError(
                f"pretrain: {self.world} ranks (nnodes x nproc_per_node), expected a divisor of the {rows} rows per "
                "step; set pretrain.nproc_per_node"
            )
        own_rows = rows // self.world
        micro_batch = min(micro_batch, own_rows)
        if own_rows % micro_batch:
            raise SettingsError(
                f"pretrain.micro_batch is {micro_batch}, expected a divisor of a rank's {own_rows} rows"
            )
        return range(self.rank * own_rows, (self.rank + 1) * own_rows), micro_batch

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass joins the ranks' gradients; the model itself where there is one rank."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        # gradients live in the buckets that travel: a copy of them all less
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(value)  # the sum
            value /= self.world
        return value

    def any(self, flag: bool) -> bool:
        """Whether it holds in any rank."""
        if self.world == 1:
            return flag
        largest = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return bool(largest)

    def barrier(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(settings: Pretrain) -> Iterator[Ranks]:
    """This process's place: alone, or in the group that torchrun's environment names, which is joined and left."""
    kind = resolve_device(settings)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    with precision(tf32=kind == "cuda"):
        if world == 1:
            yield Ranks(device=device)
            return
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_TIMEOUT)
        try:
            yield Ranks(dist.get_rank(), world, device)
        finally:
            dist.destroy_process_group()
