"""Pretraining of one cell: same seed, same weights and documents in every arm; `results.json` as in the reference."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain.checkpoint import Writer, hand_over, last_step, restore, save_tensors, weights_name
from tokentrial.pretrain.device import resolve_device, resolve_dtype
from tokentrial.pretrain.export import begin
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Loader, Position
from tokentrial.pretrain.meter import Meter, Progress
from tokentrial.pretrain.optim import Step, lr_share
from tokentrial.pretrain.ranks import Ranks
from tokentrial.pretrain.validate import validate
from tokentrial.store.disk import need_disk
from tokentrial.store.files import write_json
from tokentrial.trial.settings import Pretrain

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
) -> None:
    """Train one cell and write its weights, `metrics.jsonl`, `log.txt` and `results.json` into `folder`. Every rank of
    the cell calls this; the first one writes. `probe(step, model)` is asked `settings.probes` times, evenly, the last
    time at the end. With `checkpoints`, a folder, it goes on from the last whole one; where `stop()` says so it writes
    one and raises Interrupted; `saved` is called with each. `start` holds what `settings.init` names."""
    ranks = ranks or Ranks(device=torch.device(resolve_device(settings)))
    model = _model(stream, settings, ranks.device, start, checkpoints)
    loader = Loader(stream, settings.batch_tokens // settings.context, settings.context)
    take = Step(model, loader.next, settings, ranks)
    done, records = restore(checkpoints, model, take.optimizers, take.scaler) if checkpoints else (0, [])
    loader.skip(done)
    take.position = loader.position
    name, vocabulary = f"{stream.arm}-seed{stream.seed}", model.config.vocab
    meter = Meter(folder, settings, vocabulary, ranks, name, records, progress) if ranks.rank == 0 else None
    probes, validations = _evenly(settings.probes, settings.steps), _evenly(settings.validations, settings.steps)
    with Writer(checkpoints or folder, settings.checkpoint, saved) as writer:
        for step in range(done, settings.steps):
            share = lr_share(step, settings)
            loss, norm = take(share)
            after, last = step + 1, step + 1 == settings.steps
            logged = step % settings.log_every == 0 or last
            goes_on = checkpoints is not None and not last
            # with several ranks only a logged step asks the others whether to stop: a question makes all of them wait
            stopping = goes_on and (logged or ranks.world == 1) and ranks.any(stop())
            saving = stopping or (goes_on and after % settings.checkpoint.interval == 0)
            if logged or saving:
                value = float(ranks.mean(loss))
                if not value <= _EXPLODED * math.log(vocabulary):  # nor is NaN
                    writer.wait()
                    where = f"{folder}: the loss is {value:.4g} at step {step}, after {take.position.place}"
                    raise TrialError(f"{where}; {_kept(checkpoints)}; lower pretrain.lr or pretrain.muon_lr")
            if meter:
                if logged:
                    meter.step(step, value, share * settings.lr, float(norm))
                with meter.aside():
                    if after in validations:
                        meter.add({"step": step, **validate(model, stream, ranks.device)})
                    if probe and after in probes:
                        meter.add({"step": after, "tokens": after * settings.batch_tokens, **probe(after, model)})
                    if saving:
                        writer.save(after, model, take.optimizers, take.scaler, meter.records)
            if stopping:
                writer.wait()
            if after in probes or after in validations or stopping:
                ranks.wait()
            if stopping:
                raise Interrupted(f"{folder}: stopped after step {after}, {_kept(checkpoints)}")
    if meter:
        meter.close()
        if checkpoints:
            hand_over(checkpoints, folder, settings.checkpoint)
        save_tensors(model.state_dict(), folder / weights_name(settings.steps))
        write_json(folder / "results.json", _results(stream, settings, model, take.position, ranks, meter))


def _model(
    stream: Stream, settings: Pretrain, device: torch.device, start: Path | None, checkpoints: Path | None
) -> GPT:
    """The model at its start. Raises TrialError where the memory does not hold weights, gradients and AdamW's two
    moments, 16 bytes a parameter, or the disk not two checkpoints."""
    config = Config(stream.vocabulary.size, settings.n_layer, settings.n_head, settings.n_embd, settings.context)
    parameters = settings.parameters(config.rows)
    # of a machine's memory what its page cache holds is free too
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if 16 * parameters > free:
        raise TrialError(
            f"pretrain.n_embd, n_layer: {parameters / 1e6:,.0f}M parameters need {16 * parameters / 1e9:.1f} GB for "
            f"weights, gradients and moments alone; {free / 1e9:.1f} GB of memory are free"
        )
    if checkpoints and (needed := settings.checkpoint_bytes(config.rows)):
        need_disk(checkpoints.parent, needed, "the checkpoints of pretraining", 0.0)
    model = GPT(config, stream.seed, settings.init).to(device)
    if start:
        begin(model, start, stream.vocabulary, arms.find(stream.arm, stream.facts))
    return model


def _evenly(times: int, steps: int) -> set[int]:
    """So many step counts, evenly spaced, the last one the end."""
    return {math.ceil(steps * (i + 1) / times) for i in range(times)}


def _kept(checkpoints: Path | None) -> str:
    newest = last_step(checkpoints) if checkpoints else 0
    return f"the last checkpoint is of step {newest}" if newest else "there is no checkpoint before it"


def _results(
    stream: Stream, settings: Pretrain, model: GPT, position: Position, ranks: Ranks, meter: Meter
) -> dict[str, Any]:
    """What `results.json` holds: the reference's fields, and ours beside them."""
    config = model.config
    train_losses = [record["loss"] for record in meter.records if "loss" in record]
    val_losses = [record["val_loss"] for record in meter.records if "val_loss" in record]
    probed = [record for record in meter.records if "tokens" in record]
    return {
        "condition": stream.arm,
        "seed": stream.seed,
        "vocab_size": config.vocab,
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
        "documents": position.documents,
        "baseline_tokens": position.baseline_tokens,
        "curve": [{key: value for key, value in record.items() if key != "seconds"} for record in probed],
        "dtype": resolve_dtype(settings),
        "device": ranks.device.type,
        "ranks": ranks.world,
        "seconds": meter.seconds,
    }
