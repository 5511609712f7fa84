"""`declared.json`: the whole experiment as it is settled before the first training step of any cell, and its sha256,
which every result's manifest carries.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokentrial import __version__
from tokentrial.arms.arm import get_arm
from tokentrial.corpus import prepare
from tokentrial.corpus.sources import Source
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain.start import start_content
from tokentrial.report.outcomes import tuning_outcome
from tokentrial.steps.stage import stages
from tokentrial.store.files import PARTIAL, read_json, write_json
from tokentrial.store.folders import MANIFEST
from tokentrial.store.storage import Storage
from tokentrial.tasks.contents import source_hashes
from tokentrial.tasks.training_examples import stage_sources
from tokentrial.trial.declaration import DECLARED, EXPERIMENT, declaration_hash, differences
from tokentrial.trial.places import is_file
from tokentrial.trial.trial import Trial

AGAIN = "declared again after results existed"


def declaration(trial: Trial) -> dict[str, Any]:
    """Every setting but those of where the trial is computed; hashes of the files that its stages read; versions of
    what makes its results."""
    versions = {"corpus": prepare.VERSION} | {stage.name: stage.version for stage in stages(trial)}
    text = {}
    if is_file(trial.corpus.source):  # two texts of one name are two trials; others are known by their name or revision
        text["corpus"] = Source(trial.corpus.source, trial.corpus.text_column, trial.folder / "sources.json").hash()
    return settings_of(trial) | {
        "content": text
        | {
            "start": start_content(trial),
            "evaluate": source_hashes(trial, trial.evaluate.tasks),
            "sft": source_hashes(trial, stage_sources(trial, "sft")),
            "grpo": source_hashes(trial, stage_sources(trial, "grpo")),
        },
        "versions": versions | {f"arm {name}": get_arm(name).version for name in trial.arms},
    }


def settings_of(trial: Trial) -> dict[str, Any]:
    """The part of a declaration that needs no file."""
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "verdict": trial.verdict.model_dump(mode="json"),
        "sweep": trial.sweep,
        "robustness_reruns": trial.robustness_reruns,
        "settings": trial.experiment(*EXPERIMENT),
        # without a ladder or tuning no word of it: the hash of such a trial stays what it was
        **({"ladder": trial.ladder.model_dump(mode="json")} if trial.ladder else {}),
        **({"tune": trial.tune.model_dump(mode="json") | {"outcome": tuning_outcome(trial)}} if trial.tune else {}),
    }


def declare(trial: Trial, replaced: Sequence[str], storage: Storage) -> None:
    """Write the declaration before the first training step; where there is one, note what now differs from it."""
    current, path, time = declaration(trial), trial.folder / DECLARED, datetime.now(UTC).isoformat(timespec="seconds")
    written = {"sha256": declaration_hash(current), "time": time}
    before = read_declared(trial.folder)
    begun = _begun(trial) or storage.has_begun()
    if before is None or "declaration" not in before or why_broken(trial) or not begun:
        # a corpus that is made again before any training says nothing that could be chosen by
        again = [written | {"changes": [], "replaced": list(replaced)}] if replaced and begun else []
        write_json(path, written | {"tokentrial": __version__, "declaration": current, "amendments": again})
        return
    if replaced or hash_in_force(trial.folder) != written["sha256"]:
        changes = [f"{name}: {change}" for name, change in differences_from(before["declaration"], current)]
        amendment = written | {"changes": changes, "replaced": list(replaced)}
        write_json(path, before | {"amendments": [*before["amendments"], amendment]})


def hash_in_force(folder: Path) -> str | None:
    """The sha256 that a result made now is made under."""
    before = read_declared(folder)
    if before is None or "declaration" not in before:
        return None
    return str(before["amendments"][-1]["sha256"] if before["amendments"] else before["sha256"])


def read_declared(folder: Path) -> dict[str, Any] | None:
    path = folder / DECLARED
    if not path.exists():
        return None
    try:
        declared: Any = read_json(path)
        covers_settings = isinstance(declared, dict) and "declaration" in declared
        wanted = ("sha256", "time", "amendments") if covers_settings else ("seeds", "control", "primary", "secondary")
        return dict(read_json(path, *wanted))
    except Interrupted:
        raise
    except TrialError:
        raise TrialError(
            f"{path}: not a declaration; put back a copy of it, or delete it and give --overwrite: what is there is "
            f"then exploratory, {AGAIN}"
        ) from None


def why_broken(trial: Trial) -> str | None:
    """Why the declaration is not the one that the results were made under; None where it is."""
    before, path = read_declared(trial.folder), trial.folder / DECLARED
    made_under = [
        read_json(manifest, "fingerprint", "files").get("declaration") for manifest in manifests(trial.folder)
    ]
    if before is None:  # of a tuning or a variant, too: whoever has seen it may not declare anew
        return f"{path} is gone, and training has begun under it" if made_under or _begun(trial) else None
    known = {None}  # results of 0.1 name no declaration
    if "declaration" in before:
        if declaration_hash(before["declaration"]) != before["sha256"]:
            return f"{path} was edited: its declaration does not match its sha256"
        known |= {before["sha256"], *(amendment["sha256"] for amendment in before["amendments"])}
    if strange := {*made_under} - known:
        return f"{path} does not match the results: they carry {min(strange)[:12]}"
    return None


def is_of_old_form(trial: Trial) -> bool:
    """Whether the declaration is one of 0.1, which covered no settings."""
    before = read_declared(trial.folder)
    return before is not None and "declaration" not in before


def _begun(trial: Trial) -> bool:
    """Whether any training has begun, of whatever arms and seeds, of the trial or a variant of it: its training log
    already shows results."""
    return any(any(trial.folder.glob(f"{below}*/seed*/*")) for below in ("", "*/*/"))


def manifests(folder: Path) -> list[Path]:
    """Manifests of all finished results in a run folder, of any arm and seed."""
    # one that ends in .partial was killed before it took its place, or could not be deleted after
    return sorted(path for path in folder.glob(f"*/seed*/*/{MANIFEST}") if path.parent.suffix != PARTIAL)


def changes(trial: Trial) -> list[tuple[str, str]]:
    """What differs from what the folder's trial declared: name, and how."""
    before = read_declared(trial.folder)
    if before is None or "declaration" not in before:
        return []
    return list(differences_from(before["declaration"], declaration(trial)))


def differences_from(declared: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """An arm that was added or left out is named once, not by its version too."""
    both = {f"versions.arm {arm}" for arm in {*declared["arms"]} & {*current["arms"]}}
    for name, change in differences(declared, current):
        if not name.startswith("versions.arm ") or name in both:
            yield name, change
