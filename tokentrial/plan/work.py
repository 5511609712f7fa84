"""What the stages of a trial compute, whatever the device: tokens, FLOPs, steps of decoding; how long it takes, and the
memory it takes at its peak.

Seconds of a stage = FLOPs / (peak x MFU), at least a wait for each pass, + the waits of decoding + its start. SFT,
GRPO and scoring run at the Trainer's share of pretraining's speed (`devices.py`, where each figure's source stands).

Weights, gradients and AdamW's two moments are 16 bytes a parameter. Activations are 34 bytes a token, width and layer
in 16 bit (Korthikanti et al. 2022, eq. 1, without the attention matrix, which is never whole), twice that in 32.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, median, stdev
from typing import NamedTuple

import psutil

from tokentrial.arms.families import build_facts
from tokentrial.cell import before_grpo, stages
from tokentrial.corpus.stream import drills_wanted
from tokentrial.devices import DEVICES, Group, this_machine
from tokentrial.disk import characters_a_token, text_tokens, vocabulary_size
from tokentrial.errors import SettingsError
from tokentrial.executors.worker import cores
from tokentrial.posttrain.rewards import PASS_PROMPTS
from tokentrial.settings import SFT
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import get_task, source_examples
from tokentrial.trial import Trial

# tokens a second of the corpus stage: the seed's preparation, 50M tokens in a minute as they come from the Hub
CORPUS_RATE = 50e6 / 60
_PROBES = 5  # beside the table
_SPELLED = 2.2  # ids of an answer of the table in the tree of all spellings, 77 of the 36 products
_OVERLAP = 4 / 3  # of the windows over held-out text
_STATE = 16
_ACTIVATIONS = 34
_LOGITS = 8  # bytes of a logit and its gradient, fp32
_CHUNK = 512  # positions whose logits are there at once in pretraining
_CUDA = 1e9  # of CUDA and its libraries on the GPU; assumed
_PROCESS = 1e9  # of a process that has imported torch and transformers; assumed
_DRIVER = 3e9  # of one that holds CUDA too; assumed
_FILLED = 0.9  # share of a memory that cells side by side may be planned to take


class Lengths(NamedTuple):
    """Rows of a task and their tokens: means of prompt and completion, and the spread of ln of a row's length."""

    rows: int
    prompt: float
    completion: float
    spread: float

    @property
    def row(self) -> float:
        return self.prompt + self.completion

    def longest_of(self, rows: int) -> float:
        """Expected length of the longest of so many rows, to which a batch is padded: Blom's (1958) normal score on the
        scale of ln."""
        score = NormalDist().inv_cdf((rows - 0.375) / (rows + 0.25))
        return self.row * math.exp(self.spread * score - self.spread**2 / 2)


# openai/gsm8k, GPT-2 tokens, eos counted: the published rows, so that the plan reads nothing
_GSM8K = {"train": Lengths(7_473, 59.9, 96.2, 0.34), "test": Lengths(1_319, 61.5, 98.7, 0.34)}


@dataclass(frozen=True)
class Work:
    """What one stage computes. `decoded`: tokens made one after the other, each a wait for all layers; `passes`: of
    training, each at least such a wait; `eager`: by transformers, not by the compiled model of pretraining."""

    tokens: float = 0.0
    flops: float = 0.0
    decoded: float = 0.0
    passes: float = 0.0
    eager: bool = True

    def plus(self, other: "Work", times: int = 1) -> "Work":
        """This and so many times another of the same kind."""
        return Work(
            self.tokens + times * other.tokens,
            self.flops + times * other.flops,
            self.decoded + times * other.decoded,
            self.passes + times * other.passes,
            self.eager,
        )


def lengths(trial: Trial, name: str, split: str) -> Lengths:
    """Lengths of a task's rows in the trial's tokens; GSM8K's as published, of others from the rows themselves."""
    per_token = characters_a_token(trial.tokenizer.merges)
    if name == "gsm8k":
        known, scale = _GSM8K[split], characters_a_token(50_000) / per_token
        return Lengths(known.rows, known.prompt * scale, known.completion * scale, known.spread)
    rows = (
        source_examples(trial, name, frozenset())
        if split == "train"
        else get_task(name, trial, frozenset()).examples(split)
    )

    def sizes(row: Example) -> tuple[float, float]:
        return len(row.prompt) / per_token, len(row.completion) / per_token + 1

    prompts, completions = zip(*map(sizes, rows), strict=True)
    totals = [math.log(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return Lengths(len(rows), fmean(prompts), fmean(completions), stdev(totals) if len(totals) > 1 else 0.0)


def work(trial: Trial) -> dict[str, Work]:
    """Work of one cell, by stage; the evaluations together."""
    found, evaluations = {}, Work()
    for stage, made in work_by_stage(trial).items():
        if stage.startswith("eval_"):
            evaluations = evaluations.plus(made)
        else:
            found[stage] = made
    return found | {"evaluate": evaluations}


def work_by_stage(trial: Trial) -> dict[str, Work]:
    """Work of one cell, stage by stage in order."""
    found = dict.fromkeys(stages(trial), Work())
    found["pretrain"] = _pretrain(trial)
    if trial.sft:
        found["sft"] = _sft(trial, trial.sft)
    evaluation = _evaluation(trial)
    found |= {stage: evaluation for stage in found if stage.startswith("eval_")}
    if trial.grpo:
        found["grpo"] = _grpo(trial)
        found[before_grpo(trial)] = evaluation.plus(_pass_at_k(trial))
    return found


def expected_seconds(trial: Trial, measured: Mapping[str, Collection[float]]) -> dict[str, float]:
    """Seconds of each stage of one cell, by which stages are weighed against each other: the median of those `measured`
    on cells that are done; of other stages the plan's for this machine, scaled as the measured ones are to theirs."""
    planned = _planned_seconds(trial.model_dump_json())
    known = {stage: median(measured[stage]) for stage in planned if measured.get(stage)}
    scale = sum(known.values()) / sum(planned[stage] for stage in known) if known else 1.0
    return {stage: known.get(stage, scale * seconds) for stage, seconds in planned.items()}


@lru_cache(maxsize=1)  # whoever watches a run asks every other second, and problems are made up to be measured
def _planned_seconds(trial_json: str) -> dict[str, float]:
    trial = Trial.model_validate_json(trial_json)
    try:
        here = this_machine({})
    except SettingsError:
        here = Group(1, DEVICES[0])  # a GPU that the table does not know: as another one weighs its stages
    return {stage: 3600 * took for stage, took in hours(trial, work_by_stage(trial), here).items()}


def corpus_tokens(trial: Trial) -> float:
    """Tokens that the corpus stage encodes, once for all arms: text, and each fold's drills."""
    folds = max(1, trial.corpus.drills.never_asked_folds)
    return text_tokens(trial) + folds * sum(drills_wanted(trial).values())


def corpus_hours(trial: Trial) -> float:
    """Hours of the corpus stage at the pace of a stream from the Hub, which no GPU quickens."""
    return corpus_tokens(trial) / CORPUS_RATE / 3600


def hours(trial: Trial, made: dict[str, Work], where: Group) -> dict[str, float]:
    """Hours of each stage of one cell. Pretraining takes all the group's GPUs, every other stage one of them."""
    device, found = where.device, {}
    for stage, part in made.items():
        waits = part.decoded * trial.pretrain.n_layer * device.decode
        seconds = computing(trial, part, where) + waits + device.start
        compiled = not part.eager and trial.pretrain.compiles("cuda", vocabulary_size(trial))
        found[stage] = (seconds + (device.compile if compiled else 0.0)) / 3600
    return found


def computing(trial: Trial, part: Work, where: Group) -> float:
    """Seconds of arithmetic; where the model is small, of waiting for the launches of every pass."""
    device = where.device
    rate = device.tflops * 1e12 * device.mfu * (device.trainer if part.eager else where.number)
    passes = part.passes if part.eager else max(trial.pretrain.steps, part.passes / where.number)
    return max(part.flops / rate, passes * trial.pretrain.n_layer * device.decode)


def _forward(trial: Trial) -> float:
    """FLOPs of a token's forward pass."""
    return trial.pretrain.flops_per_token(vocabulary_size(trial)) / 3


def _batches(items: int, trial: Trial) -> int:
    return math.ceil(items / trial.evaluate.batch)


def _questions(trial: Trial) -> int:
    """Questions of the table: 81 of the 45 products of 1 to 9."""
    return sum(len(fact.wordings) for fact in build_facts(trial.facts))


def _pretrain(trial: Trial) -> Work:
    """The steps; and the table, asked at every probe."""
    settings = trial.pretrain
    probed = settings.probes * _batches(_questions(trial), trial) * trial.evaluate.new_tokens
    passes = settings.tokens / (settings.micro_batch * settings.context)
    return Work(settings.tokens, 3 * _forward(trial) * settings.tokens, probed, passes, eager=False)


def _sft(trial: Trial, settings: SFT) -> Work:
    """Every batch padded to its longest row; held rows solved after each epoch."""
    total = Work()
    for stage in settings.stages:
        sources = [(lengths(trial, each.source, "train"), each.weight) for each in stage.sources]
        rows = round(sum(known.rows * weight for known, weight in sources))
        held = min(settings.held, rows // 10)
        steps = math.ceil((rows - held) / settings.batch) * stage.epochs
        longest = sum(known.longest_of(settings.batch) * known.rows * weight for known, weight in sources) / rows
        tokens = steps * settings.batch * min(longest, settings.max_length, trial.pretrain.context)
        solved = stage.epochs * _batches(held, trial) * trial.evaluate.solution_tokens
        total = total.plus(Work(tokens, 3 * _forward(trial) * tokens, solved, steps))
    return total


def _grpo(trial: Trial) -> Work:
    """One pass over the prompts: generation, the reference model's forward and, where completions are used more than
    once, the old policy's; training on them so often."""
    assert trial.grpo is not None
    settings, known = trial.grpo, lengths(trial, trial.grpo.task, "train")
    steps = min(settings.prompts, known.rows) // settings.batch
    tokens = steps * settings.batch * settings.generations * (known.prompt + settings.new_tokens)
    used = settings.num_iterations
    passes = 1 + (settings.kl > 0) + (used > 1) + 3 * used
    return Work(tokens, passes * _forward(trial) * tokens, steps * settings.new_tokens)


def _pass_at_k(trial: Trial) -> Work:
    assert trial.grpo is not None
    settings, known = trial.grpo, lengths(trial, trial.grpo.task, "train")
    samples = min(PASS_PROMPTS, known.rows) * settings.generations
    tokens = samples * (known.prompt + settings.new_tokens)
    return Work(tokens, _forward(trial) * tokens, _batches(samples, trial) * settings.new_tokens)


def _evaluation(trial: Trial) -> Work:
    """One evaluation: probes, the answers of the table, held-out text, problems solved and their gold solutions."""
    settings = trial.evaluate
    table, answers = _questions(trial), len(build_facts(trial.facts).answers)
    probes = table + _PROBES * settings.probes_each
    text = 2 * _OVERLAP * settings.heldout_bytes / characters_a_token(trial.tokenizer.merges)
    tokens = probes * 2 * settings.new_tokens + table * answers * _SPELLED + text
    decoded = _batches(probes, trial) * settings.new_tokens + _batches(table, trial)
    for task in settings.tasks:
        known = lengths(trial, task, "test")
        rows = min(settings.limit or known.rows, known.rows)
        tokens += rows * (known.prompt + settings.solution_tokens + known.row)
        decoded += _batches(rows, trial) * settings.solution_tokens
    return Work(tokens, _forward(trial) * tokens, decoded)


def cells_at_a_time(trial: Trial, where: Group) -> int:
    """Cells that train side by side on a machine: one a core of a processor; on one GPU as many as it takes to fill the
    time in which a cell's kernels wait for their launch, and as its memory, the machine's and its cores allow. Several
    GPUs share each cell instead."""
    device = where.device
    if not device.cuda or where.number > 1:
        return device.workers
    part = work(trial)["pretrain"]
    waits = part.passes * trial.pretrain.n_layer * device.decode
    wanted = 1 + int(waits / (part.flops / (device.tflops * 1e12 * device.mfu)))
    on_gpu = int(_FILLED * device.memory_gb / gpu_gb(trial, 1))
    on_host = int(_FILLED * psutil.virtual_memory().available / 1e9 / host_gb(trial, True, 1))
    return max(1, min(wanted, on_gpu, on_host, cores()))


def gpu_gb(trial: Trial, number: int) -> float:
    """GB of each of so many GPUs, in the stage that takes most."""
    return (_CUDA + _most(trial, number, 1)) / 1e9


def host_gb(trial: Trial, on_gpu: bool, workers: int) -> float:
    """GB of the machine while cells are at work, so many at a time."""
    weights = 4 * trial.pretrain.parameters(vocabulary_size(trial))
    if on_gpu:
        return (_DRIVER + 3 * weights) * workers / 1e9  # a model is read, moved and written
    return (_PROCESS + _most(trial, 1, 2)) * workers / 1e9


def _most(trial: Trial, number: int, width: int) -> float:
    """Bytes of the largest stage, activations in 16 bit or, `width` 2, in 32."""
    shape, vocabulary = trial.pretrain, vocabulary_size(trial)
    parameters = shape.parameters(vocabulary)

    def bytes_of(rows: int, tokens: float, logits: float) -> float:
        activations = _ACTIVATIONS * width * shape.n_embd * shape.n_layer * rows * tokens
        return _STATE * parameters + activations + _LOGITS * vocabulary * logits

    rows = min(shape.micro_batch, shape.batch_tokens // shape.context // number)
    found = [bytes_of(rows, shape.context, min(_CHUNK, rows * shape.context))]
    if trial.sft:
        tokens = min(trial.sft.max_length, shape.context)
        found.append(bytes_of(trial.sft.batch, tokens, trial.sft.batch * tokens))
    if trial.grpo:
        rollouts, new = trial.grpo.batch * trial.grpo.generations, trial.grpo.new_tokens
        whole = lengths(trial, trial.grpo.task, "train").prompt + new
        reference = 4 * parameters if trial.grpo.kl else 0
        found.append(bytes_of(rollouts, whole, rollouts * new) + reference)
    return max(found)
