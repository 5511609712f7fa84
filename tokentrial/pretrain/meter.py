"""Seeing how pretraining goes: loss, speed and use of the hardware, as a line, as `metrics.jsonl`, as `log.txt` and in
TensorBoard, trackio or Weights & Biases."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch

from tokentrial.devices import by_cuda_name
from tokentrial.pretrain.gpt import Config
from tokentrial.settings import Pretrain

Progress = Callable[[float, str], None]


def peak_flops(device: torch.device) -> float | None:
    """What the device can do at most, FLOP/s: of a GPU from its data sheet, None where it is not known; of a CPU as a
    matrix product measures it."""
    if device.type == "cuda":
        known = by_cuda_name(torch.cuda.get_device_name(device))
        return known.tflops * 1e12 if known else None
    size, best = 768, 0.0
    a, b = torch.ones(size, size), torch.ones(size, size)
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _most_memory(device: torch.device) -> int:
    """The most bytes held so far, on the GPU or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Writes what the first rank sees. `records` is all of it, for a checkpoint."""

    def __init__(
        self,
        folder: Path,
        settings: Pretrain,
        config: Config,
        device: torch.device,
        world: int,
        name: str,
        records: list[dict[str, Any]],
        progress: Progress | None,
    ) -> None:
        self.settings, self.device, self.records, self.progress = settings, device, records, progress
        self.flops = settings.flops_per_token(config.vocab)
        peak = peak_flops(device)
        self.peak = peak * world if peak else None
        self.metrics = (folder / "metrics.jsonl").open("wb")
        self.log = (folder / "log.txt").open("w")
        self.tracker = _tracker(settings, folder, name)
        for record in records:
            self._write(record)
        self.seconds = max((record["seconds"] for record in records), default=0.0)
        self.last_step = max((record["step"] for record in records), default=-1)
        self.started = self.last = time.perf_counter()
        self.aside = 0.0

    def without(self, seconds: float) -> None:
        """Leave so many seconds, of a probe or a checkpoint, out of the speed."""
        self.aside += seconds

    def step(self, step: int, loss: float, lr: float, norm: float) -> None:
        """Record a step that is logged."""
        now = time.perf_counter()
        tokens = (step - self.last_step) * self.settings.batch_tokens
        rate = tokens / max(1e-9, now - self.last - self.aside)
        self.last, self.last_step, self.aside = now, step, 0.0
        record: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "lr": lr,
            "norm": norm,
            "tokens_per_s": rate,
            "tflops_per_s": rate * self.flops / 1e12,
            "mfu": rate * self.flops / self.peak if self.peak else None,
            "memory_gb": _most_memory(self.device) / 1e9,
            "seconds": self.seconds + now - self.started,
        }
        self.add(record)
        if self.progress:
            share = (step + 1) / self.settings.steps
            left = (self.settings.steps - step - 1) * self.settings.batch_tokens / rate
            mfu = f" mfu {record['mfu']:.0%}" if record["mfu"] else ""
            self.progress(
                share,
                f"step {step + 1} loss {loss:.3f} lr {lr:.1e} norm {norm:.2f} {rate:,.0f} tokens/s "
                f"{record['tflops_per_s']:.2f} TFLOP/s{mfu} {record['memory_gb']:.1f} GB {left:.0f} s left",
            )

    def add(self, record: dict[str, Any]) -> None:
        """Record anything else that belongs to a step, such as a probe or a validation."""
        record.setdefault("seconds", self.seconds + time.perf_counter() - self.started)
        self.records.append(record)
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        self.metrics.write(orjson.dumps(record) + b"\n")
        self.metrics.flush()
        if "loss" in record:
            self.log.write(f"{record['step']} train {record['loss']:.6f}\n")
        if "val_loss" in record:
            self.log.write(f"{record['step']} val {record['val_loss']:.4f}\n")
        self.log.flush()
        if self.tracker is not None:
            numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
            self.tracker.log(numbers, step=record["step"])

    def close(self) -> None:
        """Finish the files and the tracker."""
        self.metrics.close()
        self.log.close()
        if self.tracker is not None:
            self.tracker.finish()


def _tracker(settings: Pretrain, folder: Path, name: str) -> Any:
    """One of accelerate's trackers, begun, or None."""
    if settings.track == "none":
        return None
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it which process is the main one
    kind = LOGGER_TYPE_TO_CLASS[settings.track]
    where = {"logging_dir": str(folder / "tracking")} if kind.requires_logging_directory else {}
    tracker = kind(name, **where)
    tracker.start()
    tracker.store_init_configuration(
        {key: value for key, value in settings.model_dump(mode="json").items() if isinstance(value, int | float | str)}
    )
    return tracker
