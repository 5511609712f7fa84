"""The reference of all settings as Markdown, from the JSON schema of a trial: what editors show, as a page to read."""

import json
from collections.abc import Iterator
from typing import Any

_HEAD = """# Settings

Every setting of a trial, as `tokentrial schema --markdown` prints it. Give one in the YAML file under its part, or on
the command line by its dotted name: `pretrain.steps=200`. Every trial must give `name`, `arms`, `control`, `seeds` and
`verdict.primary`; the other settings marked "required" must be given only if their part is used. Where the default
is "below", that part has a table of its own. `tokentrial outcomes TRIAL` lists the outcomes that a trial may declare.
"""


def settings_page(schema: dict[str, Any]) -> str:
    """One table a part of the trial; `schema` is that of `Trial.model_json_schema()`."""
    return "\n".join([_HEAD, *_part("The trial itself", "", schema, schema["$defs"])]) + "\n"


def _part(title: str, prefix: str, part: dict[str, Any], defs: dict[str, Any]) -> Iterator[str]:
    """The table of a part, and then those of the parts in it."""
    inner: list[tuple[str, dict[str, Any]]] = []
    yield f"## {title}\n"
    if prefix:
        yield f"{_cell(part['description'])}\n"
    yield "| setting | default | values | meaning |\n|---|---|---|---|"
    for name, setting in part["properties"].items():
        if below := _reference(setting):
            definition = defs[below]
            inner.append((f"{prefix}{name}", definition))
            if "description" not in setting:
                setting = setting | {"description": definition["description"]}
        shown = "required" if name in part.get("required", ()) else _default(setting, bool(below))
        yield f"| `{prefix}{name}` | {shown} | {_values(setting, defs)} | {_cell(setting['description'])} |"
    yield ""
    for name, definition in inner:
        yield from _part(f"`{name}`", f"{name}.", definition, defs)


def _reference(setting: dict[str, Any]) -> str | None:
    """The part that a setting is, or a list's items are."""
    options = [setting, setting.get("items", {}), *setting.get("anyOf", ())]
    return next((option["$ref"].rpartition("/")[2] for option in options if "$ref" in option), None)


def _default(setting: dict[str, Any], is_part: bool) -> str:
    if "default" not in setting:
        return ""
    value = setting["default"]
    return "below" if is_part and value else f"`{json.dumps(value)}`"


def _values(setting: dict[str, Any], defs: dict[str, Any]) -> str:
    """What may stand there, in few words."""
    if "anyOf" in setting:
        return " or ".join(_values(option, defs) for option in setting["anyOf"])
    if "enum" in setting:
        return ", ".join(f"`{value}`" for value in setting["enum"])
    if "const" in setting:
        return f"`{setting['const']}`"
    if "$ref" in setting:
        return "settings"
    kind = {"array": "list", "object": "mapping", "string": "text", "integer": "whole number"}.get(
        setting.get("type", ""), setting.get("type", "any")
    )
    bounds = [
        f"{words} {setting[key]:,}"
        for key, words in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in setting and abs(setting[key]) < 2**32 - 2000  # beyond that it is the computer's bound
    ]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
