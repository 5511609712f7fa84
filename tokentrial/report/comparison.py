"""`comparison_report.json`: outcomes by arm and seed, contrasts, gate, declaration and the verdict; the table of all
results; and the page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from tokentrial.arms.arm import arm_names, get_arm
from tokentrial.facts.families import build_facts
from tokentrial.report import run_summary
from tokentrial.report.items import EvaluationFolders, ItemSummary
from tokentrial.report.outcomes import METRICS
from tokentrial.report.results import (
    RESULTS,
    RESULTS_CSV,
    CellResults,
    ResultsTable,
    most_asked_answer,
    read_evaluation,
    shared_items,
)
from tokentrial.report.tuning import tuning
from tokentrial.report.variants import VariantReport, reruns, swept, variant_reports
from tokentrial.store.files import fingerprint, read_json, sealed, write_bytes, write_json
from tokentrial.store.folders import read_intact_json, read_manifest
from tokentrial.store.provenance import provenance
from tokentrial.trial.declaration import Standing
from tokentrial.trial.trial import Trial

VERSION = 17  # 16 took a trend over the seeds that were left for the declared one
REPORT = "comparison_report.json"
PAGE = "report.html"
TEXT = "report.md"


def build(
    trial: Trial,
    evaluations: EvaluationFolders,
    standing: Standing,
    seconds: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Build the report from what is there, write `comparison_report.json`, `results.parquet`, `results.csv`,
    `report.md`, `report.html` and `figures/`, and return it.

    At once where nothing changed. `evaluations` holds every cell's up-to-date results, stage by stage in order; stages
    that some needed cells lack are named under `missing`. `seconds` are those that each stage took, by cell; they alone
    make no report anew.
    """
    reports = variant_reports(trial, REPORT, VERSION)
    wanted = fingerprint(
        "report",
        VERSION,
        cells={
            f"{arm}/{seed}/{stage}": _identity(folder)
            for (arm, seed), by_stage in evaluations.items()
            for stage, folder in by_stage.items()
        },
        standing=[standing.sha256, standing.departures, standing.withheld, standing.declared.verdict.model_dump()],
        declared=[standing.declared.arms, standing.declared.seeds, standing.declared.control],
        metrics=sorted(METRICS),
        arms=trial.arms,
        seeds=trial.seeds,
        grpo=_grpo(trial),
        tuning=tuning(trial),
        variants=[[variant.kind, variant.name, report and report["fingerprint"]] for variant, report in reports],
    )
    path, page = trial.folder / REPORT, trial.folder / PAGE
    whole = page.exists() and all((trial.folder / name).exists() for name in (REPORT, RESULTS, RESULTS_CSV, TEXT))
    if whole and (before := read_json(path, "fingerprint"))["fingerprint"] == wanted:
        stored: dict[str, Any] = before
        return stored
    content = _report(trial, evaluations, standing, reports)
    content |= {"seconds": dict(seconds), "fingerprint": wanted}
    # as the file will hold it, NaN as null and numpy as lists: page and tables show what a reader of the file gets
    report: dict[str, Any] = sealed(orjson.loads(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)))
    from tokentrial.report.page import write_page
    from tokentrial.report.text_report import markdown

    # the JSON last: its fingerprint says that the others are there
    write_bytes(trial.folder / TEXT, markdown(report).encode())
    write_page(report, page)
    write_json(path, report)
    return report


def _identity(folder: Path) -> list[Any]:
    """What of an evaluation a report is of: one that was made again is another, whatever it was made from."""
    manifest = read_manifest(folder)
    return [manifest["fingerprint"], manifest["files"], manifest["provenance"]]


def _report(
    trial: Trial, evaluations: EvaluationFolders, standing: Standing, reports: Sequence[VariantReport]
) -> dict[str, Any]:
    from tokentrial.report.analysis import analyse
    from tokentrial.report.ladder import ladder

    facts, declared = build_facts(trial.facts), standing.declared
    choice_floor = -math.log(len(facts.answers))  # every answer of the table as likely as the others
    exposure = read_json(trial.folder / "corpus" / "exposure.json")
    results, items = _read(trial, evaluations, exposure, declared.arms)
    trained = {
        (arm, seed): read_intact_json(trial.folder / arm / f"seed{seed}" / "pretrain", "results.json")
        for arm, seed in results
    }
    analysis = analyse(
        results,
        declared,
        table=facts.table_task,
        choice_floor=choice_floor,
        arms=trial.arms,
        seeds=trial.seeds,
        reruns=reruns(reports, declared.verdict.primary.outcome),
        withheld=standing.withheld,
    )
    primary, look = analysis.contrasts[0], analysis.look
    stages = list(dict.fromkeys(stage for by_stage in evaluations.values() for stage in by_stage))
    needed = declared.needed(trial.seeds, look.wanted)
    report = {
        "version": VERSION,
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "stages": stages,
        "declared": {"arms": declared.arms, "seeds": declared.seeds, "control": declared.control}
        | declared.verdict.model_dump(mode="json"),
        "declaration": {"sha256": standing.sha256, "since": standing.since, "departures": standing.departures}
        | {"withheld": standing.withheld},
        "primary": {"outcome": primary["outcome"], "contrast": f"{primary['treatment']} - {primary['control']}"}
        | {key: primary[key] for key in ("verdict", "note")},
        "look": look._asdict() | {"boundary": look.boundary},
        "gate": analysis.gate,
        "contrasts": analysis.contrasts,
        "added": analysis.added,
        "budgets": analysis.budgets,
        "outcomes": analysis.outcomes,
        "tuning": tuning(trial),
        "sweep": swept(trial, reports, analysis),
        "curves": run_summary.learning_curves(trained),
        "consumed": run_summary.consumed(trial, exposure, evaluations, trained),
        "facts": {"table": facts.table_task, "facts": len(facts), "choice_floor": choice_floor}
        | {"questions": {question: list(place) for question, place in facts.table_cells.items()}}
        | {"axes": facts.table_axes},
        "tables": items.tables(),
        "checks": items.checks(),
        "corpus": run_summary.corpus_checks(trial.folder / "corpus", trial.arms),
        "dose": run_summary.dose(exposure, trial.arms, trial.seeds),
        "mechanism": run_summary.mechanism(trial.arms, trial.seeds, evaluations),
        "samples": items.samples(),
        "ran": run_summary.declared_and_ran(
            trial, trained, standing, look.wanted if primary["verdict"] else len(declared.seeds)
        ),
        "arms_left_out": {name: get_arm(name).summary for name in arm_names() if name not in trial.arms},
        "settings": trial.model_dump(mode="json", exclude={"output"}),
        "grpo": _grpo(trial),
        "made_by": run_summary.made_by(evaluations, trained),
        "provenance": provenance(),
        "missing": [
            f"{arm}/seed{seed} {stage}"
            for (arm, seed), by_stage in evaluations.items()
            for stage in stages or ["pretrain"]
            if stage not in by_stage and seed in needed
        ],
    }
    return report | {"ladder": ladder(trial, declared, reports, report)}


def _read(
    trial: Trial, evaluations: EvaluationFolders, exposure: Mapping[str, Any], declared_arms: Sequence[str]
) -> tuple[dict[tuple[str, int], CellResults], ItemSummary]:
    """What every cell scored and answered, each file of samples parsed once, and all of it in the table of results.
    Shared items are those of the declared arms: an arm that is added must not change the others' values."""
    folders = [f for (arm, _), by_stage in evaluations.items() if arm in declared_arms for f in by_stage.values()]
    shared = shared_items(folders)
    results: dict[tuple[str, int], CellResults] = {}
    items, table = ItemSummary(trial, evaluations), ResultsTable(trial.folder)
    for (arm, seed), by_stage in evaluations.items():
        for stage, folder in by_stage.items():
            cell = results.setdefault((arm, seed), CellResults())
            drill_answer = most_asked_answer(exposure, arm, seed)
            rows = read_evaluation(cell, stage, folder, shared, drill_answer)
            items.add(arm, seed, stage, rows)
            table.add(arm, seed, stage, cell, rows)
    table.close()
    return results, items


def _grpo(trial: Trial) -> dict[str, Any] | None:
    """Whether GRPO went on, pass@k before it by cell, and whether a bonus that only some arms can earn was paid."""
    path = trial.folder / "grpo_decision.json"
    if trial.grpo is None or not path.exists():
        return None
    return {**read_json(path), "fact_token_bonus": trial.grpo.fact_token_bonus}
