"""Model folders that are hostile or broken: nothing in them is unpickled or run, nothing is made up in place of what is
missing, and no weights that are no numbers are exported or scored."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.pretrain.export import export
from tokentrial.run.run import run
from tokentrial.store.files import read_json
from tokentrial.store.folders import step

CELL = "baseline/seed1"
EVIL = "import pathlib\npathlib.Path('OWNED').touch()\nclass Evil: pass\n"


class Evil:
    """Touches a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch OWNED",)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def with_code(folder):
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL)


def with_a_layer_more(folder):
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 2}))


def no_number(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


BROKEN = {
    "pickled weights": (pickled, "no file named model.safetensors"),
    "code of its own": (with_code, "no code of a model is run"),
    "truncated weights": (write("model.safetensors", b"\x10\0\0\0"), "header too small"),
    "weights with an endless header": (write("model.safetensors", b"\xff" * 8 + b"{}"), "header too large"),
    "a layer without weights": (with_a_layer_more, "its weights lack transformer.h.1.attn.c_attn.bias"),
    "weights that are no numbers": (no_number, "transformer.wte.weight holds weights that are not finite"),
    "broken config": (write("config.json", b"{"), "not a valid JSON file"),
    "unknown kind": (write("config.json", b'{"model_type": "nope"}'), "nope"),
    "broken tokenizer": (write("tokenizer.json", b"{"), "cannot be loaded"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_or_hostile_model_is_refused(what, finished, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, (spoil, complaint) = tmp_path / "model", BROKEN[what]
    shutil.copytree(finished.folder / CELL / "hf", folder)
    spoil(folder)
    message = refused("evaluate", "--model", folder, "--out", tmp_path / "out")
    assert message.startswith(f"{folder}: ")
    assert complaint in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]  # nothing ran, nothing was written


@pytest.mark.slow
@pytest.mark.parametrize("what", ["pickled weights", "code of its own"])
def test_the_harness_unpickles_and_runs_nothing_either(what, finished, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.folder / CELL / "hf", tmp_path / "model")
    BROKEN[what][0](tmp_path / "model")
    message = refused(
        "evaluate", "--model", tmp_path / "model", "--harness", "lambada_openai", "--out", tmp_path / "out"
    )
    assert str(tmp_path / "model") in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_code_beside_a_tokenizer_is_not_run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.folder / CELL / "hf", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_bytes())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "evil.py").write_text(EVIL)
    load(tmp_path / "model")
    assert not (tmp_path / "OWNED").exists()


def test_weights_that_are_no_numbers_are_not_exported(finished_copy, finished, tiny, plan, inline, tmp_path):
    from tokentrial.arms.arm import get_arm

    trained = finished_copy / CELL / "pretrain"
    path = trained / "model_00019.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    weights["wte.weight"][3, 5] = torch.inf
    save_file(weights, path)
    with (
        pytest.raises(TrialError, match=r"wte\.weight holds weights that are not finite; lower pretrain\.lr"),
        step(tmp_path / "hf", "any") as partial,
    ):
        export(partial, trained, get_arm("baseline"), plan.vocabulary, "any")
    assert not (tmp_path / "hf").exists()
    path.write_bytes(whole)
    shutil.rmtree(finished_copy / CELL / "hf")
    run(tiny(finished_copy))
    report = "comparison_report.json"
    assert read_json(finished_copy / report)["outcomes"] == read_json(finished.folder / report)["outcomes"]
