"""What a trial writes to disk, before it is written: the same estimate for `plan` and for the check that `run` makes.

At its peak a run folder holds the corpus, what every cell keeps, and, of the cells at work, the checkpoints that are
pruned when their stage ends. With `disk_limit_gb` a cell at work holds the model that a stage reads and the one that it
writes, and another cell its newest model, or none where `storage` has it.
"""

import math
from collections.abc import Sequence

import numpy as np

from tokentrial.arms.families import build_facts
from tokentrial.corpus.stream import drills_wanted, text_of_budget, text_wanted
from tokentrial.settings import Pretrain
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial import Trial

_TOKENIZER = 100_000, 100  # bytes, and bytes an id, of the files beside a model in transformers' format
_ITEM = 600  # bytes of a probe's record, in results and samples
_SOLUTION = 1000, 5  # bytes of a solution's question and figures, and how often what a model said is written
_SOLUTIONS = 1_319  # GSM8K's test problems: no task of ours has more
_STATE = 12  # bytes a parameter of a checkpoint: fp32 weights and AdamW's two moments
_OVERHEAD = 0.1  # of the corpus: surveys, offsets of documents, patches of the text
# characters that a token stands for with so many of GPT-2's merges, measured on FineWeb-Edu; bytes alone: one
_CHARACTERS = ((0, 1.0), (256, 2.0), (512, 2.3), (768, 2.5), (1024, 2.6), (1792, 2.9), (3840, 3.4), (50_000, 4.6))
_HELD = {"sotu": 2.39e6, "fineweb-edu": 9.97e9}  # GPT-2 tokens of the sources that are known


def vocabulary_size(trial: Trial) -> int:
    """Ids of the trial's models."""
    return Vocabulary(trial.tokenizer.merges, len(build_facts(trial.facts))).size


def characters_a_token(merges: int) -> float:
    """Characters of English that a token stands for, between the measured points on the scale of ln ids."""
    counts, values = zip(*_CHARACTERS, strict=True)
    return float(np.interp(math.log(256 + merges), np.log(256 + np.array(counts)), values))


def held_tokens(trial: Trial) -> float | None:
    """Tokens that the trial's source holds, where that is known without reading it."""
    known = _HELD.get(trial.corpus.source)
    if known is None:
        return None
    return known * characters_a_token(50_000) / characters_a_token(trial.tokenizer.merges)


def text_tokens(trial: Trial) -> float:
    """Tokens of text that the corpus stage writes: what is wanted, at most what the source is known to hold; of an
    unknown source wanted whole, what the steps read."""
    wanted, held = text_wanted(trial), held_tokens(trial)
    if wanted is None:
        return held or text_of_budget(trial) / (1 - trial.corpus.val_share)
    tokens = wanted / (1 - trial.corpus.val_share)
    return min(tokens, held or tokens)


def corpus_bytes(trial: Trial) -> int:
    """Two bytes a token of text and of drills, and, as arms change drills most of all, a patch of the drills an arm."""
    folds = max(1, trial.corpus.drills.never_asked_folds)
    drilled = folds * sum(drills_wanted(trial).values())
    return int(2 * (text_tokens(trial) * (1 + _OVERHEAD) + drilled * len(trial.arms)))


def checkpoint_bytes(settings: Pretrain, vocabulary: int) -> int:
    """Checkpoints of one cell in pretraining: those that are kept, and the new one before the old one goes."""
    if settings.steps <= settings.checkpoint.interval:
        return 0
    copies = settings.checkpoint.keep_last + 1
    if settings.checkpoint.keep_every:
        copies += settings.steps // settings.checkpoint.keep_every
    return copies * _STATE * settings.parameters(vocabulary)


def cell_bytes(trial: Trial, pending: Sequence[Sequence[str]], workers: int) -> int:
    """The pending stages of each cell: fp32 weights of every trained and exported model with its tokenizer, results of
    evaluations, and of the cells at work the trainer's checkpoint or pretraining's, the new one beside the old one."""
    weights = _weights(trial)
    stages = [stage for left in pending for stage in left]
    evaluations = sum(stage.startswith("eval_") for stage in stages)
    written, at_work = len(stages) - evaluations, min(workers, len(pending))
    models = written
    if trial.disk_limit_gb is not None:
        models = min(written, 2 * at_work + (0 if trial.storage else len(pending) - at_work))
    kept = models * weights + written * _tokenizer(trial) + evaluations * _evaluation_bytes(trial)
    if trial.pretrain.checkpoint.keep_every:
        kept += stages.count("pretrain") * (trial.pretrain.steps // trial.pretrain.checkpoint.keep_every) * weights
    return kept + at_work * max((_checkpoints(trial, stage) for stage in stages), default=0)


def stage_bytes(trial: Trial, stage: str) -> int:
    """What one stage of a cell writes, its checkpoints among it."""
    if stage.startswith("eval_"):
        return _evaluation_bytes(trial)
    return _weights(trial) + _tokenizer(trial) + _checkpoints(trial, stage)


def peak_gb(trial: Trial, stages: Sequence[str], workers: int) -> float:
    """GB of the run folder at the peak of a whole run, whose cells go through these stages."""
    every = [stages] * (len(trial.arms) * len(trial.seeds))
    return (corpus_bytes(trial) + cell_bytes(trial, every, workers)) / 1e9


def beyond_limit(trial: Trial, stages: Sequence[str], workers: int) -> str | None:
    """Why a trial whose cells go through these stages does not fit into its `disk_limit_gb`, and with which settings it
    would; None where it does."""

    def with_(trial: Trial, storage: str | None, **kept: int | None) -> Trial:
        checkpoint = trial.pretrain.checkpoint.model_copy(update=kept)
        pretrain = trial.pretrain.model_copy(update={"checkpoint": checkpoint})
        return trial.model_copy(update={"storage": storage, "pretrain": pretrain})

    limit, planned = trial.disk_limit_gb, peak_gb(trial, stages, workers)
    if limit is None or planned <= limit:
        return None
    ways = {
        "storage=PATH": peak_gb(with_(trial, "PATH"), stages, workers),
        "workers=1": peak_gb(trial, stages, 1),
        "pretrain.checkpoint.keep_every=null": peak_gb(with_(trial, trial.storage, keep_every=None), stages, workers),
        "pretrain.checkpoint.keep_last=1": peak_gb(with_(trial, trial.storage, keep_last=1), stages, workers),
    }
    helping = [words for words, found in ways.items() if found < planned]
    fitting = [words for words in helping if ways[words] <= limit]
    least = peak_gb(with_(trial, "PATH", keep_every=None, keep_last=1), stages, 1)
    if fitting:
        advice = f"it fits with {', or with '.join(fitting)}"
    elif least <= limit:
        advice = f"it fits with {' '.join(helping)}"
    else:
        with_all = f"{least:.3g} GB at the least, with {' '.join(helping)}"
        advice = (with_all if helping else "nothing else would make it less") + "; give more, or fewer arms and seeds"
    return f"disk_limit_gb is {limit:g}, the run folder would hold {planned:.3g} GB at its peak; {advice}"


def _weights(trial: Trial) -> int:
    return 4 * trial.pretrain.parameters(vocabulary_size(trial))


def _tokenizer(trial: Trial) -> int:
    return _TOKENIZER[0] + _TOKENIZER[1] * vocabulary_size(trial)


def _checkpoints(trial: Trial, stage: str) -> int:
    """Checkpoints of a stage at work: pretraining's, or the trainer's, the new one beside the old one. Under a limit
    the one that a stop writes counts in the shortest pretraining too."""
    one = _STATE * trial.pretrain.parameters(vocabulary_size(trial))
    if stage == "pretrain":
        return max(checkpoint_bytes(trial.pretrain, vocabulary_size(trial)), one if trial.disk_limit_gb else 0)
    return 2 * one if stage in ("sft", "grpo") else 0


def _evaluation_bytes(trial: Trial) -> int:
    settings = trial.evaluate
    said = settings.solution_tokens * characters_a_token(trial.tokenizer.merges)
    solutions = len(settings.tasks) * min(settings.limit or _SOLUTIONS, _SOLUTIONS)
    return int((81 + 5 * settings.probes_each) * _ITEM + solutions * (_SOLUTION[0] + _SOLUTION[1] * said))
