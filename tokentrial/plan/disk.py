"""What a trial writes to disk, before it is written: the same estimate for `plan` and for the check that `run` makes.

At its peak a run folder holds the corpus, what every cell keeps, and, of the cells at work, the checkpoints that are
pruned when their stage ends. With `disk_limit_gb` a cell at work holds the model that a stage reads and the one that it
writes, and another cell its last model, or none where `storage` has it. Each further branch of stages leaves one more.
"""

from collections.abc import Sequence

from tokentrial.steps import corpus
from tokentrial.steps.costs import weights_bytes
from tokentrial.steps.stage import last_models, stages
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial


def cell_bytes(trial: Trial, pending: Sequence[Sequence[str]], workers: int) -> int:
    """The results of each cell's pending stages, and of the cells at work the checkpoints of the stage that holds
    most."""
    by_name = {stage.name: stage for stage in stages(trial)}
    to_make = [by_name[name] for left in pending for name in left]
    at_work = min(workers, len(pending))
    kept = sum(stage.disk_bytes() for stage in to_make)
    if trial.disk_limit_gb is not None:
        models = sum(stage.leaves_model for stage in to_make)
        ends = 0 if trial.storage else len(last_models(trial))
        held = min(models, (1 + max(1, ends)) * at_work + ends * (len(pending) - at_work))
        kept -= (models - held) * weights_bytes(trial)
    return kept + at_work * max((stage.checkpoint_bytes() for stage in to_make), default=0)


def peak_gb(trial: Trial, workers: int) -> float:
    """GB of the run folder at the peak of a whole run."""
    every = [[stage.name for stage in stages(trial)]] * (len(trial.arms) * len(trial.seeds))
    return (corpus.disk_bytes(trial) + cell_bytes(trial, every, workers)) / 1e9


def family_gb(trial: Trial, workers: int) -> float:
    """GB of the run folder at the peak of a trial with its variants, which are run one after the other."""
    family = [trial, *(variant.trial for variant in to_run(trial))]
    kept = [peak_gb(member, 0) for member in family]
    return max(peak_gb(member, workers) + sum(kept) - own for member, own in zip(family, kept, strict=True))


def beyond_limit(trial: Trial, workers: int) -> str | None:
    """Why a trial does not fit into its `disk_limit_gb`, and with which settings it would; None where it
    does."""

    def with_(trial: Trial, storage: str | None, **kept: int | None) -> Trial:
        checkpoint = trial.pretrain.checkpoint.model_copy(update=kept)
        pretrain = trial.pretrain.model_copy(update={"checkpoint": checkpoint})
        return trial.model_copy(update={"storage": storage, "pretrain": pretrain})

    if (limit := trial.disk_limit_gb) is None or (planned := family_gb(trial, workers)) <= limit:
        return None
    ways = {
        "storage=PATH": family_gb(with_(trial, "PATH"), workers),
        "workers=1": family_gb(trial, 1),
        "pretrain.checkpoint.keep_every=null": family_gb(with_(trial, trial.storage, keep_every=None), workers),
        "pretrain.checkpoint.keep_last=1": family_gb(with_(trial, trial.storage, keep_last=1), workers),
    }
    helping = [words for words, needed in ways.items() if needed < planned]
    fitting = [words for words in helping if ways[words] <= limit]
    least = family_gb(with_(trial, "PATH", keep_every=None, keep_last=1), 1)
    if fitting:
        advice = f"it fits with {', or with '.join(fitting)}"
    elif least <= limit:
        advice = f"it fits with {' '.join(helping)}"
    else:
        with_all = f"{least:.3g} GB at the least, with {' '.join(helping)}"
        advice = (with_all if helping else "no other setting reduces it") + "; give more, or use fewer arms and seeds"
    return f"disk_limit_gb is {limit:g}, the run folder would hold {planned:.3g} GB at its peak; {advice}"
