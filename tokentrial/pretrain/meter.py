"""Seeing how pretraining goes: loss, speed and use of the hardware, as a line, as `metrics.jsonl`, as `log.txt` and in
TensorBoard, trackio or Weights & Biases."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch

from tokentrial.devices import by_cuda_name
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.pretraining import Pretrain

Progress = Callable[[float, str], None]


def peak_flops(device: torch.device) -> float | None:
    """What the device can do at most, FLOP/s: of a GPU from its data sheet, None where it is not known; of a CPU as a
    matrix product measures it."""
    if device.type == "cuda":
        known = by_cuda_name(torch.cuda.get_device_name(device))
        return known.tflops * 1e12 if known else None
    if device.type != "cpu":
        return None
    size, best = 768, 0.0
    a, b = torch.ones(size, size), torch.ones(size, size)
    for _ in range(5):
        # this thread's own seconds: at a start other workers are busy too, and waiting for a core would halve the peak
        started = time.thread_time()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.thread_time() - started))
    return best


class Meter:
    """Writes what the first rank sees. `records` is all of it, those of a checkpoint that it goes on from first; `done`
    is the number of steps that this checkpoint holds."""

    def __init__(
        self,
        folder: Path,
        settings: Pretrain,
        vocabulary: int,
        ranks: Ranks,
        name: str,
        done: int,
        records: list[dict[str, Any]],
        progress: Progress | None,
    ) -> None:
        self.settings, self.device, self.records, self.progress = settings, ranks.device, records, progress
        self.flops_per_token = settings.flops_per_token(vocabulary)
        peak = peak_flops(ranks.device)
        self.peak = peak * ranks.world if peak else None
        self.metrics, self.log = ((folder / file).open("w", buffering=1) for file in ("metrics.jsonl", "log.txt"))
        self.tracker = None if settings.report_to == "none" else _tracker(settings, folder, name)
        for record in records:
            self._write(record)
        # a resumed run goes on counting where the one before was stopped
        self.seconds_before = max((record["seconds"] for record in records), default=0.0)
        self.last_step = done - 1
        self.started = self.last_time = time.perf_counter()
        self.excluded = 0.0
        if self.device.type == "cuda":  # the peak is of a process, which may have trained another cell before
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def seconds(self) -> float:
        """Since training began, what was before a stop among them."""
        return self.seconds_before + time.perf_counter() - self.started

    @contextmanager
    def excluding(self) -> Iterator[None]:
        """The seconds in the block, of a probe or a checkpoint, do not count for the speed of training."""
        started = time.perf_counter()
        yield
        self.excluded += time.perf_counter() - started

    def step(self, step: int, loss: float, lr: float, norm: float) -> None:
        """Record a step that is logged."""
        now, settings = time.perf_counter(), self.settings
        tokens = (step - self.last_step) * settings.batch_tokens
        rate = tokens / max(1e-9, now - self.last_time - self.excluded)
        self.last_time, self.last_step, self.excluded = now, step, 0.0
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
        else:
            # kilobytes on Linux, bytes on a Mac
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        flops = rate * self.flops_per_token
        mfu = flops / self.peak if self.peak else None
        speed = {"tokens_per_s": rate, "tflops_per_s": flops / 1e12, "mfu": mfu, "memory_gb": memory / 1e9}
        self.add({"step": step, "loss": loss, "lr": lr, "norm": norm, **speed})
        if self.progress:
            seconds_left = (settings.steps - step - 1) * settings.batch_tokens / rate
            used = f" mfu {mfu:.0%}" if mfu else ""
            self.progress(
                (step + 1) / settings.steps,
                f"step {step + 1} loss {loss:.3f} lr {lr:.1e} norm {norm:.2f} {rate:,.0f} tokens/s "
                f"{flops / 1e12:.2f} TFLOP/s{used} {memory / 1e9:.1f} GB {seconds_left:.0f} s left",
            )

    def add(self, record: dict[str, Any]) -> None:
        """Record what belongs to a step: its loss and speed, a probe or a validation."""
        self.records.append(record | {"seconds": self.seconds})
        self._write(self.records[-1])

    def _write(self, record: dict[str, Any]) -> None:
        self.metrics.write(orjson.dumps(record).decode() + "\n")
        if "loss" in record:
            self.log.write(f"{record['step']} train {record['loss']:.6f}\n")
        if "val_loss" in record:
            self.log.write(f"{record['step']} val {record['val_loss']:.4f}\n")
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
    """One of accelerate's trackers, begun."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it which process is the main one
    kind = LOGGER_TYPE_TO_CLASS[settings.report_to]
    options = {"logging_dir": str(folder / "tracking")} if kind.requires_logging_directory else {}
    tracker = kind(name, **options)
    tracker.start()
    tracker.store_init_configuration(
        {key: value for key, value in settings.model_dump(mode="json").items() if isinstance(value, int | float | str)}
    )
    return tracker
