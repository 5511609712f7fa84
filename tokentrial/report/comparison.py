"""`comparison_report.json`: outcomes by arm and seed, contrasts, gate, freeze and the verdict; and the page of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from tokentrial.arms.arm import find, names
from tokentrial.arms.families import facts_of
from tokentrial.report import family as families
from tokentrial.report import record
from tokentrial.report.evidence import Evaluated, Evidence
from tokentrial.report.outcomes import CellResults, favourite_answer, read_stage, untouched_documents
from tokentrial.store.files import fingerprint, read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST
from tokentrial.store.provenance import provenance
from tokentrial.trial.sweep import Variant
from tokentrial.trial.trial import Trial

VERSION = 7
REPORT = "comparison_report.json"
PAGE = "report.html"


def build(
    trial: Trial,
    evaluated: Evaluated,
    declared_now: Mapping[str, Any],
    declared_path: Path,
    seconds: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Build the report from what is there, write `comparison_report.json`, `report.md`, `report.html` and `figures/`,
    and return it.

    At once where nothing changed. `evaluated` holds every cell's up-to-date results, stage by stage in order; stages
    that some cells lack are named under `missing`. `seconds` are those that each stage took, by cell; they alone make
    no report anew.
    """
    frozen_before = (
        read_json(declared_path, "seeds", "control", "primary", "secondary") if declared_path.exists() else None
    )
    beside = families.reports(trial, REPORT)
    wanted = fingerprint(
        "report",
        VERSION,
        cells={
            f"{arm}/{seed}/{stage}": read_json(folder / MANIFEST)["fingerprint"]
            for (arm, seed), by_stage in evaluated.items()
            for stage, folder in by_stage.items()
        },
        declared=[declared_now, frozen_before],
        arms=trial.arms,
        seeds=trial.seeds,
        grpo=_grpo(trial),
        beside=[[variant.kind, variant.name, made and made["fingerprint"]] for variant, made in beside],
    )
    path, page = trial.folder / REPORT, trial.folder / PAGE
    if path.exists() and page.exists() and (before := read_json(path, "fingerprint"))["fingerprint"] == wanted:
        stored: dict[str, Any] = before
        return stored
    made = _compare(trial, evaluated, declared_now, frozen_before, beside)
    made |= {"seconds": dict(seconds), "fingerprint": wanted}
    # as the file will hold it: what shows it meets no other values than who reads the file
    report: dict[str, Any] = orjson.loads(orjson.dumps(made, option=orjson.OPT_SERIALIZE_NUMPY))
    from tokentrial.report.page import write_page
    from tokentrial.report.tables import markdown

    # the JSON last: its fingerprint says that the others are there
    write_bytes(trial.folder / "report.md", markdown(report).encode())
    write_page(report, page)
    write_json(path, report)
    return report


def _compare(
    trial: Trial,
    evaluated: Evaluated,
    declared_now: Mapping[str, Any],
    frozen_before: Mapping[str, Any] | None,
    beside: Sequence[tuple[Variant, Mapping[str, Any] | None]],
) -> dict[str, Any]:
    from tokentrial.report.compared import compare
    from tokentrial.statistics.verdict import freeze

    facts = facts_of(trial.facts)
    choice_floor = -math.log(len(facts.answers))  # every answer of the table as likely as the others
    frozen, changes = freeze(declared_now, frozen_before)
    exposure = read_json(trial.folder / "corpus" / "exposure.json")
    results, evidence = _read(trial, evaluated, exposure)
    trained = {
        (arm, seed): read_json(trial.folder / arm / f"seed{seed}" / "pretrain" / "results.json")
        for arm, seed in results
    }
    compared = compare(trial, results, frozen, facts.table, choice_floor)
    stages = list(dict.fromkeys(stage for by_stage in evaluated.values() for stage in by_stage))
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "stages": stages,
        "declared": frozen,
        "extended": changes,
        **compared,
        **families.shown(trial, beside, frozen, compared["outcomes"], compared["primary"]["verdict"]),
        "curves": record.curves(trained),
        "consumed": record.consumed(trial, exposure, evaluated, trained),
        "facts": {"table": facts.table, "facts": len(facts), "choice_floor": choice_floor},
        "tables": evidence.tables(),
        "checks": evidence.checks(),
        "corpus": record.corpus_checks(trial.folder / "corpus", trial.arms),
        "dose": record.dose(exposure, trial.arms, trial.seeds),
        "mechanism": record.inside(trial.arms, trial.seeds, evaluated),
        "samples": evidence.samples(),
        "ran": record.ran(trial, trained, declared_now, frozen),
        "arms_left_out": {name: find(name).summary for name in names() if name not in trial.arms},
        "settings": trial.model_dump(mode="json", exclude={"output"}),
        "grpo": _grpo(trial),
        "made_by": record.made_by(trial, evaluated),
        "provenance": provenance(),
        "missing": [
            f"{arm}/seed{seed} {stage}"
            for (arm, seed), by_stage in evaluated.items()
            for stage in stages or ["pretrain"]
            if stage not in by_stage
        ],
    }


def _read(
    trial: Trial, evaluated: Evaluated, exposure: Mapping[str, Any]
) -> tuple[dict[tuple[str, int], CellResults], Evidence]:
    """What every cell showed, each file of samples read once."""
    untouched = untouched_documents([folder for by_stage in evaluated.values() for folder in by_stage.values()])
    results: dict[tuple[str, int], CellResults] = {}
    evidence = Evidence(trial, evaluated)
    for (arm, seed), by_stage in evaluated.items():
        for stage, folder in by_stage.items():
            cell = results.setdefault((arm, seed), CellResults())
            favourite = favourite_answer(exposure, arm, seed)
            evidence.add(arm, seed, stage, read_stage(cell, stage, folder, untouched, favourite))
    return results, evidence


def _grpo(trial: Trial) -> dict[str, Any] | None:
    """Whether GRPO went on, pass@k before it by cell, and whether a bonus that only some arms can earn was paid."""
    path = trial.folder / "grpo_decision.json"
    if trial.grpo is None or not path.exists():
        return None
    return {**read_json(path), "mul_bonus": trial.grpo.mul_bonus}
