"""The trial: one YAML file and dotted overrides, read into strict settings that refuse what they do not know.

`load("pilot", ["pretrain.steps=200", "seeds=[1,2]"])`: defaults < YAML < overrides. A setting is of the experiment
(it enters fingerprints) unless it stands in `LOCAL`: where and with what it runs.
"""

import difflib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from tokentrial.errors import SettingsError
from tokentrial.fact_settings import FactSettings
from tokentrial.settings import (
    GRPO,
    LOCAL,
    SFT,
    Budget,
    Compared,
    Corpus,
    Count,
    Evaluate,
    Pretrain,
    Ray,
    Seed,
    Settings,
    Tasks,
    Tokenizer,
    Verdict,
)


class Trial(Settings):
    """One experiment: arms x seeds, everything else equal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    arms: Annotated[list[str], Field(min_length=1)]
    control: str
    seeds: Annotated[list[Seed], Field(min_length=1)]
    facts: FactSettings = FactSettings()
    tokenizer: Tokenizer = Tokenizer()
    corpus: Corpus = Corpus()
    pretrain: Pretrain = Pretrain()
    budget: Budget = Budget()
    sft: SFT | None = None
    grpo: GRPO | None = None
    tasks: Tasks = Tasks()
    evaluate: Evaluate = Evaluate()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)  # further ones of every cell, with their settings
    verdict: Verdict
    # what is run beside the trial, each in a folder of its own: every combination of these settings' values, such as
    # {corpus.drills.share: [0, 0.1]}; and the primary contrast again with each of these, such as budget.match=bytes
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    also: list[str] = Field(default_factory=list)
    executor: Literal["local", "ray"] = "local"
    ray: Ray = Ray()
    workers: Count | None = None  # null: one a core on a CPU, one on a GPU; on Ray as many as it has room for
    disk_reserve_gb: Annotated[float, Field(ge=0)] = 0.2  # left free on the disk of the run folder
    output: str | None = None  # null: outputs/<name>
    disk_limit_gb: Annotated[float, Field(gt=0)] | None = None  # the run folder never holds more
    storage: str | None = (
        None  # the lasting copy of the run folder: a path that fsspec opens, such as s3://bucket/trial
    )

    @model_validator(mode="after")
    def agrees_with_itself(self) -> "Trial":
        for field in ("arms", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field} is {values}, expected no value twice")
        compared = [("control", self.control)]
        compared += [("verdict.primary.contrast", arm) for arm in self.verdict.primary.arms]
        compared += [("a verdict.secondary contrast", arm) for pair in self.verdict.secondary for arm in pair.arms]
        for setting, arm in compared:
            if arm not in self.arms:
                raise ValueError(f"arms is {self.arms}, expected {arm!r} among them, which {setting} names; change one")
        return self

    @property
    def compared(self) -> list[Compared]:
        return [self.verdict.primary, *self.verdict.secondary]

    @property
    def folder(self) -> Path:
        return Path(self.output or f"outputs/{self.name}")

    def experiment(self, *parts: str) -> dict[str, Any]:
        """Canonical settings of the named parts, what is merely local left out."""
        settings = self.model_dump(mode="json", include=set(parts))
        for part in LOCAL.keys() & settings.keys():
            settings[part] = {k: v for k, v in settings[part].items() if k not in LOCAL[part]}
        if "tokenizer" in settings:
            settings["tokenizer"].pop("path")  # every path holds the same merges, checked by hash
            settings["tokenizer"].pop("rewrite")  # of the export alone
        if "tasks" in settings:
            settings["tasks"].pop("gsm8k")  # its files enter by their content
        return settings


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


def load(trial: str, overrides: Sequence[str] = ()) -> Trial:
    """Read a trial file, or a shipped trial by its bare name, with dotted overrides on top."""
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
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise SettingsError(f"{source!r}: {parent} has no settings below it")
    settings[last] = value


def parse(settings: dict[str, Any], source: str) -> Trial:
    """Settings to a Trial; every complaint names the setting, what was found and what was expected."""
    try:
        return Trial.model_validate(settings)
    except ValidationError as error:
        lines = [_complaint(dict(problem)) for problem in error.errors()]
        raise SettingsError(f"{source}:\n  " + "\n  ".join(lines)) from None


def _complaint(problem: dict[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"])) or "trial"
    if problem["type"] == "extra_forbidden":
        known = _known_beside(problem["loc"])
        given = str(problem["loc"][-1])
        elsewhere = [setting for setting in _all_names(Trial) if setting.rpartition(".")[2] == given]
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


def _known_beside(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Trial
    for name in location[:-1]:
        if isinstance(name, str):  # a number is a place in a list
            [model] = _parts(model, name)
    return list(model.model_fields)
