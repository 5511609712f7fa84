"""Pretraining of one cell: same seed, same weights and documents in every arm; `results.json` as in the reference."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from tokentrial.arms import arm as arms
from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain.checkpoint import CheckpointWriter, checkpoint_steps, copy_kept, cpu_copies, restore, stays
from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.pretrain.export import load_initial_weights
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Loader, Position
from tokentrial.pretrain.meter import Meter, Progress
from tokentrial.pretrain.optim import TrainStep, lr_scale
from tokentrial.pretrain.ranks import Ranks
from tokentrial.pretrain.validate import validate
from tokentrial.store.disk import held_bytes, need_disk
from tokentrial.store.files import write_json
from tokentrial.trial.pretraining import SHAPE, Pretrain, weights_name

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
    averaged: int = 1,
) -> None:
    """Train one cell and write its weights, `metrics.jsonl`, `log.txt` and `results.json` into `folder`. Every rank of
    the cell calls this; the first one writes. `probe(step, model)` is asked `settings.probes` times, evenly, the last
    time at the end. With `checkpoints`, a folder, it goes on from the last whole one; where `stop()` says so it writes
    one and raises Interrupted; `saved` is called with each. The weights of the last `averaged` steps of
    `settings.last_steps` are written. `start` holds what `settings.from_checkpoint` names."""
    ranks = ranks or Ranks(device=torch.device(resolve_device(settings)))
    model = _model(stream, settings, ranks.device, start, checkpoints, averaged)
    loader = Loader(stream, settings.batch_tokens // settings.context, settings.context)
    train_step = TrainStep(model, loader.next, settings, ranks)
    optimizers, scaler = train_step.optimizers, train_step.scaler
    done, records = restore(checkpoints, model, optimizers, scaler) if checkpoints else (0, [])
    loader.skip(done)  # before anything is read ahead: the order is the seed's, so this is the next unread batch
    train_step.position = loader.position
    name, vocabulary = f"{stream.arm}-seed{stream.seed}", model.config.vocab
    meter = Meter(folder, settings, vocabulary, ranks, name, done, records, progress) if ranks.rank == 0 else None
    probes, validations = (_evenly_spaced(times, settings.steps) for times in (settings.probes, settings.validations))
    before_end = settings.last_steps(averaged)[:-1]
    with CheckpointWriter(checkpoints or folder, settings.checkpoint, saved, before_end) as writer:
        for step in range(done, settings.steps):
            scale = lr_scale(step, settings)
            loss, norm = train_step(scale)
            after, last = step + 1, step + 1 == settings.steps
            # not every step: to read a loss is to wait for the GPU
            logged = step % settings.log_every == 0 or last
            resumable = checkpoints is not None and not last
            # with several ranks only a logged step asks the others whether to stop: a question makes all of them wait
            stopping = resumable and (logged or ranks.world == 1) and ranks.any(stop())
            due = after % settings.checkpoint.interval == 0 or stays(after, settings.checkpoint, before_end)
            saving = stopping or (resumable and due)
            if logged or saving:
                value = float(ranks.mean(loss))
                # before anything is written, so that no checkpoint holds a broken model
                if not value <= _EXPLODED * math.log(vocabulary):  # nor is NaN
                    writer.wait()
                    where = f"{folder}: the loss is {value:.4g} at step {step}, after {train_step.position.place}"
                    raise TrialError(f"{where}; {_last_checkpoint(checkpoints)}; lower pretrain.lr or pretrain.muon_lr")
            if meter:
                if logged:
                    meter.step(step, value, scale * settings.lr, float(norm))
                with meter.excluding():
                    if after in validations:
                        meter.add({"step": step, **validate(model, stream, ranks.device)})
                    if probe and after in probes:
                        meter.add({"step": after, "tokens": after * settings.batch_tokens, **probe(after, model)})
                    if saving:  # last, so that what was measured at this step is in the checkpoint's log
                        writer.save(after, model, optimizers, scaler, meter.records)
            if stopping:
                writer.wait()
            if after in probes or after in validations or stopping:
                ranks.barrier()
            if stopping:
                raise Interrupted(f"{folder}: stopped after step {after}, {_last_checkpoint(checkpoints)}")
    if meter:
        meter.close()
        if checkpoints:
            copy_kept(checkpoints, folder, settings.checkpoint, before_end)
        save_file(cpu_copies(model.state_dict()), folder / weights_name(settings.steps))
        write_json(folder / "results.json", _results(stream, settings, model, train_step.position, ranks, meter))


def _model(
    stream: Stream,
    settings: Pretrain,
    device: torch.device,
    start: Path | None,
    checkpoints: Path | None,
    averaged: int,
) -> GPT:
    """The model at its start. Raises TrialError where the memory does not hold weights, gradients and AdamW's two
    moments, 16 bytes a parameter, or the disk not two checkpoints."""
    config = Config(stream.vocabulary.size, settings.n_layer, settings.n_head, settings.n_embd, settings.context)
    parameters = settings.parameters(config.rows)
    # `available` and not `free`: what a machine's page cache holds can be had too
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if 16 * parameters > free:
        raise TrialError(
            f"pretrain.n_embd, n_layer: {parameters / 1e6:,.0f}M parameters need {16 * parameters / 1e9:.1f} GB for "
            f"weights, gradients and moments alone, but {free / 1e9:.1f} GB of memory are free; give a smaller model"
        )
    if checkpoints and (needed := settings.checkpoint_bytes(config.rows, averaged)):
        more = max(0, needed - held_bytes(checkpoints))
        need_disk(checkpoints.parent, more, "the checkpoints of pretraining", 0.0)
    model = GPT(config, stream.seed, settings.init).to(device)
    if start:
        load_initial_weights(model, start, stream.vocabulary, arms.get_arm(stream.arm, stream.facts))
    return model


def _evenly_spaced(times: int, steps: int) -> set[int]:
    """So many step counts, evenly spaced, the last one the end."""
    return {math.ceil(steps * (i + 1) / times) for i in range(times)}


def _last_checkpoint(checkpoints: Path | None) -> str:
    steps = checkpoint_steps(checkpoints) if checkpoints else []
    return f"the last checkpoint is at step {steps[-1]}" if steps else "there is no checkpoint before it"


def _results(
    stream: Stream, settings: Pretrain, model: GPT, position: Position, ranks: Ranks, meter: Meter
) -> dict[str, Any]:
    """What `results.json` holds: the original report's fields, and ours beside them."""
    config = model.config
    train_losses = [record["loss"] for record in meter.records if "loss" in record]
    val_losses = [record["val_loss"] for record in meter.records if "val_loss" in record]
    probed = [record for record in meter.records if "tokens" in record]
    shape = {name: getattr(config, name) for name in SHAPE}
    return {
        "condition": stream.arm,
        "seed": stream.seed,
        "vocab_size": config.vocab,
        "num_params": settings.parameters(config.vocab),
        "config": settings.model_dump(mode="json"),
        "gpt_config": {"block_size": config.context, "vocab_size": config.vocab, **shape},
        "final_train_loss": train_losses[-1],
        "final_val_loss": val_losses[-1],
        "total_steps": settings.steps,
        "total_tokens": settings.tokens,
        "train_losses": train_losses,
        "val_losses": val_losses,
        "documents": position.documents,
        "baseline_tokens": position.baseline_tokens,
        "curve": [{key: value for key, value in record.items() if key != "seconds"} for record in probed],
        "dtype": resolve_dtype(settings),
        "device": ranks.device.type,
        "ranks": ranks.world,
        "seconds": meter.seconds,
    }
