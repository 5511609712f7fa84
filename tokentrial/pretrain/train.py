"""Pretraining of one cell: same seed, same weights and documents in every arm; `results.json` as in the reference."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from safetensors.torch import save_file

from tokentrial.corpus.shards import TEXT, open_shard, shard_paths
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Loader
from tokentrial.pretrain.optim import lr_share, optimizers, set_rates
from tokentrial.settings import Pretrain
from tokentrial.store import write_json

_VAL_TOKENS = 20_000

Probe = Callable[[int, GPT], dict[str, float]]
Progress = Callable[[float, str], None]


def pretrain(
    folder: Path, stream: Stream, settings: Pretrain, probe: Probe | None = None, progress: Progress | None = None
) -> GPT:
    """Train one cell and write its weights, `metrics.jsonl` and `results.json` into `folder`.

    `probe(step, model)` is asked `settings.probes` times, evenly, the last time at the end. Returns the model.
    """
    device, dtype = torch.device(resolve_device(settings)), resolve_dtype(settings)
    config = Config(stream.vocabulary.size, settings.n_layer, settings.n_head, settings.n_embd, settings.context)
    model = GPT(config, stream.seed).to(device)
    made = optimizers(model, settings)
    rows = settings.batch_tokens // settings.context
    loader = Loader(stream, rows, settings.context)
    autocast = torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext()
    probe_steps = {math.ceil(settings.steps * (i + 1) / settings.probes) for i in range(settings.probes)}
    train_losses: list[float] = []
    curve: list[dict[str, float]] = []
    started = time.perf_counter()
    with (folder / "metrics.jsonl").open("wb") as metrics:
        for step in range(settings.steps):
            share = lr_share(step, settings)
            set_rates(made, share)
            loss = _accumulate(model, loader, settings.micro_batch, device, autocast)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            for optimizer in made:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            last = step + 1 == settings.steps
            if step % settings.log_every == 0 or last:
                value = float(loss)
                if not math.isfinite(value):
                    raise TrialError(
                        f"{folder}: the loss is {value} at step {step}; lower pretrain.lr or pretrain.muon_lr"
                    )
                train_losses.append(value)
                rate = (step + 1) * settings.batch_tokens / (time.perf_counter() - started)
                record = {
                    "step": step,
                    "loss": value,
                    "lr": share * settings.lr,
                    "norm": float(norm),
                    "tokens_per_s": rate,
                }
                metrics.write(orjson.dumps(record) + b"\n")
                if progress:
                    progress((step + 1) / settings.steps, f"loss {value:.3f}")
            if probe and step + 1 in probe_steps:
                asked = {"step": step + 1, "tokens": (step + 1) * settings.batch_tokens, **probe(step + 1, model)}
                curve.append(asked)
                metrics.write(orjson.dumps(asked) + b"\n")
    seconds = time.perf_counter() - started
    val_loss = validation_loss(model, stream, device)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / f"model_{settings.steps - 1:05d}.safetensors")
    write_json(
        folder / "results.json",
        {
            "condition": stream.arm,
            "seed": stream.seed,
            "vocab_size": stream.vocabulary.size,
            "num_params": model.num_params(),
            "config": settings.model_dump(mode="json"),
            "gpt_config": {
                "block_size": config.context,
                "vocab_size": config.vocab,
                "n_layer": config.n_layer,
                "n_head": config.n_head,
                "n_embd": config.n_embd,
            },
            "final_train_loss": train_losses[-1],
            "final_val_loss": val_loss,
            "total_steps": settings.steps,
            "total_tokens": settings.tokens,
            "train_losses": train_losses,
            "val_losses": [val_loss],
            "documents": loader.documents,
            "baseline_tokens": loader.baseline_tokens,
            "curve": curve,
            "dtype": dtype,
            "device": device.type,
            "seconds": seconds,
        },
    )
    return model


def _accumulate(model: GPT, loader: Loader, micro_batch: int, device: torch.device, autocast: Any) -> torch.Tensor:
    """Gradients of one step's mean loss, `micro_batch` rows at a time. Returns the loss."""
    inputs, targets = loader.next()
    parts = len(inputs) // micro_batch
    total = torch.zeros((), device=device)
    for rows in np.split(np.arange(len(inputs)), parts):
        x, y = (torch.from_numpy(part[rows]).to(device) for part in (inputs, targets))
        with autocast:
            loss: torch.Tensor = model(x, y) / parts
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


@torch.no_grad()
def validation_loss(model: GPT, stream: Stream, device: torch.device) -> float:
    """Nats a token of the arm's own val text, its first 20,000 tokens; arms are not to be compared by it."""
    context = model.config.context
    losses, weights = [], []
    for window in _val_windows(stream, context):
        ids = torch.from_numpy(window.astype(np.int64)).to(device)[None]
        losses.append(float(model(ids[:, :-1], ids[:, 1:])))
        weights.append(len(window) - 1)
    return float(np.average(losses, weights=weights))


def _val_windows(stream: Stream, context: int) -> Iterator[np.ndarray[Any, Any]]:
    tokens = np.empty(0, np.uint16)
    for path in shard_paths(stream.folder, TEXT, "val"):
        patch = stream.folder / "patches" / stream.arm / f"{path.stem}.npz"
        shard = open_shard(path, stream.vocabulary.eos, patch)
        tokens = np.concatenate([tokens, *(shard.document(index) for index in range(len(shard)))])
        if len(tokens) > _VAL_TOKENS:
            break
    tokens = tokens[:_VAL_TOKENS]
    for start in range(0, len(tokens) - 1, context):
        yield tokens[start : start + context + 1]
