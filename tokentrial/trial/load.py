"""A trial from a YAML file and dotted overrides, or a complaint that names the setting.

`load("pilot", ["pretrain.steps=200", "seeds=[1,2]"])`: defaults < YAML < overrides.
"""

import difflib
import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tokentrial.errors import SettingsError
from tokentrial.trial.trial import Trial

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
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML in which `6e-4` is a number and a setting given twice is an error, as is a small text that stands for very
    many values: each alias counts as what it stands for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = 0
        self.values_of: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self.values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        self.values += self.values_of.get(node, _MOST_VALUES) if alias else 1
        if self.values > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, or an alias within what it stands for")
        self.values_of[node] = self.values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, asks for a point and a signed exponent: without this `6e-4` would be text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)


def shipped() -> list[str]:
    """Names of the trials that travel with the package."""
    folder = resources.files("tokentrial") / "trials"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(trial: str, overrides: Sequence[str] = (), output: Path | None = None) -> Trial:
    """Read a trial file, or a shipped trial by its bare name, with dotted overrides on top; `output` is a run folder by
    its path, which no YAML reads: it may be called 2026-11-27 or null."""
    path = Path(trial)
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    elif trial in shipped():
        text = (resources.files("tokentrial") / "trials" / f"{trial}.yaml").read_text(encoding="utf-8")
    else:
        raise SettingsError(f"{trial}: no such file, and no shipped trial of that name: {', '.join(shipped())}")
    settings = _parsed(text, trial)
    if not isinstance(settings, dict):
        raise SettingsError(f"{trial}: found {type(settings).__name__}, expected settings such as `name: pilot`")
    for override in overrides:
        put(settings, *read_override(override), override)
    if output is not None:
        settings["output"] = str(output)
    return parse(settings, trial)


def _parsed(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise SettingsError(f"{source}: not valid YAML: nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number or a date that is none
        raise SettingsError(f"{source}: not valid YAML: {error}") from None


def read_override(override: str) -> tuple[str, Any]:
    """Name and value of `key=value`, the value read as YAML."""
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise SettingsError(f"{override!r}: expected key=value, such as pretrain.steps=200")
    return key, _parsed(value, repr(override)[:200])


def put(settings: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted setting."""
    if key in _OLD_NAMES:
        old, key = key, _new_name(key)
        print(f"{source}: {old} is now {key}", file=sys.stderr)
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise SettingsError(f"{source!r}: {parent} has no settings below it")
    settings[last] = value


def parse(settings: dict[str, Any], source: str) -> Trial:
    """Settings to a Trial; every complaint names the setting, what was found and what was expected."""
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
    for note in notes:
        print(f"{source}: {note}", file=sys.stderr)
    return renamed


def validated(model: type[Model], settings: Any, source: str) -> Model:
    """Settings to such a model."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        lines = [_complaint(model, dict(problem)) for problem in error.errors()]
        raise SettingsError(f"{source}:\n  " + "\n  ".join(lines)) from None


def _complaint(model: type[BaseModel], problem: dict[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"])) or "trial"
    if problem["type"] == "extra_forbidden":
        known = _siblings(model, problem["loc"])
        given = str(problem["loc"][-1])
        elsewhere = [setting for setting in _all_names(model) if setting.rpartition(".")[2] == given]
        near = elsewhere or difflib.get_close_matches(given, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
        return f"{name}: unknown setting; {hint}"
    if problem["type"] == "missing":
        return f"{name}: missing; give it a value"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name}: found {problem['input']!r:.200}; {message[0].lower()}{message[1:]}"


def _parts(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """The models that a setting of a model holds, alone, in a list or beside None."""
    annotation = model.model_fields[name].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _all_names(model: type[BaseModel]) -> list[str]:
    """Every setting below a model, dotted."""
    names = []
    for name in model.model_fields:
        names.append(name)
        names += [f"{name}.{below}" for part in _parts(model, name) for below in _all_names(part)]
    return names


def _siblings(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The settings there are where this one stands."""
    for name in location[:-1]:
        if isinstance(name, str):  # a number is a place in a list
            [model] = _parts(model, name)
    return list(model.model_fields)
