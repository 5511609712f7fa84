"""YAML as its version 1.2 has it: `010` is ten, `1:30` and `2026-11-27` are texts, only `true` and `false` are truth
values. PyYAML reads YAML 1.1, in which these are eight, ninety, a date, and `on` is true; and `6e-4` is a text.
"""

import re
from typing import Any

import yaml

from tokentrial.errors import SettingsError

_MOST_VALUES = 100_000
# the core schema of YAML 1.2.2, section 10.3.2, and `<<`; what begins with these characters, None for nothing at all
_CORE = [
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
    ("merge", r"<<", ["<"]),
]
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """A setting that is given twice is an error, as is a small text that stands for very many values: each alias counts
    as what it stands for."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to say it
    # what a text may ask for by a tag of its own: no dates, sets or bytes
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "float", "str", "seq", "map")
    }

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
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, or an alias that contains itself")
        self.values_of[node] = self.values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or 1.2 would take for something else."""


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_int)
for _name, _pattern, _first in _CORE:
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_yaml(text: str, source: str) -> Any:
    """The value that a text stands for. Raises SettingsError that names the source, and where it knows it the line."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise SettingsError(f"{source}: not valid YAML: nested too deep") from None
    # a number of too many digits; a text that its tag does not fit
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise SettingsError(f"{source}: not valid YAML: {error}") from None


def write_yaml(value: Any) -> str:
    """The text that `read_yaml`, and any other reader of YAML, takes for this value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
