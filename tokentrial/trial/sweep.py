"""The variants of a trial: the grid of its `sweep`, its primary contrast again with `robustness_reruns`, the sizes of
its `ladder`, and the grid of its `tune`. Each is a full trial with a run folder of its own.

    OUT/sweep/corpus.drills.share=0.1,pretrain.n_layer=2/    every arm and seed
    OUT/also/budget.match=bytes/                             the two arms of the primary contrast
    OUT/ladder/2x64/                                         every arm, at that size
    OUT/tune/pretrain.lr=0.003/                              every arm on the tuning seeds, pretraining alone
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from tokentrial.errors import SettingsError
from tokentrial.trial.ladder import Ladder, Rung, rung_settings
from tokentrial.trial.load import parse, put, read_override
from tokentrial.trial.pretraining import SHAPE
from tokentrial.trial.settings import LOCAL
from tokentrial.trial.trial import Trial

_PARTS = ("tokenizer", "corpus", "pretrain", "budget", "sft", "grpo", "tasks", "evaluate")
# of a trial without variants
ALONE: dict[str, Any] = {"sweep": {}, "robustness_reruns": [], "ladder": None, "tune": None}
_STRANGE = re.compile(r"[^\w.,=+-]+")  # in the name of a folder
_NAME_BYTES = 255  # of a file system, for one folder


class Variant(NamedTuple):
    """A trial with other settings. `kind` is sweep, also, ladder or tune."""

    kind: str
    name: str
    settings: dict[str, Any]
    trial: Trial
    is_itself: bool  # a point of the grid where the trial itself stands: its folder is the trial's


def settings_text(settings: Mapping[Any, Any]) -> str:
    """Settings in words: `corpus.drills.share=0.1,pretrain.n_layer=2`."""
    return ",".join(f"{key}={value}" for key, value in settings.items())


def variants(trial: Trial) -> list[Variant]:
    """All of them, in the order they are run; those of `tune` before the trial. A point of the grid that is the trial
    itself is not run again."""
    all_variants = [_variant(trial, "sweep", settings, {}) for settings in _points(trial.sweep)]
    pair = trial.verdict.primary.arms
    secondary = [contrast for contrast in trial.verdict.secondary if set(contrast.arms) <= set(pair)]
    narrowed = {
        "arms": [arm for arm in trial.arms if arm in pair],
        "control": trial.control if trial.control in pair else pair[1],
        "verdict": trial.verdict.model_copy(update={"secondary": secondary}).model_dump(mode="json"),
    }
    all_variants += [_variant(trial, "also", dict([read_override(text)]), narrowed) for text in trial.robustness_reruns]
    if trial.ladder:
        all_variants += [_rung(trial, trial.ladder, rung) for rung in trial.ladder.sizes]
    if trial.tune:
        verdict = trial.verdict.model_copy(update={"looks": None}).model_dump(mode="json")
        # pretraining is what is tuned
        alone = {"seeds": trial.tune.seeds, "sft": None, "grpo": None, "stages": {}, "verdict": verdict}
        all_variants += [_variant(trial, "tune", settings, alone) for settings in _points(trial.tune.grid)]
    folders = [variant.trial.folder for variant in all_variants]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise SettingsError(f"sweep, robustness_reruns, tune: {twice} would hold two variants; give each value once")
    return all_variants


def _setting(kind: str) -> str:
    """The setting that asks for variants of this kind."""
    return {"also": "robustness_reruns"}.get(kind, kind)


def _points(grid: Mapping[Any, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []


def to_run(trial: Trial) -> list[Variant]:
    """The variants that are trials of their own."""
    return [variant for variant in variants(trial) if not variant.is_itself]


def _variant(trial: Trial, kind: str, settings: dict[str, Any], narrowed: dict[str, Any]) -> Variant:
    name, setting = settings_text(settings), _setting(kind)
    changed = trial.model_dump(mode="json") | ALONE | narrowed
    for key, value in settings.items():
        part, _, last = key.partition(".")
        if part not in _PARTS or last.partition(".")[0] in LOCAL.get(part, ()) or key == "pretrain.recipe":
            raise SettingsError(
                f"{setting}: found {key}, expected a setting of {', '.join(_PARTS)} that bears on results"
                + ("; give what the recipe sets instead" if key == "pretrain.recipe" else "")
            )
        if last and changed[part] is None:
            raise SettingsError(f"{setting}: found {key}, but {part} is null in this trial; leave it out")
        if key == "pretrain.size":
            for name_of_shape in SHAPE:  # the size fills them in where they are not given, as they are by now
                del changed["pretrain"][name_of_shape]
        put(changed, key, value, f"{setting} {name}")
    same = trial.model_dump(mode="json") | ALONE
    varied = parse(changed, f"{setting} {name}")
    is_itself = varied.model_dump(mode="json") == same
    if is_itself:
        return Variant(kind, name, settings, trial.model_copy(update=ALONE), True)
    return Variant(
        kind, name, settings, varied.model_copy(update=places_below(trial, f"{kind}/{_folder_name(name)}")), False
    )


def _rung(trial: Trial, ladder: Ladder, rung: Rung) -> Variant:
    """The trial at another size. The ids of its text are what its vocabulary counts: those of the facts are few."""
    settings = rung_settings(ladder, rung, trial.pretrain, trial.tokenizer.merges + 257, trial.seeds)
    changed = trial.model_dump(mode="json") | ALONE
    for key, value in settings.items():
        put(changed, key, value, f"ladder {rung.name}")
    its_own = parse(changed, f"ladder {rung.name}").model_copy(update=places_below(trial, f"ladder/{rung.name}"))
    return Variant("ladder", rung.name, settings, its_own, False)


def _folder_name(name: str) -> str:
    plain = _STRANGE.sub("_", name)
    if len(plain.encode()) <= _NAME_BYTES:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{plain.encode()[:180].decode(errors='ignore')}-{digest}"


def refuse_without_effect(trial: Trial) -> None:
    """Refuse variants that would train again what another of them, or the trial itself, trains."""
    seen = {("", str(_read(trial))): "the trial itself"}
    for variant in variants(trial):
        if variant.is_itself and variant.kind == "sweep":
            continue
        read = str(_read(variant.trial))
        own = None if variant.kind == "tune" else seen.get(("", read))  # the trial's own values are tried as well
        same = seen.get((variant.kind, read), own)
        if same:
            raise SettingsError(
                f"{_setting(variant.kind)}: {variant.name} is the same experiment as {same}: no stage reads what "
                "differs; leave it out"
            )
        seen[variant.kind, read] = variant.name


def _read(trial: Trial) -> dict[str, Any]:
    """The settings of the experiment that any of its stages reads."""
    settings = trial.experiment(*_PARTS)
    shape, sources = settings["pretrain"], {*trial.evaluate.tasks}
    sources |= {source.source for part in (trial.sft.stages if trial.sft else ()) for source in part.sources}
    sources |= {trial.grpo.task} if trial.grpo else set()
    settings["tasks"] = {name: value for name, value in trial.tasks.model_dump().items() if name in sources}
    unread = {"recipe", "size"}  # what they filled in is read
    unread |= {"muon_lr"} if trial.pretrain.optimizer != "muon" else set()
    unread |= {"decay_ratio"} if trial.pretrain.schedule != "wsd" else set()
    unread |= {"init"} if trial.pretrain.from_checkpoint else set()
    settings["pretrain"] = {name: value for name, value in shape.items() if name not in unread}
    if not trial.evaluate.tasks:
        del settings["evaluate"]["limit"]
        if not trial.sft:
            del settings["evaluate"]["solution_tokens"]
    for stage in ("sft", "grpo"):
        if settings[stage]:
            del settings[stage]["checkpoint_every"]
    if trial.grpo and trial.grpo.num_iterations == 1:
        del settings["grpo"]["epsilon"]  # the ratio to the sampling policy is 1 on completions that are used once
    return settings


def places_below(trial: Trial, name: str) -> dict[str, str]:
    """Run folder and storage of a trial that lies in another's."""
    storage = {"storage": f"{trial.storage.rstrip('/')}/{name}"} if trial.storage else {}
    return {"output": str(trial.folder / name)} | storage
