"""A trial from a YAML file and dotted overrides, or a complaint that names the setting.

`load("pilot", ["pretrain.steps=200", "seeds=[1,2]"])`: defaults < YAML < overrides.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tokentrial.errors import SettingsError
from tokentrial.trial.complaints import complaints
from tokentrial.trial.trial import Trial
from tokentrial.trial.yaml_text import read_yaml

Model = TypeVar("Model", bound=BaseModel)
# what settings were called in 0.1; read for one release
_OLD_NAMES = {
    "pretrain.clip": "grad_clip",
    "pretrain.warmup": "warmup_ratio",
    "pretrain.decay": "decay_ratio",
    "pretrain.min_lr": "min_lr_ratio",
    "pretrain.ranks": "nproc_per_node",
    "pretrain.nodes": "nnodes",
    "pretrain.endpoint": "rdzv_endpoint",
    "pretrain.track": "report_to",
    "sft.warmup": "warmup_ratio",
    "grpo.generations": "num_generations",
    "grpo.new_tokens": "max_new_tokens",
    "grpo.kl": "kl_coef",
    "grpo.mul_bonus": "fact_token_bonus",
    "evaluate.new_tokens": "max_new_tokens",
    "corpus.drills.never_asked_folds": "holdout_folds",
    "also": "robustness_reruns",
}
# settings that are no more: a run folder of 0.1 that holds one is read without it, and nobody may set it
_GONE = {
    "corpus.executor": "the corpus is made where `executor` says, local or ray; on Slurm see docs/scaling.md",
    "corpus.cluster": "give `ray.address`; on Slurm see docs/scaling.md",
}


def shipped() -> list[str]:
    """Names of the trials that travel with the package."""
    folder = resources.files("tokentrial") / "trials"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(trial: str, overrides: Sequence[str] | Mapping[str, Any] = (), output: Path | None = None) -> Trial:
    """Read a trial file, or a shipped trial by its bare name, with dotted overrides on top: `key=value` texts, or a
    mapping from Python. `output` is a run folder by its path, which no YAML reads: it may be called 2026-11-27 or null.
    """
    path = Path(trial)
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    elif trial in shipped():
        text = (resources.files("tokentrial") / "trials" / f"{trial}.yaml").read_text(encoding="utf-8")
    else:
        raise SettingsError(f"{trial}: no such file or shipped trial; shipped are {', '.join(shipped())}")
    settings = read_yaml(text, trial)
    if not isinstance(settings, dict):
        raise SettingsError(f"{trial}: found {type(settings).__name__}, expected settings such as `name: pilot`")
    settings = _with_new_names(settings, trial)  # or an old name of the file would go before an override
    given = overrides.items() if isinstance(overrides, Mapping) else map(read_override, overrides)
    for key, value in given:
        put(settings, key, value, f"{key}={value}")
    if output is not None:
        settings["output"] = f"./{output}" if str(output).startswith("~") else str(output)
    return parse(settings, trial)


def read_override(override: str) -> tuple[str, Any]:
    """Name and value of `key=value`, the value read as YAML."""
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise SettingsError(f"{override!r}: expected key=value, such as pretrain.steps=200")
    return key, read_yaml(value, repr(override)[:200])


def put(settings: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted setting; of a list a place counts as a name: `sft.stages.0.lr`."""
    gone = next((name for name in _GONE if key == name or key.startswith(f"{name}.")), None)
    if gone:
        raise SettingsError(f"{gone}: this setting was removed; {_GONE[gone]}")
    if key in _OLD_NAMES:
        old, key = key, _new_name(key)
        print(f"{source}: {old} is now {key}", file=sys.stderr)
    *parents, last = key.split(".")
    if key == "facts.csv" and isinstance(facts := settings.get("facts"), dict):
        facts.pop("rows", None)  # those of another file, which a run's own trial.yaml holds
    part: Any = settings
    for parent in parents:
        if isinstance(part, dict) and part.get(parent) is None:
            part[parent] = {}  # `sft: null` of a run's trial.yaml is no sft yet
        part = part[parent] if isinstance(part, dict) else part[_place(part, parent, source)]
        if not isinstance(part, dict | list):
            raise SettingsError(f"{source!r}: {parent} has no settings below it")
    part[last if isinstance(part, dict) else _place(part, last, source)] = value


def _place(items: Sequence[Any], name: str, source: str) -> int:
    if not name.isdecimal() or int(name) >= len(items):
        raise SettingsError(f"{source!r}: found {name} below a list, expected a place in it, 0 to {len(items) - 1}")
    return int(name)


def parse(settings: dict[str, Any], source: str) -> Trial:
    """Parse settings into a Trial; every complaint names the setting, what was found and what was expected."""
    return validated(Trial, _with_new_names(settings, source), source)


def _new_name(old: str) -> str:
    """Today's name of a dotted setting."""
    return ".".join([*old.split(".")[:-1], _OLD_NAMES[old]]) if old in _OLD_NAMES else old


def _with_new_names(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """The settings, those with a name of 0.1 under today's; each is noted on stderr."""
    renamed, notes = deepcopy(settings), list[str]()
    for old in _OLD_NAMES:
        *parents, last = old.split(".")
        part: Any = renamed
        for parent in parents:
            part = part.get(parent) if isinstance(part, dict) else None
        if isinstance(part, dict) and last in part:
            part[_OLD_NAMES[old]] = part.pop(last)
            notes.append(f"{old} is now {_new_name(old)}")
    pretrain, sweep = renamed.get("pretrain"), renamed.get("sweep")
    if isinstance(pretrain, dict) and isinstance(start := pretrain.get("init"), str):
        if start == "gpt2":
            pretrain["init"] = "normal"
            notes.append("pretrain.init: gpt2 is now normal")
        elif "/" in start:
            pretrain["from_checkpoint"] = pretrain.pop("init")
            notes.append("pretrain.init of a model is now pretrain.from_checkpoint")
    if isinstance(sweep, dict):
        renamed["sweep"] = {_new_name(key) if isinstance(key, str) else key: values for key, values in sweep.items()}
    corpus = renamed.get("corpus")
    for name in _GONE:
        # what 0.1 wrote into every run folder, "auto" and nothing, asked for nothing
        if isinstance(corpus, dict) and corpus.pop(name.partition(".")[2], None) not in (None, "auto", {}):
            notes.append(f"{name} is left out; {_GONE[name]}")
    for note in notes:
        print(f"{source}: {note}", file=sys.stderr)
    return renamed


def validated(model: type[Model], settings: Any, source: str) -> Model:
    """Settings to such a model."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError("\n  ".join([f"{source}:", *complaints(model, settings, error)])) from None
