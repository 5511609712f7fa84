"""Pretraining of one cell: same seed, same weights and documents in every arm; `results.json` as in the reference."""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.corpus.stream import Stream
from tokentrial.disk import checkpoint_bytes
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain.begin import begin
from tokentrial.pretrain.checkpoint import hand_over, last_step, restore, save, save_tensors, weights_name
from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Batch, Batches, Loader
from tokentrial.pretrain.meter import Meter, Progress
from tokentrial.pretrain.optim import lr_share, optimizers, set_rates
from tokentrial.pretrain.ranks import Ranks
from tokentrial.pretrain.validate import validate
from tokentrial.settings import Pretrain
from tokentrial.store import need_disk, write_json

_EXPLODED = 2.0  # times the loss of ids drawn evenly

Probe = Callable[[int, GPT], dict[str, float]]


def pretrain(
    folder: Path,
    stream: Stream,
    settings: Pretrain,
    probe: Probe | None = None,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
    ranks: Ranks | None = None,
    stop: Callable[[], bool] = lambda: False,
    start: Path | None = None,
    saved: Callable[[Path], None] = lambda checkpoint: None,
) -> GPT:
    """Train one cell and write its weights, `metrics.jsonl`, `log.txt` and `results.json` into `folder`.

    `probe(step, model)` is asked `settings.probes` times, evenly, the last time at the end. With `checkpoints`, a
    folder, it goes on from the last whole one; where `stop()` says so it writes one and raises Interrupted. `saved` is
    called with each that is written. Every rank of a cell calls this; the first one writes. `start` holds the
    checkpoint that `settings.init` names. Returns the
    model.
    """
    ranks = ranks or Ranks(device=torch.device(resolve_device(settings)))
    device, dtype = ranks.device, resolve_dtype(settings)
    config = Config(stream.vocabulary.size, settings.n_layer, settings.n_head, settings.n_embd, settings.context)
    _has_room(config, settings, device, checkpoints)
    model = GPT(config, stream.seed, settings.init).to(device)
    if start:
        begin(model, start, stream.vocabulary, arms.find(stream.arm, stream.facts))
    made = optimizers(model, settings)
    loader = Loader(stream, settings.batch_tokens // settings.context, settings.context)
    done, log = restore(checkpoints, model, made) if checkpoints else (0, {})
    loader.skip(done)
    train_losses, val_losses, curve = (log.get(name, []) for name in ("train_losses", "val_losses", "curve"))
    if settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda"):
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
    step_of = Step(model, loader, settings, ranks, dtype)
    probes, validations = _evenly(settings.probes, settings.steps), _evenly(settings.validations, settings.steps)
    name = f"{stream.arm}-seed{stream.seed}"
    meter = None
    if ranks.first:
        meter = Meter(folder, settings, config, device, ranks.world, name, log.get("records", []), progress)
    for step in range(done, settings.steps):
        share = lr_share(step, settings)
        set_rates(made, share)
        loss, norm = step_of(made)
        last = step + 1 == settings.steps
        logged = step % settings.log_every == 0 or last
        keep = checkpoints is not None and not last and (step + 1) % settings.checkpoint.interval == 0
        # with several ranks only a logged step asks the others whether to stop: each question makes all of them wait
        stopping = checkpoints is not None and not last and (logged or ranks.world == 1) and ranks.any(stop())
        if logged or keep or stopping:
            value = float(ranks.mean(loss))
            if not math.isfinite(value) or value > _EXPLODED * math.log(config.vocab):
                raise TrialError(
                    f"{folder}: the loss is {value:.4g} at step {step}, after {loader.place}; {_kept(checkpoints)}; "
                    "lower pretrain.lr or pretrain.muon_lr"
                )
        if logged:
            train_losses.append(value)
            if meter:
                meter.step(step, value, share * settings.lr, float(norm))
        aside = time.perf_counter()
        if meter and step + 1 in validations:
            measured = validate(model, stream, device)
            val_losses.append(measured["val_loss"])
            meter.add({"step": step, **measured})
        if meter and probe and step + 1 in probes:
            asked = {"step": step + 1, "tokens": (step + 1) * settings.batch_tokens, **probe(step + 1, model)}
            curve.append(asked)
            meter.add(dict(asked))
        if checkpoints and meter and (keep or stopping):
            kept = {"train_losses": train_losses, "val_losses": val_losses, "curve": curve, "records": meter.records}
            saved(save(checkpoints, step + 1, model, made, kept, settings.checkpoint))
        if stopping:
            ranks.wait()
            raise Interrupted(f"{folder}: stopped after step {step + 1}, {_kept(checkpoints)}")
        if meter:
            meter.without(time.perf_counter() - aside)
        if step + 1 in probes or step + 1 in validations or keep:
            ranks.wait()
    if meter:
        meter.close()
        save_tensors(model.state_dict(), folder / weights_name(settings.steps))
        if checkpoints:
            hand_over(checkpoints, folder, settings.checkpoint)
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
                "final_val_loss": val_losses[-1],
                "total_steps": settings.steps,
                "total_tokens": settings.tokens,
                "train_losses": train_losses,
                "val_losses": val_losses,
                "documents": loader.documents,
                "baseline_tokens": loader.baseline_tokens,
                "curve": curve,
                "dtype": dtype,
                "device": device.type,
                "ranks": ranks.world,
                "seconds": meter.seconds + time.perf_counter() - meter.started,
            },
        )
    return model


class Step:
    """One optimizer step on the next batch: gradients of its mean loss, `micro_batch` rows of each rank at a time."""

    def __init__(self, model: GPT, loader: Batches, settings: Pretrain, ranks: Ranks, dtype: str) -> None:
        self.loader, self.settings, self.ranks = loader, settings, ranks
        self.rows, self.micro_batch = ranks.rows(loader.rows, settings.micro_batch)
        self.model, self.parameters = ranks.wrap(model), list(model.parameters())
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        device = ranks.device.type
        self.autocast = torch.autocast(device, kinds[dtype]) if dtype in kinds else nullcontext()
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "fp16")
        # on a GPU the next batch is made while this one is computed; on a CPU it would only take from the same cores
        self.ahead = ThreadPoolExecutor(1) if device == "cuda" else None
        self.following: Future[Batch] | None = None

    def __call__(self, made: list[torch.optim.Optimizer]) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the step. Returns this rank's mean loss and the norm of the gradient before it was clipped."""
        batch = self._next()
        parts = len(self.rows) // self.micro_batch
        total = torch.zeros((), device=self.ranks.device)
        for part in range(parts):
            first = self.rows.start + part * self.micro_batch
            x, y = (self._there(side[first : first + self.micro_batch]) for side in batch)
            waits = self.ranks.world > 1 and part + 1 < parts
            no_sync: Any = self.model.no_sync if waits else nullcontext
            with no_sync(), self.autocast:
                loss: torch.Tensor = self.model(x, y) / parts
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for optimizer in made:
            self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for optimizer in made:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return total, norm

    def _next(self) -> Batch:
        if self.ahead is None:
            return self.loader.next()
        batch = self.following.result() if self.following else self.loader.next()
        self.following = self.ahead.submit(self.loader.next)
        return batch

    def _there(self, side: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(side)
        if self.ranks.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.ranks.device, non_blocking=True)


def _evenly(times: int, steps: int) -> set[int]:
    """So many step counts, evenly spaced, the last one the end."""
    return {math.ceil(steps * (i + 1) / times) for i in range(times)}


def _kept(checkpoints: Path | None) -> str:
    newest = last_step(checkpoints) if checkpoints else 0
    return f"the last checkpoint is of step {newest}" if newest else "there is no checkpoint before it"


def _has_room(config: Config, settings: Pretrain, device: torch.device, checkpoints: Path | None) -> None:
    """Say before the first step that the memory does not hold weights, gradients and AdamW's two moments, 16 bytes a
    parameter, or the disk not two checkpoints."""
    parameters = settings.parameters(config.rows)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if 16 * parameters > free:
        raise TrialError(
            f"pretrain.n_embd, n_layer: {parameters / 1e6:,.0f}M parameters need {16 * parameters / 1e9:.1f} GB for "
            f"weights, gradients and moments alone; {free / 1e9:.1f} GB of memory are free"
        )
    if checkpoints and (needed := checkpoint_bytes(settings, config.rows)):
        need_disk(checkpoints.parent, needed, "the checkpoints of pretraining", 0.0)
