"""What is wrong with settings, in words: the setting, what was found, what was expected, what the setting means. All
but what was found comes from the model's JSON schema, which editors read as well.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Schema = Mapping[str, Any]
_NOT_GIVEN = object()
_TYPES = {
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
    "object": "settings below it",
    "array": "a list",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "below"}


def complaints(model: type[BaseModel], settings: Any, error: ValidationError) -> list[str]:
    """One for each setting that is wrong."""
    schema, texts = model.model_json_schema(), dict[str, str]()
    for problem in error.errors():
        is_unknown = problem["type"] == "extra_forbidden"
        location = problem["loc"][:-1] if is_unknown else problem["loc"]
        if problem["type"] == "missing" and isinstance(location[-1], int):
            location = location[:-1]  # a list that is too short, not a setting
        names, part = _walk(schema, location)
        if is_unknown:
            names = [*names, str(problem["loc"][-1])]
            text = _unknown(schema, part, names)
        elif problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
        else:
            given = _value(settings, names)
            if given is _NOT_GIVEN and problem["type"] != "missing":
                given = problem["input"]
            beginning = "missing" if given is _NOT_GIVEN else f"found {given!r:.200}"
            wanted = f"expected {expectation(part, schema)}" if part else problem["msg"].lower()
            meaning = f" ({' '.join(part['description'].split())})" if "description" in part else ""
            text = f"{beginning}, {wanted}{meaning}"
        texts.setdefault(".".join(names) or "trial", text)
    return [f"{name}: {text}" for name, text in texts.items()]


def expectation(part: Schema, schema: Schema) -> str:
    """What a setting may be, such as `a whole number of at least 1, or null`."""
    options = [_expectation(option, schema) for option in part.get("anyOf", [part])]
    return ", or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))


def _expectation(part: Schema, schema: Schema) -> str:
    part = _resolved(part, schema)
    if "enum" in part or "const" in part:
        return " or ".join(map(repr, part.get("enum", [part.get("const")])))
    if part.get("type") in ("integer", "number"):
        kind = "a whole number" if part["type"] == "integer" else "a number"
        bounds = [f"{words} {_number(part[name])}" for name, words in _BOUNDS.items() if name in part]
        return f"{kind} ({', '.join(bounds)})" if bounds else kind
    words = _TYPES.get(str(part.get("type")), "another value")
    if "properties" in part:
        return f"{words}, such as {next(iter(part['properties']))}"
    places = part.get("prefixItems", ())
    words += f" of {len(places)}" if places else f" of {part['minItems']} or more" if "minItems" in part else ""
    words += f" that matches {part['pattern']}" if "pattern" in part else ""
    items = places[0] if places else part.get("items", part.get("additionalProperties"))
    return f"{words}, each {expectation(items, schema)}" if isinstance(items, dict) and items else words


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}" if isinstance(value, float) else str(value)


def _resolved(part: Schema, schema: Schema) -> Schema:
    """A part of the schema, what it refers to put in its place."""
    reference = part.get("$ref")
    return part if reference is None else schema["$defs"][reference.rpartition("/")[2]]


def _below(part: Schema, key: Any, schema: Schema) -> Schema | None:
    """The schema of one setting, or of one place in a list, below a part; None where there is no such."""
    part = _resolved(part, schema)
    if isinstance(key, int):
        places = part.get("prefixItems", ())
        below = places[key] if key < len(places) else part.get("items")
    else:
        below = part.get("properties", {}).get(key, part.get("additionalProperties"))
    options = (_below(option, key, schema) for option in part.get("anyOf", ()))
    return below if isinstance(below, dict) else next((option for option in options if option is not None), None)


def _walk(schema: Schema, location: Sequence[Any]) -> tuple[list[str], Schema]:
    """The names on the way to a setting, and its schema, empty where it has none. Within a union pydantic adds the name
    of the option that it tried: the union is then the setting."""
    part: Schema = schema
    for depth, key in enumerate(location):
        below = _below(part, key, schema)
        if below is None:
            return [*map(str, location[: depth if "anyOf" in part else None])], part if "anyOf" in part else {}
        part = below
    return [*map(str, location)], part


def _value(settings: Any, names: Sequence[str]) -> Any:
    for name in names:
        if isinstance(settings, dict) and name in settings:
            settings = settings[name]
        elif isinstance(settings, list) and name.isdecimal() and int(name) < len(settings):
            settings = settings[int(name)]
        else:
            return _NOT_GIVEN
    return settings


def _unknown(schema: Schema, part: Schema, names: Sequence[str]) -> str:
    """A setting of this name further down, one like it here, or one anywhere if it stands at the top; else all here."""
    *above, given = names
    known, place = [*_settings(part, schema, nested=False)], "".join(f"{name}." for name in above)
    namesakes = [name for name in _settings(part, schema) if name.rpartition(".")[2] == given]
    near = [f"{place}{name}" for name in namesakes] or difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(known)}"
    return f"unknown setting; {hint}"


def _settings(part: Schema, schema: Schema, nested: bool = True) -> Iterator[str]:
    """Dotted names of all settings below a part; of a list, those of its first item."""
    part = _resolved(part, schema)
    for option in part.get("anyOf", ()):
        yield from _settings(option, schema, nested)
    if nested and isinstance(items := part.get("items"), dict):
        yield from (f"0.{name}" for name in _settings(items, schema))
    for name, below in part.get("properties", {}).items():
        yield name
        if nested:
            yield from (f"{name}.{further}" for further in _settings(below, schema))
