"""Checkpoints of pretraining: model, optimizers and log, whole or absent; the loader's place is the step itself.

    <checkpoints>/step_000500/{model.safetensors, optimizer.safetensors, log.json, manifest.json}

Nothing in the loop draws at random, so there is no state of a generator to keep; that of fp16's scaler is in the log.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tokentrial.pretrain.gpt import GPT
from tokentrial.settings import Checkpoint
from tokentrial.store import is_done, read_json, step, verify, write_json

Optimizers = list[torch.optim.Optimizer]
Scaler = torch.amp.GradScaler
Records = list[dict[str, Any]]


def save(
    folder: Path, number: int, model: GPT, made: Optimizers, scaler: Scaler, records: Records, settings: Checkpoint
) -> Path:
    """Write the state after `number` steps, then prune: the last ones stay, and those of `keep_every`. Returns its
    folder. The optimizers' state, all of it tensors, is named `optimizer.parameter.key`."""
    state = {
        f"{optimizer}.{parameter}.{key}": tensor
        for optimizer, one in enumerate(made)
        for parameter, tensors in one.state_dict()["state"].items()
        for key, tensor in tensors.items()
    }
    with step(_at(folder, number), _name(number), step=number) as partial:
        save_tensors(model.state_dict(), partial / "model.safetensors")
        save_tensors(state, partial / "optimizer.safetensors")
        write_json(partial / "log.json", {"records": records, "scaler": scaler.state_dict()})
    for old in _whole(folder)[: -settings.keep_last]:
        if settings.keep_every is None or old % settings.keep_every:
            shutil.rmtree(_at(folder, old))
    return _at(folder, number)


def restore(folder: Path, model: GPT, made: Optimizers, scaler: Scaler) -> tuple[int, Records]:
    """Load the last whole checkpoint whose bytes are those that were written. Returns its number of steps and the
    records of their log; 0 and none without any."""
    device = str(model.wte.weight.device)
    for number in reversed(_whole(folder)):
        newest = _at(folder, number)
        if damaged := verify(newest):
            print(f"{newest / damaged[0]}: damaged; going on from the checkpoint before", file=sys.stderr)
            continue
        model.load_state_dict(load_file(newest / "model.safetensors", device=device))
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in made]
        for name, tensor in load_file(newest / "optimizer.safetensors", device=device).items():
            optimizer, parameter, key = name.split(".")
            states[int(optimizer)].setdefault(int(parameter), {})[key] = tensor
        for one, state in zip(made, states, strict=True):
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


def save_tensors(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors of any device as a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)


def _whole(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, in order."""
    numbers = sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_??????"))
    return [number for number in numbers if is_done(_at(folder, number), _name(number))]


def _at(folder: Path, number: int) -> Path:
    return folder / f"step_{number:06d}"


def _name(number: int) -> str:
    return f"checkpoint {number}"
