"""Hostile trial files: nothing in them runs, none takes the machine down, each is refused by name."""

import pytest

WIDE = ", ".join(["*{0}"] * 9)
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{WIDE.format(before)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{WIDE.format(before)}]}}\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "code": ("name: !!python/object/apply:os.system ['touch OWNED']", "could not determine a constructor"),
    "module": ("name: !!python/module:antigravity", "could not determine a constructor"),
    "billion laughs": (LAUGHS, "more than 100,000 values"),
    "billion laughs by merging": (MERGES, "more than 100,000 values"),
    "within itself": ("a: &a [*a]", "an alias that contains itself"),
    "deep": ("seeds: " + "[" * 50_000, "nested too deep"),
    "nul": ("name: a\0b", "special characters are not allowed"),
    "many digits": ("seeds: [" + "9" * 5000 + "]", "4300 digits"),
    "a date": ("name: !!timestamp 2026-11-27", "could not determine a constructor"),
    "a set": ("arms: !!set {baseline}", "could not determine a constructor"),
    "no truth": ("corpus: {allow_short: !!bool maybe}", "not valid YAML"),
    "no integer": ("seeds: !!int [1]", "expected a scalar node"),
    "no number": ("pretrain: {lr: .nan}", "pretrain.lr: found nan"),
    "binary": (b"\x93NUMPY\x01\x00" * 100, "special characters are not allowed"),
    "escapes": ('"\\u001b]0;owned\\u0007\\u001b[31m": 1', "unknown setting"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_trial_file_is_refused_by_name(what, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, complaint = HOSTILE[what]
    path = tmp_path / "hostile.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("run", path, code=2)
    assert message.startswith(f"{path}:")
    assert complaint in message
    assert all(character.isprintable() or character == "\n" for character in message)
    assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.yaml"]


def test_the_trial_file_of_a_run_may_be_hostile_too(finished_copy, refused, hashes):
    before = hashes(finished_copy)
    (finished_copy / "trial.yaml").write_text(HOSTILE["code"][0])
    for verb in ("status", "report", "bundle"):
        assert f"{finished_copy / 'trial.yaml'}: not valid YAML" in refused(verb, finished_copy, code=2)
    assert hashes(finished_copy) == before


def test_aliases_that_stand_for_little_are_welcome(tmp_path):
    from tokentrial.trial.load import load

    path = tmp_path / "trial.yaml"
    path.write_text(
        "name: a\narms: [baseline, mul_tokens]\ncontrol: baseline\nseeds: [1]\nverdict: {primary: {outcome: "
        "pretrain/mul_table/all/accuracy, contrast: mul_tokens - baseline}}\n"
        "pretrain: {steps: &few 10, log_every: *few}\n"
    )
    assert load(str(path)).pretrain.log_every == 10
