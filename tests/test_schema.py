"""The schema of a trial for editors: it is the models', takes every shipped trial, and says what each setting is."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

import tokentrial
from tokentrial.trial.trial import Trial
from tokentrial.trial.yaml_text import read_yaml

TRIALS = Path(tokentrial.__file__).parent / "trials"
ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((TRIALS / "schema.json").read_bytes())


def test_the_shipped_schema_is_what_the_command_prints(tokentrial):
    code, out, _ = tokentrial("schema")
    assert code == 0
    assert json.loads(out) == SCHEMA


def test_the_settings_page_is_what_the_command_prints_and_has_every_setting(tokentrial):
    code, out, _ = tokentrial("schema", "--markdown")
    assert (code, out) == (0, (ROOT / "docs/settings.md").read_text())
    for part in [SCHEMA, *SCHEMA["$defs"].values()]:
        for name in part["properties"]:
            assert re.search(rf"^\| `([a-z_0-9.]+\.)?{name}` \|", out, re.MULTILINE), name


@pytest.mark.parametrize("path", sorted(TRIALS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_trial_names_the_schema_and_is_valid(path):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(read_yaml(text, str(path)), SCHEMA)


@pytest.mark.parametrize("wrong", [{"seeds": "1"}, {"pretrain": {"stpes": 3}}, {"corpus": {"val_share": 0.9}}])
def test_what_a_trial_refuses_an_editor_marks(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read_yaml((TRIALS / "pilot.yaml").read_text(), "pilot") | wrong, SCHEMA)


def test_every_setting_says_what_it_is():
    for name, part in {"trial": Trial.model_json_schema(), **SCHEMA["$defs"]}.items():
        assert part["description"], name
        for setting, of in part.get("properties", {}).items():
            assert "description" in of or "$ref" in json.dumps(of), f"{name}.{setting}"
