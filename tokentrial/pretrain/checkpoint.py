"""Checkpoints of pretraining: model, optimizers and log, whole or absent; the loader's place is the step itself.

    <checkpoints>/step_000500/{model.safetensors, optimizer.safetensors, log.json, manifest.json}

They are written beside training: a disk or a storage takes seconds for what a GPU computes in one. Nothing in the loop
draws at random, so there is no state of a generator to keep; that of fp16's scaler is in the log.
"""

import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tokentrial.pretrain.gpt import GPT
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import damaged_files, is_done, step
from tokentrial.trial.settings import Checkpoint

Optimizers = list[torch.optim.Optimizer]
Scaler = torch.amp.GradScaler
Records = list[dict[str, Any]]
Tensors = dict[str, torch.Tensor]
_FOLDER = re.compile(r"step_(\d{6,})")


class Writer:
    """Writes checkpoints of one cell in a thread of its own, one after the other; `saved` is called there with each.
    Use as a context manager: leaving it waits for the last. What fails in the thread is raised by the next call."""

    def __init__(self, folder: Path, settings: Checkpoint, saved: Callable[[Path], None] = lambda folder: None) -> None:
        self.folder, self.settings, self.saved = folder, settings, saved
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        if error[0] is None:
            self.wait()

    def save(self, number: int, model: GPT, optimizers: Optimizers, scaler: Scaler, records: Records) -> None:
        """Take a copy of the state after `number` steps, on the CPU, and write it while training goes on. The
        optimizers' state, all of it tensors, is named `optimizer.parameter.key`."""
        self.wait()  # at most two copies of the state are in memory, and a slow disk holds training up, not memory
        weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}
        state = {
            f"{optimizer}.{parameter}.{key}": _copy(tensor)
            for optimizer, one in enumerate(optimizers)
            for parameter, tensors in one.state_dict()["state"].items()
            for key, tensor in tensors.items()
        }
        log = {"records": list(records), "scaler": scaler.state_dict()}
        self._writing = self._thread.submit(self._write, number, weights, state, log)

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def _write(self, number: int, weights: Tensors, state: Tensors, log: dict[str, Any]) -> None:
        """Write one, then prune: the last ones stay, and those of `keep_every`."""
        with step(_at(self.folder, number), _name(number), step=number) as partial:
            save_file(weights, partial / "model.safetensors")
            save_file(state, partial / "optimizer.safetensors")
            write_json(partial / "log.json", log)
        for old in _whole(self.folder)[: -self.settings.keep_last]:
            if self.settings.keep_every is None or old % self.settings.keep_every:
                shutil.rmtree(_at(self.folder, old))
        self.saved(_at(self.folder, number))


def restore(folder: Path, model: GPT, optimizers: Optimizers, scaler: Scaler) -> tuple[int, Records]:
    """Load the last whole checkpoint whose bytes are those that were written. Returns its number of steps and the
    records of their log; 0 and none without any."""
    device = str(model.wte.weight.device)
    for number in reversed(_whole(folder)):
        newest = _at(folder, number)
        if damaged := damaged_files(newest):
            print(f"{newest / damaged[0]}: damaged; going on from the checkpoint before", file=sys.stderr)
            continue
        model.load_state_dict(load_file(newest / "model.safetensors", device=device))
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
        for name, tensor in load_file(newest / "optimizer.safetensors", device=device).items():
            optimizer, parameter, key = name.split(".")
            states[int(optimizer)].setdefault(int(parameter), {})[key] = tensor
        for one, state in zip(optimizers, states, strict=True):
            one.load_state_dict(one.state_dict() | {"state": state})
        log = read_json(newest / "log.json")
        if log.get("scaler"):  # empty unless the precision was fp16
            scaler.load_state_dict(log["scaler"])
        return number, log["records"]
    return 0, []


def hand_over(folder: Path, to: Path, settings: Checkpoint) -> None:
    """Copy the weights of the checkpoints that are kept to the end, as `model_<step>.safetensors`."""
    for number in _whole(folder):
        if settings.keep_every and number % settings.keep_every == 0:
            shutil.copyfile(_at(folder, number) / "model.safetensors", to / weights_name(number))


def weights_name(steps: int) -> str:
    """File of the weights after so many steps, numbered as in the reference: from 0."""
    return f"model_{steps - 1:05d}.safetensors"


def last_step(folder: Path) -> int:
    """Steps of the last whole checkpoint, 0 where there is none."""
    return max(_whole(folder), default=0)


def save_tensors(state: Tensors, path: Path) -> None:
    """Write tensors of any device as a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _whole(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, in order."""
    names = [_FOLDER.fullmatch(path.name) for path in folder.glob("step_*")]
    numbers = sorted(int(name[1]) for name in names if name)
    return [number for number in numbers if is_done(_at(folder, number), _name(number))]


def _at(folder: Path, number: int) -> Path:
    return folder / f"step_{number:06d}"


def _name(number: int) -> str:
    return f"checkpoint {number}"
