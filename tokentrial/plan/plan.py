"""The plan: what a trial computes, how long it takes, what it costs and what it can show, before anything is run.

Nothing is written, no network is asked, torch is not imported. Every figure rests on `settings`, on the device table
and on the assumptions that the plan names.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.devices import DECODE_SECONDS, HERE, SHOWN, TRAINER_SHARE, Group, group
from tokentrial.errors import SettingsError
from tokentrial.plan.budget import Part, affordable, budget_order, shares
from tokentrial.plan.disk import beyond_limit, peak_gb
from tokentrial.plan.power import Noise, seeds
from tokentrial.plan.work import cells_at_a_time, computing, gpu_gb, host_gb, hours, work
from tokentrial.report.outcomes import check_outcomes
from tokentrial.statistics.power import mde
from tokentrial.steps import corpus
from tokentrial.steps.costs import vocabulary_size
from tokentrial.steps.stage import stages
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial

# pretraining tokens of the shipped sizes
SIZES = {"50M": 190 * 262_144, "200M": 763 * 262_144, "1B": 2_000 * 524_288, "10B": 19_073 * 524_288}
_MOST_SEEDS = 10_000  # that a budget is spent on
_GSM8K = (
    "GSM8K accuracy stays at its floor: 0 of 100 in both arms at 124M parameters and 50M tokens, after fine-tuning, in "
    "the original report; no run that we know leaves it at these sizes. Read gold_nats_per_byte there."
)
_SAME_NOISE = "The noise is assumed to be the same at every size; a pilot at the size itself is the only check."


def plan(trial: Trial, groups: Sequence[Group], noise: Noise) -> dict[str, Any]:
    """The whole plan, as JSON holds it."""
    for name in trial.arms:
        arms.get_arm(name)
    check_outcomes(trial, [stage.measures for stage in stages(trial) if stage.measures])
    stage_work, planned_seeds = work(trial), seeds(trial, noise)
    cells = len(trial.arms) * len(trial.seeds)
    encoded = corpus.tokens(trial)
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "cells": cells,
        "parameters": trial.pretrain.parameters(vocabulary_size(trial)),
        "tokens": encoded + cells * sum(part.tokens for part in stage_work.values()),
        "flops": cells * sum(part.flops for part in stage_work.values()),
        "disk_peak_gb": max(disk_gb(trial, machine.device.workers) for machine in groups),
        "corpus": {"tokens": encoded, "gb": corpus.disk_bytes(trial) / 1e9, "hours": corpus.hours(trial)},
        "stages": {stage: {"tokens": part.tokens, "flops": part.flops} for stage, part in stage_work.items()},
        "devices": {machine.name: costs(trial, machine) for machine in groups},
        "seeds_needed": planned_seeds,
        "variants": variants(trial, groups),
        "assumptions": assumptions(groups),
        "notes": notes(trial, groups, planned_seeds),
    }


def budget_notes(trial: Trial) -> list[str]:
    """What to know before money is spent on other sizes."""
    return [*([_GSM8K] if "gsm8k" in trial.evaluate.tasks else []), _SAME_NOISE]


def disk_gb(trial: Trial, workers: int) -> float:
    """GB of the run folder at its peak, with the reserve that the trial leaves free."""
    return peak_gb(trial, workers) + trial.disk_reserve_gb


def chosen_groups(trial: Trial, devices: Sequence[str], prices: dict[str, float]) -> list[Group]:
    """The devices that were asked for; else those of the table whose number divides the rows of a step, and this
    machine."""
    if not devices:
        shown = [group(name, prices) for name in (*SHOWN, HERE)]
        return [_shared(trial, machine) for machine in shown if _divides(trial, machine)]
    groups = [_shared(trial, group(name, prices)) for name in devices]
    for machine in groups:
        if not _divides(trial, machine):
            raise SettingsError(
                f"--device {machine.name}: its GPUs do not share the {_rows(trial)} rows of a step "
                "(pretrain.batch_tokens / context) evenly, in whole micro-batches; give another number"
            )
    return groups


def _shared(trial: Trial, machine: Group) -> Group:
    """This machine with the cells that a run would put on it side by side; of others the cores are not known."""
    if machine.device.name != HERE:
        return machine
    return machine._replace(device=machine.device._replace(workers=cells_at_a_time(trial, machine)))


def measured(trial: Trial, groups: Sequence[Group], prices: dict[str, float]) -> list[Group]:
    """The groups, this machine among them with the speed that the trial's own training steps have on it."""
    from tokentrial.pretrain.measure import measure

    this = next((machine for machine in groups if machine.device.name == HERE), None) or group(HERE, prices)
    seen = measure(trial.pretrain, vocabulary_size(trial))
    flops = trial.pretrain.flops_per_token(vocabulary_size(trial))
    mfu = seen.tokens_per_s * flops / (this.device.tflops * 1e12)
    source = f"measured in {seen.steps} steps: {seen.tokens_per_s:,.0f} tokens/s a worker"
    device = this.device._replace(mfu=mfu, source=source)
    return [*(machine for machine in groups if machine is not this), this._replace(device=device)]


def costs(trial: Trial, machine: Group) -> dict[str, Any]:
    """Hours and dollars on a device: the corpus once, then the cells, as many at a time as there are workers."""
    device, stage_work = machine.device, work(trial)
    by_stage = hours(trial, stage_work, machine)
    cells = len(trial.arms) * len(trial.seeds)
    total = corpus.hours(trial) + _waves(cells, device.workers) * sum(by_stage.values())
    needed = gpu_gb(trial, machine.number) if device.cuda else None
    host = host_gb(trial, bool(device.cuda), device.workers)
    return {
        "hours_per_cell": by_stage,
        "corpus_hours": corpus.hours(trial),
        "hours": total,
        "dollars": None if device.price is None else total * machine.number * device.price,
        "price": device.price,
        "priced": device.priced,
        "gpu_memory_gb": needed,
        "host_memory_gb": host,
        "disk_peak_gb": disk_gb(trial, device.workers),
        "fits": (needed if needed is not None else host) <= device.memory_gb,
        "mfu": device.mfu,
        "tokens_per_s": device.workers * trial.pretrain.tokens / computing(trial, stage_work["pretrain"], machine),
    }


def variants(trial: Trial, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What each variant takes on top, in the trial's own reserve of disk. Its corpus is counted whole: what it shares
    costs less."""
    return [
        {
            "name": f"{variant.kind} {variant.name}",
            "cells": len(variant.trial.arms) * len(variant.trial.seeds),
            "disk_gb": max(peak_gb(variant.trial, machine.device.workers) for machine in groups),
            "devices": {machine.name: _brief(variant.trial, machine) for machine in groups},
        }
        for variant in to_run(trial)
    ]


def sized(trial: Trial, tokens: int) -> Trial:
    """The trial with another budget of pretraining, in steps of its own size, and the text that it takes."""
    steps = max(1, round(tokens / trial.pretrain.batch_tokens))
    update = {
        "pretrain": trial.pretrain.model_copy(update={"steps": steps}),
        "corpus": trial.corpus.model_copy(update={"tokens": "budget"}),
    }
    return trial.model_copy(update=update)


def _brief(trial: Trial, machine: Group) -> dict[str, Any]:
    cost = costs(trial, machine)
    return {key: cost[key] for key in ("hours", "dollars", "fits")}


def bought(trial: Trial, dollars: float, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Which seeds of the trial as it is declared, and of its variants, the money buys on each device, and what is
    left."""
    purchases = []
    for machine in groups:
        rate, parts = machine.number * (machine.device.price or 0.0), []
        for name, variant in budget_order(trial):
            cell = rate * sum(hours(variant, work(variant), machine).values())
            seeds_of = {seed: [cell] * len(variant.arms) for seed in variant.seeds}
            parts.append(Part(name, seeds_of, machine.device.workers, rate * corpus.hours(variant)))
        bought_seeds, _ = affordable(parts, dollars)
        purchases += [{"device": machine.name} | share._asdict() for share in shares(parts, bought_seeds)]
    return purchases


def budget(trial: Trial, dollars: float, groups: Sequence[Group], noise: Noise) -> list[dict[str, Any]]:
    """What fits the money on each device: seeds of each size, variants included, with all arms and with the two of the
    primary contrast, and the effect that so many seeds find with a chance of 80 %. Of a trial with a ladder a size is
    that one with all that are smaller."""
    rows = []
    sd, smallest = noise.planning_sd, trial.verdict.margin(trial.verdict.primary)
    for machine in groups:
        if not machine.device.price:
            raise SettingsError(
                f"--budget: {machine.name} has no price; give --device A40 or --price '{machine.device.name}=0.5'"
            )
        for size, of_arms in _sizes(trial):
            for narrowed, family in of_arms:
                spend = _Spending(narrowed, family, machine)
                count = bisect_right(range(1, _MOST_SEEDS + 1), dollars, key=spend.dollars)
                effect = None if sd is None else mde(sd, count, trial.verdict.alpha)
                rows.append(
                    {
                        "device": machine.name,
                        "size": size,
                        "arms": narrowed.arms,
                        "seeds": count,
                        "dollars_a_seed": spend.a_seed,
                        "dollars_corpus": spend.once,
                        "hours": spend.hours(count),
                        "effect80": effect,
                        "enough": effect is not None and smallest is not None and effect <= smallest,
                    }
                )
    return rows


def _sizes(trial: Trial) -> list[tuple[str, list[tuple[Trial, list[Trial]]]]]:
    """The sizes that money may buy, by name; of each, with all arms and with two, the trial and all that is run."""
    if trial.ladder is None:
        return [
            (size, [(narrowed, _family(narrowed)) for narrowed in with_arms(sized(trial, tokens))])
            for size, tokens in SIZES.items()
        ]
    families = [(narrowed, _family(narrowed)) for narrowed in with_arms(trial)]
    in_order = [name for name, _ in budget_order(trial)]  # the sizes by compute, then what is no size
    return [
        (f"up to {name.removeprefix('ladder ')}", [(narrowed, family[: number + 1]) for narrowed, family in families])
        for number, name in enumerate(in_order)
        if name.startswith("ladder ")
    ]


def _family(trial: Trial) -> list[Trial]:
    return [variant for _, variant in budget_order(trial)]


def with_arms(trial: Trial) -> list[Trial]:
    """The trial with all its arms, and with those of the primary contrast alone."""
    pair = trial.verdict.primary.arms
    secondary = [compared for compared in trial.verdict.secondary if set(compared.arms) <= set(pair)]
    update = {
        "arms": [arm for arm in trial.arms if arm in pair],
        "control": trial.control if trial.control in pair else pair[1],
        "verdict": trial.verdict.model_copy(update={"secondary": secondary}),
    }
    return [trial, trial.model_copy(update=update)] if len(trial.arms) > 2 else [trial]


class _Spending:
    """Hours and dollars of a trial and its variants by the number of seeds; its tuning has seeds of its own."""

    def __init__(self, trial: Trial, family: Sequence[Trial], machine: Group) -> None:
        tuning = [variant for variant in family if trial.tune and variant.seeds == trial.tune.seeds]
        self.parts = [
            (len(variant.arms), sum(hours(variant, work(variant), machine).values()), corpus.hours(variant))
            for variant in family
            if variant not in tuning
        ]
        self.tuning = sum([_brief(variant, machine)["hours"] for variant in tuning], 0.0)
        self.workers, self.rate = machine.device.workers, machine.number * (machine.device.price or 0)
        self.a_seed = self.rate * sum(arms * cell for arms, cell, _ in self.parts) / self.workers
        self.once = self.rate * (self.tuning + sum(once for _, _, once in self.parts))

    def hours(self, seeds: int) -> float:
        of_seeds = [once + _waves(arms * seeds, self.workers) * cell for arms, cell, once in self.parts]
        return sum(of_seeds, self.tuning)

    def dollars(self, seeds: int) -> float:
        return self.rate * self.hours(seeds)


def _waves(cells: int, workers: int) -> int:
    """How often so many workers take cells until all are done."""
    return -(-cells // workers)


def assumptions(groups: Sequence[Group]) -> list[str]:
    """What the hours rest on, one line each."""
    speeds = {
        machine.device.name: f"{machine.device.name} {machine.device.mfu:.0%} ({machine.device.source})"
        for machine in groups
    }
    prices = {
        machine.device.name: f"{machine.device.name} {machine.device.price:g} ({machine.device.priced})"
        for machine in groups
        if machine.device.price is not None
    }
    others = {
        machine.device.name: f", {machine.device.name} {machine.device.trainer:.2f}"
        for machine in groups
        if machine.device.cuda and machine.device.trainer != TRAINER_SHARE
    }
    return [
        f"MFU of pretraining: {'; '.join(speeds.values())}.",
        "Several GPUs are so many times one in pretraining; corpus, SFT, GRPO and evaluation use one of them, and all "
        "are paid for.",
        f"SFT, GRPO and scoring on a GPU: {TRAINER_SHARE:.2f} of pretraining's speed, the original report's "
        f"fine-tuning against its pretraining{''.join(others.values())}; batches padded to their longest row.",
        f"Decoding on a GPU: {1000 * DECODE_SECONDS:.2f} ms per layer and decoding step: 80,000 rollouts in 2.2 h.",
        f"Corpus: {corpus.RATE / 1e6:.2f}M tokens/s, the original report's preparation; "
        "a local or larger machine is faster.",
        f"Dollars per hour and GPU: {'; '.join(prices.values())}; --price NAME=DOLLARS.",
    ]


def notes(trial: Trial, groups: Sequence[Group], planned_seeds: Mapping[str, Any]) -> list[str]:
    """What a reader of this trial's plan must know beside the figures."""
    texts = []
    outcome, largest = planned_seeds["outcome"], planned_seeds["largest_effect"]
    finds, effect = (planned_seeds[key] or 0 for key in ("mde80", "smallest_effect"))
    if largest and max(finds, effect) > largest:
        words = f"the seeds find {finds:.3g}" if finds > largest else f"the smallest effect is {effect:g}"
        texts.append(
            f"No improvement would be found in four trials of five: {outcome} rises above its floor by {largest:.2g} "
            f"at the most, and {words}; declare more seeds, or an outcome with less noise, such as choice_logprob, and "
            "its smallest effect."
        )
    held, read = corpus.held_tokens(trial), (1 - trial.corpus.drills.share) * trial.pretrain.tokens
    if held is not None and read > held * trial.corpus.epochs:
        texts.append(
            f"corpus.source: {trial.corpus.source} holds about {held / 1e6:,.0f}M tokens, and the steps read "
            f"{read / 1e6:,.0f}M: give more text or corpus.epochs."
        )
    if held is None and trial.corpus.tokens == "all":
        texts.append(f"corpus.source: what {trial.corpus.source} holds is not known; planned with what the steps read.")
    if trial.budget.match == "bytes":
        texts.append("budget.match is bytes: arms with shorter text take fewer steps than planned here.")
    beyond = {machine.device.workers: beyond_limit(trial, machine.device.workers) for machine in groups}
    texts += [f"With {workers} workers: {why}." for workers, why in beyond.items() if why]
    small = [machine.name for machine in groups if not costs(trial, machine)["fits"]]
    if small:
        texts.append(f"Too little memory: {', '.join(small)}; lower pretrain.micro_batch, sft.batch or grpo.batch.")
    return texts


def _rows(trial: Trial) -> int:
    return trial.pretrain.batch_tokens // trial.pretrain.context


def _divides(trial: Trial, machine: Group) -> bool:
    """Whether the GPUs share the rows of a step evenly, in whole micro-batches, as ranks do."""
    mine, rest = divmod(_rows(trial), machine.number)
    return not rest and mine % min(trial.pretrain.micro_batch, mine) == 0
