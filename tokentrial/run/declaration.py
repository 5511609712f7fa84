"""`declared.json`: the whole experiment as it is settled before the first training step of any cell, and its sha256,
which every result's manifest carries. What a run does later is held against it: nothing that is finished is replaced
without being asked for, and what was made otherwise than declared is exploratory for good.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokentrial import __version__
from tokentrial.arms.arm import get_arm
from tokentrial.corpus import prepare
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.sources import Source
from tokentrial.errors import TrialError
from tokentrial.pretrain.start import start_content
from tokentrial.report.outcomes import tuning_outcome
from tokentrial.steps.cell import Cell
from tokentrial.steps.stage import stage_names, stages
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import MANIFEST, read_manifest
from tokentrial.store.storage import Storage
from tokentrial.tasks.contents import source_hashes
from tokentrial.tasks.training_examples import stage_sources
from tokentrial.trial.declaration import DECLARED, Declared, Standing, declaration_hash, differences
from tokentrial.trial.places import is_file
from tokentrial.trial.settings import Verdict
from tokentrial.trial.trial import Trial

_PARTS = ("facts", "tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate", "stages")
# of these the declared ones are gone by in any case: a change of them touches no result
_ANALYSIS = ("trial", "arms", "seeds", "control", "verdict", "sweep", "robustness_reruns", "ladder")
AGAIN = "declared again after a look"
_MOST = 12  # results that a refusal lists one by one


def declaration(trial: Trial) -> dict[str, Any]:
    """Every setting but those of where the trial is computed; hashes of the files that its stages read; versions of
    what makes its results."""
    versions = {"corpus": prepare.VERSION} | {stage.name: stage.version for stage in stages(trial)}
    text = {}
    if is_file(trial.corpus.source):  # two texts of one name are two trials; others are known by their name or revision
        text["corpus"] = Source(trial.corpus.source, trial.corpus.text_column, trial.folder / "sources.json").hash()
    return _settings(trial) | {
        "content": text
        | {
            "start": start_content(trial),
            "evaluate": source_hashes(trial, trial.evaluate.tasks),
            "sft": source_hashes(trial, stage_sources(trial, "sft")),
            "grpo": source_hashes(trial, stage_sources(trial, "grpo")),
        },
        "versions": versions | {f"arm {name}": get_arm(name).version for name in trial.arms},
    }


def _settings(trial: Trial) -> dict[str, Any]:
    """What of a declaration needs no file to be there."""
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "verdict": trial.verdict.model_dump(mode="json"),
        "sweep": trial.sweep,
        "robustness_reruns": trial.robustness_reruns,
        "settings": trial.experiment(*_PARTS),
        # without a ladder or tuning no word of it: the hash of such a trial stays what it was
        **({"ladder": trial.ladder.model_dump(mode="json")} if trial.ladder else {}),
        **({"tune": trial.tune.model_dump(mode="json") | {"outcome": tuning_outcome(trial)}} if trial.tune else {}),
    }


def refuse_taking_over(trial: Trial, overwrite: bool) -> None:
    """Refuse, unless `overwrite`, the folder of another trial, and one that lost the declaration of its results."""
    if overwrite:
        return
    if other := _other_trial(trial):
        raise TrialError(
            f"{trial.folder}: holds the trial {other!r}, this is {trial.name!r}; give output=OTHER_FOLDER, or "
            "--overwrite to replace it"
        )
    if broken := _broken(trial):
        raise TrialError(f"{broken}; put it back, or give --overwrite: what is there is then exploratory, {AGAIN}")


def settle(corpus: CorpusPlan, storage: Storage, of: Sequence[Cell], overwrite: bool) -> list[str]:
    """Refuse, unless `overwrite`, to replace finished results of these cells, listing them with the seconds they took;
    returns the stages whose results are replaced. Nothing is written."""
    trial, doomed = corpus.trial, dict(_doomed(corpus, storage, of))
    if doomed and not overwrite:
        listed = [f"  {name} ({seconds:,.0f} s)" for name, seconds in list(doomed.items())[:_MOST]]
        more = [f"  and {len(doomed) - _MOST} more"] if len(doomed) > _MOST else []
        changed = [f"  {path}: {change}" for path, change in changes(trial)]
        lines = [
            f"{trial.folder}: these settings would replace {len(doomed)} finished results, which took "
            f"{sum(doomed.values()) / 3600:.2g} hours:",
            *listed,
            *more,
            *(["what differs from what was declared:", *changed] if changed else []),
            "give output=OTHER_FOLDER to keep them, or --overwrite to replace them; what is then made is exploratory, "
            f"{AGAIN}",
        ]
        raise TrialError("\n".join(lines))
    replaced = dict.fromkeys(name.rsplit(": ", 1)[-1] for name in doomed)
    return [*replaced, *(_made(trial) if _broken(trial) or _is_of_old_form(trial) else [])]


def declare(trial: Trial, replaced: Sequence[str], storage: Storage) -> None:
    """Write the declaration before the first training step; where there is one, note what now differs from it."""
    now, path, time = declaration(trial), trial.folder / DECLARED, datetime.now(UTC).isoformat(timespec="seconds")
    written = {"sha256": declaration_hash(now), "time": time}
    before = _read(trial.folder)
    if before is None or "declaration" not in before or _broken(trial) or not (_begun(trial) or storage.has_begun()):
        again = [written | {"changes": [], "replaced": list(replaced)}] if replaced else []
        write_json(path, written | {"tokentrial": __version__, "declaration": now, "amendments": again})
        return
    amendments = before["amendments"]
    in_force = amendments[-1]["sha256"] if amendments else before["sha256"]
    if replaced or in_force != written["sha256"]:
        changes = [f"{name}: {change}" for name, change in _differences(before["declaration"], now)]
        amendment = written | {"changes": changes, "replaced": list(replaced)}
        write_json(path, before | {"amendments": [*amendments, amendment]})


def hash_in_force(folder: Path) -> str | None:
    """The sha256 that a result made now is made under."""
    before = _read(folder)
    if before is None or "declaration" not in before:
        return None
    return str(before["amendments"][-1]["sha256"] if before["amendments"] else before["sha256"])


def standing(trial: Trial) -> Standing:
    """How the run folder's results stand against what was declared."""
    before = _read(trial.folder)
    measured = {stage.measures: _chain(trial, stage.name) for stage in stages(trial) if stage.measures}
    if before is None or "declaration" not in before:
        return _without_settings(trial, before, list(measured))
    withheld: dict[str, str] = {}
    departures = []
    if broken := _broken(trial):
        departures.append(broken)
        withheld = dict.fromkeys(measured, broken)
    changes = [(f"{name}: {change}", "now") for name, change in _differences(before["declaration"], declaration(trial))]
    if before["tokentrial"] != __version__:  # reading what another release made changes nothing in it
        changes = [(c, since) for c, since in changes if _is_known(c.split(": ")[0], before["declaration"])]
    # also one that was taken back: what it made may have been looked at
    of_amendments = [(c, amendment["time"]) for amendment in before["amendments"] for c in amendment["changes"]]
    for change, since in {**dict(changes), **dict(reversed(of_amendments))}.items():
        name = change.split(": ")[0]
        words = f"{change}, since {since}"
        departures.append(f"{words}; " + ("what was declared counts" if _of_analysis(name) else "exploratory"))
        for stage, chain in measured.items():
            if not _of_analysis(name) and _stage_of(trial, name) in (*chain, None):
                withheld.setdefault(stage, words)
    for amendment in before["amendments"]:
        for stage, chain in measured.items():
            if again := [name for name in amendment["replaced"] if name in chain]:
                words = f"{AGAIN}, since {amendment['time']}: {', '.join(again)} made anew"
                departures.append(f"{stage}: {words}")
                withheld.setdefault(stage, words)
    frozen = before["declaration"]
    return Standing(_declared(frozen), before["sha256"], before["time"], frozen["settings"], departures, withheld)


def _without_settings(trial: Trial, before: Mapping[str, Any] | None, measured: list[str]) -> Standing:
    """Of a trial that is not declared yet, or was by 0.1, whose declaration held seeds and outcomes alone."""
    now = _settings(trial)
    if lost := _broken(trial):
        return Standing(_declared(now), None, None, now["settings"], [lost], dict.fromkeys(measured, lost))
    if before is None:
        return Standing(_declared(now), None, None, now["settings"], [], {})
    verdict = {name: before[name] for name in Verdict.model_fields if name in before}
    old = {"seeds": before["seeds"], "control": before["control"], "verdict": verdict}
    held = {"seeds": now["seeds"], "control": now["control"], "verdict": {k: now["verdict"][k] for k in verdict}}
    # comparisons of 0.1 had no smallest effect of their own
    for pair in (held["verdict"].get("primary", {}), *held["verdict"].get("secondary", ())):
        if pair.get("smallest_effect") is None:
            pair.pop("smallest_effect", None)
    departures = [f"{name}: {change}; what was declared counts" for name, change in differences(old, held)]
    note = "declared by an earlier release, whose declaration did not cover the settings"
    return Standing(_declared(old | {"arms": trial.arms}), None, None, now["settings"], [note, *departures], {})


def _declared(declaration: Mapping[str, Any]) -> Declared:
    verdict = Verdict.model_validate(declaration["verdict"])
    return Declared(declaration["arms"], declaration["seeds"], declaration["control"], verdict)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / DECLARED
    if not path.exists():
        return None
    try:
        found: Any = read_json(path)
        covers_settings = isinstance(found, dict) and "declaration" in found
        wanted = ("sha256", "time", "amendments") if covers_settings else ("seeds", "control", "primary", "secondary")
        return dict(read_json(path, *wanted))
    except TrialError:
        raise TrialError(
            f"{path}: not a declaration; put back a copy of it, or delete it and give --overwrite: what is there is "
            f"then exploratory, {AGAIN}"
        ) from None


def _broken(trial: Trial) -> str | None:
    """Why the declaration is not the one that the results were made under; None where it is."""
    before, path = _read(trial.folder), trial.folder / DECLARED
    made_under = [read_json(manifest, "fingerprint", "files").get("declaration") for manifest in _manifests(trial)]
    if before is None:
        return f"{path} is gone, and results were made under it" if made_under else None
    known = {None}  # results of 0.1 name no declaration
    if "declaration" in before:
        if declaration_hash(before["declaration"]) != before["sha256"]:
            return f"{path} was changed: its sha256 is not that of its declaration"
        known |= {before["sha256"], *(amendment["sha256"] for amendment in before["amendments"])}
    if strange := {*made_under} - known:
        return f"{path} is not what results were made under: they carry {min(strange)[:12]}"
    return None


def _is_of_old_form(trial: Trial) -> bool:
    """Whether the declaration is one of 0.1, which covered no settings."""
    before = _read(trial.folder)
    return before is not None and "declaration" not in before


def _begun(trial: Trial) -> bool:
    """Whether any training has begun, of whatever arms and seeds, of the trial or a variant of it: what it logs on the
    way is a look."""
    return any(any(trial.folder.glob(f"{below}*/seed*/*")) for below in ("", "*/*/"))


def _made(trial: Trial) -> list[str]:
    """The stages that have any result."""
    made = [str(read_json(path).get("stage", path.parent.name)) for path in _manifests(trial)]
    return list(dict.fromkeys(made))


def _manifests(trial: Trial) -> list[Path]:
    """Of every finished result in the folder, of whatever arms and seeds."""
    return sorted(trial.folder.glob(f"*/seed*/*/{MANIFEST}"))


def _other_trial(trial: Trial) -> str | None:
    import yaml

    path = trial.folder / "trial.yaml"
    if not path.exists():
        return None
    try:
        name = yaml.safe_load(path.read_bytes())["name"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise TrialError(f"{path}: not a trial; give output=OTHER_FOLDER") from None
    return None if name == trial.name else str(name)


def _doomed(corpus: CorpusPlan, storage: Storage, of: Sequence[Cell]) -> Iterator[tuple[str, float]]:
    """Finished results of other fingerprints, here or in the storage, and the seconds that each took."""
    trial = corpus.trial
    wanted = [("corpus", folder, fingerprint) for folder, fingerprint in corpus.steps]
    for cell in of:
        prints = cell.fingerprints(corpus)
        wanted += [(f"{cell.name}: {stage}", cell.folder(trial, stage), made) for stage, made in prints.items()]
    stored = storage.manifests([folder for _, folder, _ in wanted])
    for (name, folder, fingerprint), there in zip(wanted, stored, strict=True):
        here = read_manifest(folder) if (folder / MANIFEST).exists() else None
        for manifest in (here, there):
            if manifest and manifest["fingerprint"] != fingerprint:
                yield name, float(manifest.get("seconds") or 0)


def changes(trial: Trial) -> list[tuple[str, str]]:
    """What differs from what the folder's trial declared: name, and how."""
    before = _read(trial.folder)
    if before is None or "declaration" not in before:
        return []
    return list(_differences(before["declaration"], declaration(trial)))


def _differences(declared: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """An arm that was added or left out is named once, not by its version too."""
    both = {f"versions.arm {arm}" for arm in {*declared["arms"]} & {*now["arms"]}}
    for name, change in differences(declared, now):
        if not name.startswith("versions.arm ") or name in both:
            yield name, change


def _chain(trial: Trial, name: str) -> list[str]:
    """A stage and those that it was made from."""
    reads = {stage.name: stage.reads for stage in stages(trial)}
    chain = [name]
    while before := reads[chain[-1]]:
        chain.append(before)
    return [*chain, "corpus"]


def _of_analysis(name: str) -> bool:
    return name.split(".")[0] in _ANALYSIS


def _is_known(name: str, declared: Mapping[str, Any]) -> bool:
    """Whether a declaration of another release says anything of this setting; of versions this one knows nothing."""
    found: Any = declared
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return not name.startswith("versions.")


def _stage_of(trial: Trial, name: str) -> str | None:
    """The stage that a setting is of alone; None where it bears on all."""
    part, _, rest = name.partition(".")
    if part == "versions":
        return None if rest.startswith("arm ") else rest
    if rest.startswith("stages."):
        of = rest.split(".")[1]
        return of if of in stage_names(trial) else None
    return first if (first := rest.split(".")[0]) in ("sft", "grpo") else None
