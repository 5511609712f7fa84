"""Checkpoints of pretraining: model, optimizers and log, whole or absent.

    <checkpoints>/step_000500/{model.safetensors, optimizer.safetensors, log.json, manifest.json}

The number of steps is all the loader needs to find its place again. Nothing in the loop draws at random, so there is no
state of a generator to keep; that of fp16's scaler is in the log.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tokentrial.errors import TrialError
from tokentrial.pretrain.gpt import GPT
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import is_done, is_usable, step
from tokentrial.trial.pretraining import Checkpoint, weights_name

Optimizers = list[torch.optim.Optimizer]
Records = list[dict[str, Any]]
Tensors = dict[str, torch.Tensor]


class CheckpointWriter:
    """Writes a cell's checkpoints in a thread of its own, one after the other: a disk or a storage takes seconds for
    what a GPU computes in one. `saved` is called there with each. What fails in the thread is raised by the next call,
    or as the context manager, which waits for the last, is left."""

    def __init__(
        self,
        folder: Path,
        settings: Checkpoint,
        saved: Callable[[Path], None] = lambda folder: None,
        averaged: Collection[int] = (),
    ) -> None:
        self.folder, self.settings, self.saved, self.averaged = folder, settings, saved, averaged
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        if error[0] is None:  # an error of the training is the one to be seen
            self.wait()

    def save(
        self, steps: int, model: GPT, optimizers: Optimizers, scaler: torch.amp.GradScaler, records: Records
    ) -> None:
        """Copy the state after so many steps to the CPU and write it while training goes on. The optimizers' state, all
        of it tensors, is named `optimizer.parameter.key`."""
        self.wait()  # so that a slow disk holds up training instead of filling the memory with copies
        state = {
            f"{number}.{parameter}.{key}": tensor
            for number, optimizer in enumerate(optimizers)
            for parameter, tensors in optimizer.state_dict()["state"].items()
            for key, tensor in tensors.items()
        }
        log = {"records": list(records), "scaler": scaler.state_dict()}
        self._pending = self._thread.submit(self._write, steps, cpu_copies(model.state_dict()), cpu_copies(state), log)

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        if self._pending:
            self._pending.result()
            self._pending = None

    def _write(self, steps: int, weights: Tensors, state: Tensors, log: dict[str, Any]) -> None:
        with step(_folder(self.folder, steps), _fingerprint(steps), step=steps) as partial:
            save_file(weights, partial / "model.safetensors")
            save_file(state, partial / "optimizer.safetensors")
            write_json(partial / "log.json", log)
        # prune only now that the new one is whole: a kill at any moment leaves one to resume from; of later steps there
        # is one where `restore` has passed over it, damaged
        until_now = [earlier for earlier in checkpoint_steps(self.folder) if earlier <= steps]
        for old in until_now[: -self.settings.keep_last]:
            if not stays(old, self.settings, self.averaged):
                shutil.rmtree(_folder(self.folder, old))
        self.saved(_folder(self.folder, steps))


def restore(folder: Path, model: GPT, optimizers: Optimizers, scaler: torch.amp.GradScaler) -> tuple[int, Records]:
    """Load the last whole checkpoint whose bytes are those that were written. Returns its number of steps and the
    records of its log; 0 and none without any."""
    on = model.wte.weight.device
    device = str(on) if on.type == "cuda" else on.type
    for steps in reversed(_numbers(folder)):
        newest = _folder(folder, steps)
        if not is_usable(newest, _fingerprint(steps)):
            continue
        model.load_state_dict(load_file(newest / "model.safetensors", device=device))
        states: list[dict[int, Tensors]] = [{} for _ in optimizers]
        for name, tensor in load_file(newest / "optimizer.safetensors", device=device).items():
            number, parameter, key = name.split(".")
            states[int(number)].setdefault(int(parameter), {})[key] = tensor
        for optimizer, state in zip(optimizers, states, strict=True):
            # the groups, with rates and decays, are those of the settings; only the moments are in the file
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        log = read_json(newest / "log.json")
        if log.get("scaler"):  # empty unless the precision was fp16
            scaler.load_state_dict(log["scaler"])
        return steps, log["records"]
    return 0, []


def copy_kept(folder: Path, to: Path, settings: Checkpoint, averaged: Collection[int]) -> None:
    """Copy the weights of the checkpoints that stay to the end, as `model_<step>.safetensors`. Raises TrialError where
    one of those to be averaged over is damaged or gone: the mean of the others would be another outcome."""
    whole = checkpoint_steps(folder)
    for steps in averaged:
        if steps not in whole or not is_usable(_folder(folder, steps), _fingerprint(steps)):
            raise TrialError(
                f"{_folder(folder, steps)}: damaged or gone, and evaluate.checkpoints asks for its weights; delete "
                f"{folder} and run the same command again"
            )
    for steps in whole:
        if stays(steps, settings, averaged):
            shutil.copyfile(_folder(folder, steps) / "model.safetensors", to / weights_name(steps))


def stays(steps: int, settings: Checkpoint, averaged: Collection[int]) -> bool:
    """Whether the weights after so many steps are kept beside the last ones."""
    return steps in averaged or bool(settings.keep_every and steps % settings.keep_every == 0)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, in order. By number: seven digits would sort before six."""
    return [number for number in _numbers(folder) if _is_done(_folder(folder, number), number)]


def _numbers(folder: Path) -> list[int]:
    numbers = [name.removeprefix("step_") for name in (path.name for path in folder.glob("step_*"))]
    return sorted(int(number) for number in numbers if number.isdigit())  # others are `.partial`


def _is_done(folder: Path, steps: int) -> bool:
    try:
        return is_done(folder, _fingerprint(steps))
    except TrialError:  # its manifest is damaged: `restore` says so, and goes on from the one before
        return False


def cpu_copies(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Copies on the CPU, which later steps leave alone: an optimizer changes its tensors in place."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _folder(checkpoints: Path, steps: int) -> Path:
    return checkpoints / f"step_{steps:06d}"


def _fingerprint(steps: int) -> str:
    return f"checkpoint {steps}"
