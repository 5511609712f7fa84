"""What to run next: each step with its reason, its command, and what it costs on this hardware. Commands are for the
folder in which the run was started, so that a relative source is found."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

from tokentrial.report.contrast_table import Report
from tokentrial.statistics.decision import EQUIVALENT, HELPS, HURTS, NOT_LEARNT
from tokentrial.statistics.power import planning_sd, seeds_needed

_MOST_SEEDS = 200  # seeds past which more of them are no plan


def next_steps(report: Report, folder: Path) -> list[dict[str, str]]:
    """Steps after a report whose run folder is `folder`, as it was given to the run."""
    settings, primary = report["settings"], report["contrasts"][0]
    verdict, wanted = primary["verdict"], report["look"]["wanted"]
    if verdict is None and primary["seeds"] and len(primary["seeds"]) < wanted and report["look"]["may_go_on"]:
        return [_step(f"go on to the next look, at {wanted} seeds", folder, f"output={folder}")]
    if report["missing"]:
        return [_step("finish what is missing", folder, f"output={folder}")]
    if verdict == NOT_LEARNT or not primary["seeds"]:  # nothing is missing: GRPO had no reward to learn from
        pretrain, epochs = settings["pretrain"], settings["corpus"]["epochs"]
        # twice the steps may need the text twice
        longer = f"pretrain.steps={2 * pretrain['steps']}", f"corpus.epochs={2 * epochs}"
        why = "train longer, until the control has learnt enough"
        overrides, cost = [*longer, *_elsewhere(report, folder, "longer")], _cost(report, 2 * len(report["seeds"]))
        return [_step(why, folder, *overrides, cost=cost)]
    steps = _fresh_seeds(report, folder)
    if settings["budget"]["match"] == "tokens" and not settings["robustness_reruns"]:
        why, other = "see whether the verdict holds where every arm reads the same text", "budget.match=bytes"
        overrides = [other, *_elsewhere(report, folder, "bytes")]
        steps.append(_step(why, folder, *overrides, cost=_cost(report, len(report["seeds"]))))
    return steps


def _step(why: str, folder: Path, *overrides: str, cost: str = "") -> dict[str, str]:
    words = ["tokentrial", "run", str(folder / "trial.yaml"), *overrides]
    return {"why": why, "command": shlex.join(words), "cost": cost}


def _elsewhere(report: Report, folder: Path, name: str) -> list[str]:
    """Settings that keep the results of this run: another folder and storage; and what need not be run again."""
    settings = report["settings"]
    overrides = [f"output={folder.with_name(f'{folder.name}-{name}') if folder.name else Path('..', name)}"]
    if settings["storage"]:
        overrides.append(f"storage={settings['storage'].rstrip('/')}-{name}")
    overrides += ["sweep={}"] if settings["sweep"] else []
    overrides += ["ladder=null"] if settings["ladder"] else []
    return [*overrides, *(["robustness_reruns=[]"] if settings["robustness_reruns"] else [])]


def _fresh_seeds(report: Report, folder: Path) -> list[dict[str, str]]:
    """As many fresh seeds as find again with 80 % power what was seen, or the smallest effect that matters where
    nothing was; none where that is not declared, where equivalence is shown, or where their number is no plan. Fresh:
    more of the same trial after a look are no test."""
    primary, seeds = report["contrasts"][0], report["seeds"]
    shown, differences = primary["verdict"] in (HELPS, HURTS), primary["differences"]
    effect = abs(primary["difference"]) if shown else primary["margin"]
    if effect is None or len(differences) < 2 or (primary["verdict"] or "").startswith(EQUIVALENT):
        return []
    sd = planning_sd(stdev(differences), len(differences))
    if not (needed := seeds_needed(effect, sd, report["declared"]["alpha"], most=_MOST_SEEDS)):
        return []
    folds = report["settings"]["corpus"]["drills"]["holdout_folds"] or 1
    needed = -(-needed // folds) * folds  # so that every fold counts equally
    tuning = report["tuning"]["seeds"] if report["tuning"] else []
    fresh = ",".join(str(max([*seeds, *tuning]) + 1 + number) for number in range(needed))
    looks = ["verdict.looks=null"] if report["settings"]["verdict"]["looks"] else []  # they end with other seeds
    why = f"{'confirm' if shown else 'decide'} on {needed} fresh seeds, which find a difference of {effect:.2g} four "
    overrides = [f"seeds=[{fresh}]", *looks, *_elsewhere(report, folder, "fresh")]
    return [_step(f"{why}times in five", folder, *overrides, cost=_cost(report, needed))]


def _cost(report: Report, seeds: int) -> str:
    """Time of the devices for so many seeds of every arm, from the seconds that the cells of this run took; another
    run tunes its arms again."""
    if tuning := report["tuning"]:
        seeds += len(tuning["seeds"]) * len(tuning.get("points", ()))
    seconds = [v for arm in report["consumed"].values() for key, v in arm.items() if key.endswith("seconds")]
    ran: Mapping[str, Any] = {row["setting"]: row["ran"] for row in report["ran"]}
    ranks = max((int(n.replace(",", "")) for n in ran["processes per cell"].split(", ") if n[:1].isdigit()), default=1)
    minutes = seeds * sum(seconds) * ranks / 60
    unit = "GPU" if ran["device"] == "cuda" else "CPU worker"
    return f"about {minutes:,.0f} {unit} minutes" if minutes < 180 else f"about {minutes / 60:,.1f} {unit} hours"
