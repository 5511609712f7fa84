"""What a run may not replace: the folder of another trial, and finished results of other settings, unless `--overwrite`
asks for it.
"""

from collections.abc import Iterator, Sequence

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.run.declaration import AGAIN, changes, is_of_old_form, manifests, why_broken
from tokentrial.steps.cell import Cell
from tokentrial.steps.pretrain import PretrainStage
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json
from tokentrial.store.folders import MANIFEST, read_manifest
from tokentrial.store.storage import Storage
from tokentrial.store.tuned import arm_trial
from tokentrial.trial.trial import Trial
from tokentrial.trial.yaml_text import read_yaml

_MOST = 12  # results that a refusal lists one by one


def refuse_taking_over(trial: Trial, overwrite: bool) -> None:
    """Refuse, unless `overwrite`, the folder of another trial, and one that lost the declaration of its results."""
    if overwrite:
        return
    if other := _other_trial(trial):
        raise TrialError(
            f"{trial.folder}: holds the trial {other!r}, this is {trial.name!r}; give output=OTHER_FOLDER, or "
            "--overwrite to replace it"
        )
    if broken := why_broken(trial):
        raise TrialError(f"{broken}; put it back, or give --overwrite: what is there is then exploratory, {AGAIN}")


def refuse_replacing(corpus: CorpusPlan, storage: Storage, within: Sequence[Cell], overwrite: bool) -> list[str]:
    """Refuse, unless `overwrite`, to replace finished results of these cells, listing them with the seconds they took;
    returns the stages whose results are replaced. Nothing is written."""
    trial, doomed = corpus.trial, dict[str, float]()
    for name, seconds in _doomed(corpus, storage, within):
        # the corpus has many steps of one name, of which the text takes longest; others are here and in the storage
        doomed[name] = max(seconds, doomed.get(name, 0.0))
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
            "give output=OTHER_FOLDER to keep them, or --overwrite to replace them; new results are then exploratory, "
            f"{AGAIN}",
        ]
        raise TrialError("\n".join(lines))
    replaced = dict.fromkeys(name.rsplit(": ", 1)[-1] for name in doomed)
    if why_broken(trial):
        return stage_names(trial)
    return [*replaced, *(_stages_made(trial) if is_of_old_form(trial) else [])]


def refuse_mixed_precision(corpus: CorpusPlan, within: Sequence[Cell]) -> None:
    """Refuse to train an arm of a seed in another precision than that of an arm which is trained: it would be part of
    their difference."""
    trial, dtypes = corpus.trial, dict[Cell, str]()
    if trial.pretrain.dtype != "auto":
        return
    untrained = [cell for cell in within if "pretrain" in cell.pending(corpus)]
    for cell in (Cell(arm, seed) for seed in dict.fromkeys(cell.seed for cell in untrained) for arm in trial.arms):
        dtypes[cell] = PretrainStage(arm_trial(trial, cell.arm)).dtype(corpus, cell)
    is_trained = {cell: "pretrain" not in cell.pending(corpus) for cell in dtypes}
    for cell in untrained:
        for other, dtype in dtypes.items():
            if other.seed == cell.seed and is_trained[other] and dtype != dtypes[cell]:
                raise TrialError(
                    f"{trial.folder}: {other.name} was trained in {dtype}, and {cell.name} would be in {dtypes[cell]} "
                    "here; go on where the first was trained, or give output=OTHER_FOLDER"
                )


def _other_trial(trial: Trial) -> str | None:
    """The name of the trial that the folder holds, if it is another one."""
    path = trial.folder / "trial.yaml"
    if not path.exists():
        return None
    settings = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(settings, dict) or "name" not in settings:
        raise TrialError(f"{path}: not a trial; give output=OTHER_FOLDER")
    return None if settings["name"] == trial.name else str(settings["name"])


def _stages_made(trial: Trial) -> list[str]:
    """The stages that have any result."""
    names = [str(read_json(path).get("stage", path.parent.name)) for path in manifests(trial.folder)]
    return list(dict.fromkeys(names))


def _doomed(corpus: CorpusPlan, storage: Storage, within: Sequence[Cell]) -> Iterator[tuple[str, float]]:
    """Finished results of other fingerprints, here or in the storage, and the seconds that each took."""
    trial = corpus.trial
    wanted = [("corpus", folder, fingerprint) for folder, fingerprint in corpus.steps]
    for cell in within:
        for stage, fingerprint in cell.fingerprints(corpus).items():
            wanted.append((f"{cell.name}: {stage}", cell.folder(trial, stage), fingerprint))
    stored = storage.manifests([folder for _, folder, _ in wanted])
    for (name, folder, fingerprint), sent in zip(wanted, stored, strict=True):
        local = read_manifest(folder) if (folder / MANIFEST).exists() else None
        for manifest in (local, sent):
            if manifest and manifest["fingerprint"] != fingerprint:
                yield name, float(manifest.get("seconds") or 0)
