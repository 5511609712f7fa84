"""`comparison_report.json`: outcomes by arm and seed, contrasts, gate, freeze and the verdict; and the page of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from tokentrial.arms.arm import arm_names, get_arm
from tokentrial.arms.families import build_facts
from tokentrial.report import run_summary
from tokentrial.report.items import EvaluationFolders, ItemSummary
from tokentrial.report.outcomes import CellResults, most_asked_answer, read_evaluation, untouched_documents
from tokentrial.report.variants import VariantReport, summarize_variants, variant_reports
from tokentrial.store.files import fingerprint, read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST
from tokentrial.store.provenance import provenance
from tokentrial.trial.trial import Trial

VERSION = 7
REPORT = "comparison_report.json"
PAGE = "report.html"


def build(
    trial: Trial,
    evaluations: EvaluationFolders,
    declared_now: Mapping[str, Any],
    declared_path: Path,
    seconds: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Build the report from what is there, write `comparison_report.json`, `report.md`, `report.html` and `figures/`,
    and return it.

    At once where nothing changed. `evaluations` holds every cell's up-to-date results, stage by stage in order; stages
    that some cells lack are named under `missing`. `seconds` are those that each stage took, by cell; they alone make
    no report anew.
    """
    frozen_before = (
        read_json(declared_path, "seeds", "control", "primary", "secondary") if declared_path.exists() else None
    )
    reports = variant_reports(trial, REPORT)
    wanted = fingerprint(
        "report",
        VERSION,
        cells={
            f"{arm}/{seed}/{stage}": read_json(folder / MANIFEST)["fingerprint"]
            for (arm, seed), by_stage in evaluations.items()
            for stage, folder in by_stage.items()
        },
        declared=[declared_now, frozen_before],
        arms=trial.arms,
        seeds=trial.seeds,
        grpo=_grpo(trial),
        beside=[[variant.kind, variant.name, report and report["fingerprint"]] for variant, report in reports],
    )
    path, page = trial.folder / REPORT, trial.folder / PAGE
    if path.exists() and page.exists() and (before := read_json(path, "fingerprint"))["fingerprint"] == wanted:
        stored: dict[str, Any] = before
        return stored
    content = _report(trial, evaluations, declared_now, frozen_before, reports)
    content |= {"seconds": dict(seconds), "fingerprint": wanted}
    # as the file will hold it, NaN as null and numpy as lists: page and tables show what a reader of the file gets
    report: dict[str, Any] = orjson.loads(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
    from tokentrial.report.page import write_page
    from tokentrial.report.tables import markdown

    # the JSON last: its fingerprint says that the others are there
    write_bytes(trial.folder / "report.md", markdown(report).encode())
    write_page(report, page)
    write_json(path, report)
    return report


def _report(
    trial: Trial,
    evaluations: EvaluationFolders,
    declared_now: Mapping[str, Any],
    frozen_before: Mapping[str, Any] | None,
    reports: Sequence[VariantReport],
) -> dict[str, Any]:
    from tokentrial.report.contrasts import contrast_arms
    from tokentrial.statistics.verdict import freeze

    facts = build_facts(trial.facts)
    choice_floor = -math.log(len(facts.answers))  # every answer of the table as likely as the others
    frozen, changes = freeze(declared_now, frozen_before)
    exposure = read_json(trial.folder / "corpus" / "exposure.json")
    results, items = _read(trial, evaluations, exposure)
    trained = {
        (arm, seed): read_json(trial.folder / arm / f"seed{seed}" / "pretrain" / "results.json")
        for arm, seed in results
    }
    contrasts = contrast_arms(trial, results, frozen, facts.table_task, choice_floor)
    stages = list(dict.fromkeys(stage for by_stage in evaluations.values() for stage in by_stage))
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "stages": stages,
        "declared": frozen,
        "extended": changes,
        **contrasts,
        **summarize_variants(trial, reports, frozen, contrasts["outcomes"], contrasts["primary"]["verdict"]),
        "curves": run_summary.learning_curves(trained),
        "consumed": run_summary.consumed(trial, exposure, evaluations, trained),
        "facts": {"table": facts.table_task, "facts": len(facts), "choice_floor": choice_floor},
        "tables": items.tables(),
        "checks": items.checks(),
        "corpus": run_summary.corpus_checks(trial.folder / "corpus", trial.arms),
        "dose": run_summary.dose(exposure, trial.arms, trial.seeds),
        "mechanism": run_summary.mechanism(trial.arms, trial.seeds, evaluations),
        "samples": items.samples(),
        "ran": run_summary.declared_and_ran(trial, trained, declared_now, frozen),
        "arms_left_out": {name: get_arm(name).summary for name in arm_names() if name not in trial.arms},
        "settings": trial.model_dump(mode="json", exclude={"output"}),
        "grpo": _grpo(trial),
        "made_by": run_summary.made_by(trial, evaluations),
        "provenance": provenance(),
        "missing": [
            f"{arm}/seed{seed} {stage}"
            for (arm, seed), by_stage in evaluations.items()
            for stage in stages or ["pretrain"]
            if stage not in by_stage
        ],
    }


def _read(
    trial: Trial, evaluations: EvaluationFolders, exposure: Mapping[str, Any]
) -> tuple[dict[tuple[str, int], CellResults], ItemSummary]:
    """What every cell scored and answered, each file of samples read once."""
    untouched = untouched_documents([folder for by_stage in evaluations.values() for folder in by_stage.values()])
    results: dict[tuple[str, int], CellResults] = {}
    items = ItemSummary(trial, evaluations)
    for (arm, seed), by_stage in evaluations.items():
        for stage, folder in by_stage.items():
            cell = results.setdefault((arm, seed), CellResults())
            drill_answer = most_asked_answer(exposure, arm, seed)
            items.add(arm, seed, stage, read_evaluation(cell, stage, folder, untouched, drill_answer))
    return results, items


def _grpo(trial: Trial) -> dict[str, Any] | None:
    """Whether GRPO went on, pass@k before it by cell, and whether a bonus that only some arms can earn was paid."""
    path = trial.folder / "grpo_decision.json"
    if trial.grpo is None or not path.exists():
        return None
    return {**read_json(path), "mul_bonus": trial.grpo.fact_token_bonus}
