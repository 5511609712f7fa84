"""How long the stages of a trial take on a device, the memory at their peak, and how many cells it holds at a time.

Seconds of a stage = FLOPs / (peak x MFU), at least a wait for each pass, + the waits of decoding + its start. SFT,
GRPO and scoring run at the Trainer's share of pretraining's speed (`devices.py`, where each figure's source stands).
What a stage computes stands in its file in `steps/`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from statistics import median

import psutil

from tokentrial.devices import Group, this_machine
from tokentrial.executors.worker import cores
from tokentrial.steps.costs import Work, vocabulary_size, weights_bytes
from tokentrial.steps.stage import stages
from tokentrial.trial.trial import Trial

_CUDA = 1e9  # of CUDA and its libraries on the GPU; assumed
_PROCESS = 1e9  # of a process that has imported torch and transformers; assumed
_DRIVER = 3e9  # of one that holds CUDA too; assumed
_FILLED = 0.9  # share of a memory that cells side by side may be planned to take


def work_by_stage(trial: Trial) -> dict[str, Work]:
    """Work of one cell, stage by stage in order."""
    return {stage.name: stage.work() for stage in stages(trial)}


def work(trial: Trial) -> dict[str, Work]:
    """Work of one cell, by stage; the evaluations together."""
    by_stage, evaluations = {}, Work()
    for stage in stages(trial):
        if stage.measures:
            evaluations = evaluations.plus(stage.work())
        else:
            by_stage[stage.name] = stage.work()
    return by_stage | {"evaluate": evaluations}


def expected_seconds(trial: Trial, measured: Mapping[str, Collection[float]]) -> dict[str, float]:
    """Seconds of each stage of one cell, by which stages are weighed against each other: the median of those `measured`
    on cells that are done; of other stages the plan's for this machine, scaled as the measured ones are to theirs."""
    planned = _planned_seconds(trial.model_dump_json())
    known = {stage: median(measured[stage]) for stage in planned if measured.get(stage)}
    scale = sum(known.values()) / sum(planned[stage] for stage in known) if known else 1.0
    return {stage: known.get(stage, scale * seconds) for stage, seconds in planned.items()}


def expected_of_family(
    family: Sequence[Trial], measured: Sequence[Mapping[str, Collection[float]]]
) -> list[dict[str, float]]:
    """`expected_seconds` of a trial and its variants. One of which nothing is measured takes as much longer than
    planned as those of which something is."""
    planned = [expected_seconds(trial, {}) for trial in family]
    known = [
        expected_seconds(trial, of) if any(of.values()) else {} for trial, of in zip(family, measured, strict=True)
    ]
    both = [(sum(k.values()), sum(p.values())) for k, p in zip(known, planned, strict=True) if k]
    pace = sum(k for k, _ in both) / sum(p for _, p in both) if both else 1.0
    return [k or {stage: pace * s for stage, s in p.items()} for k, p in zip(known, planned, strict=True)]


@lru_cache(maxsize=64)  # whoever watches a run asks every other second, and problems are made up to be measured
def _planned_seconds(trial_json: str) -> dict[str, float]:
    trial = Trial.model_validate_json(trial_json)
    machine = this_machine({}, trial.pretrain.device)
    return {stage: 3600 * of_stage for stage, of_stage in hours(trial, work_by_stage(trial), machine).items()}


def hours(trial: Trial, work_of: dict[str, Work], machine: Group) -> dict[str, float]:
    """Hours of each stage of one cell. Pretraining takes all the group's GPUs, every other stage one of them."""
    device, by_stage = machine.device, {}
    for stage, part in work_of.items():
        waits = part.decoded * trial.pretrain.n_layer * device.decode
        seconds = computing(trial, part, machine) + waits + device.start
        compiled = not part.eager and trial.pretrain.compiles("cuda", vocabulary_size(trial))
        by_stage[stage] = (seconds + (device.compile if compiled else 0.0)) / 3600
    return by_stage


def computing(trial: Trial, part: Work, machine: Group) -> float:
    """Seconds of arithmetic; where the model is small, of waiting for the launches of every pass."""
    device = machine.device
    rate = device.tflops * 1e12 * device.mfu * (device.trainer if part.eager else machine.number)
    passes = part.passes if part.eager else max(trial.pretrain.steps, part.passes / machine.number)
    return max(part.flops / rate, passes * trial.pretrain.n_layer * device.decode)


def cells_at_a_time(trial: Trial, machine: Group) -> int:
    """Cells that train side by side on a machine: one a core of a processor; on one GPU as many as it takes to fill the
    time in which a cell's kernels wait for their launch, and as its memory, the machine's and its cores allow. Several
    GPUs share each cell instead."""
    device = machine.device
    if not device.cuda or machine.number > 1:
        return device.workers
    part = work(trial)["pretrain"]
    waits = part.passes * trial.pretrain.n_layer * device.decode
    wanted = 1 + int(waits / (part.flops / (device.tflops * 1e12 * device.mfu)))
    on_gpu = int(_FILLED * device.memory_gb / gpu_gb(trial, 1))
    on_host = int(_FILLED * psutil.virtual_memory().available / 1e9 / host_gb(trial, True, 1))
    return max(1, min(wanted, on_gpu, on_host, cores()))


def gpu_gb(trial: Trial, number: int) -> float:
    """GB of each of so many GPUs, in the stage that takes most; activations in 16 bit."""
    return (_CUDA + _most(trial, number, 1)) / 1e9


def host_gb(trial: Trial, on_gpu: bool, workers: int) -> float:
    """GB of the machine while cells are at work, so many at a time; activations in 32 bit where it trains them."""
    if on_gpu:
        return (_DRIVER + 3 * weights_bytes(trial)) * workers / 1e9  # a model is read, moved and written
    return (_PROCESS + _most(trial, 1, 2)) * workers / 1e9


def _most(trial: Trial, gpus: int, width: int) -> float:
    return max(stage.memory_bytes(gpus, width) for stage in stages(trial))
