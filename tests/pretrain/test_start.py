"""A model of one's own: what pretraining goes on from, and what is refused as a start."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.pretrain.export import from_hf, load_gpt, load_initial_weights, to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.start import prepare_start, start_fingerprint
from tokentrial.run.cells import run_cell
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.steps.pretrain import PretrainStage
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(256, 45)
EOS = 512
SHAPE = Config(VOCABULARY.size, 1, 2, 32, 64)


def random_gpt2(**changed):
    """A GPT-2 of transformers with random weights, biases and norms among them."""
    torch.manual_seed(5)
    settings = {"vocab_size": EOS + 1, "n_positions": 96, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**settings | {"bos_token_id": EOS, "eos_token_id": EOS} | changed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def gpt2():
    return random_gpt2()


@pytest.fixture
def checkpoint(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def trial(tiny, checkpoint, tmp_path):
    """`trial(*overrides)`: the tiny trial that starts from the checkpoint."""
    return lambda *overrides: tiny(tmp_path / "run", f"pretrain.from_checkpoint={checkpoint}", *overrides)


def initialized(folder, arm, shape=SHAPE, vocabulary=VOCABULARY):
    model = GPT(shape, seed=1)
    load_initial_weights(model, folder, vocabulary, arms.get_arm(arm))
    return model


@torch.no_grad()
def test_plain_ids_have_the_logits_that_transformers_gives_them(gpt2, checkpoint):
    ids = torch.randint(EOS + 1, (3, 64), generator=torch.Generator().manual_seed(0))
    logits = initialized(checkpoint, "mul_tokens").logits(ids)[..., : EOS + 1]
    torch.testing.assert_close(logits, gpt2(ids).logits, atol=2e-5, rtol=1e-4)


def test_a_fact_begins_as_the_mean_of_its_digits_and_every_other_new_row_as_the_mean_of_all(gpt2, checkpoint):
    old = gpt2.transformer.wte.weight.detach()
    digit = {d: old[VOCABULARY.encode(d)[0]] for d in "0123456789"}
    rows = initialized(checkpoint, "mul_tokens").wte.weight.detach()
    of = VOCABULARY.token_ids(arms.get_arm("mul_tokens"))
    torch.testing.assert_close(rows[of["<MUL_6_9_54>"]], (digit["6"] + digit["9"] + digit["5"] + digit["4"]) / 4)
    torch.testing.assert_close(rows[of["<MUL_2_2_4>"]], (2 * digit["2"] + digit["4"]) / 3)
    torch.testing.assert_close(rows[EOS + 1 : VOCABULARY.base], old.mean(0).expand(63, -1))
    torch.testing.assert_close(rows[VOCABULARY.size :], torch.zeros(len(rows) - VOCABULARY.size, 32))
    of_any = torch.stack([*digit.values()]).mean(0)
    one_slot = initialized(checkpoint, "one_slot").wte.weight.detach()
    torch.testing.assert_close(one_slot[VOCABULARY.base], of_any)
    for arm in ("random_slot", "append_random"):  # their tokens have a fact's name, and say nothing of it
        drawn = initialized(checkpoint, arm).wte.weight.detach()[VOCABULARY.base : VOCABULARY.size]
        torch.testing.assert_close(drawn, of_any.expand(45, -1))


def test_tokens_for_words_begin_as_the_mean_of_what_they_stand_for(gpt2, checkpoint):
    facts = build_facts(FactSettings(rows=(("What is the capital of France?", "Paris"), ("Who was the 3rd?", "Ann"))))
    old = gpt2.transformer.wte.weight.detach()
    of_arm = {"mul_append": " Paris", "operand_only": " the capital of France"}
    for name, text in of_arm.items():
        model, arm = GPT(SHAPE, seed=1), arms.get_arm(name, facts)
        load_initial_weights(model, checkpoint, VOCABULARY, arm)
        row = VOCABULARY.token_ids(arm)[arm.token(facts[0])]
        expected = old[VOCABULARY.encode(text).tolist()].mean(0)
        torch.testing.assert_close(model.wte.weight.detach()[row], expected)


def test_arms_start_alike_but_for_their_own_tokens(checkpoint):
    plain, treated = (initialized(checkpoint, arm).state_dict() for arm in ("baseline", "mul_tokens"))
    differ = [name for name in plain if not torch.equal(plain[name], treated[name])]
    assert differ == ["wte.weight"]
    rows = (plain["wte.weight"] != treated["wte.weight"]).any(dim=1).nonzero().flatten()
    assert rows.tolist() == [*range(VOCABULARY.base, VOCABULARY.size)]


def test_an_old_checkpoint_without_a_head_and_with_causal_masks_is_read_too(gpt2, checkpoint, tmp_path):
    """openai-community/gpt2 on the Hub is such a one: a GPT2Model's names, and `h.0.attn.bias`."""
    bare = GPT2Model(gpt2.config)
    bare.load_state_dict(gpt2.transformer.state_dict())
    state = {name: tensor.half() for name, tensor in bare.state_dict().items()}
    save_file(state | {"h.0.attn.bias": torch.tril(torch.ones(1, 1, 96, 96))}, tmp_path / "model.safetensors")
    old, new = (initialized(folder, "baseline").state_dict() for folder in (tmp_path, checkpoint))
    torch.testing.assert_close(old, new, atol=1e-3, rtol=1e-3)


def test_what_was_exported_comes_back_the_same():
    model = GPT(SHAPE, seed=3)
    kept = model.state_dict() | {"wte.weight": model.wte.weight.detach()[: VOCABULARY.size]}
    torch.testing.assert_close(from_hf(to_hf(model, EOS).state_dict()), dict(kept), rtol=0, atol=0)


def test_gpt2_s_own_vocabulary_fits_all_merges_and_its_shards_are_put_together(tiny, tmp_path):
    """50,257 ids: the ids of encoder.json are ours (tests/tokenizer/test_vocabulary.py), the facts stand at 50304."""
    model = random_gpt2(vocab_size=50_257, bos_token_id=50_256, eos_token_id=50_256, n_positions=64)
    model.save_pretrained(tmp_path / "gpt2", max_shard_size="1MB")
    assert len([*(tmp_path / "gpt2").glob("model-*-of-*.safetensors")]) > 1
    vocabulary = Vocabulary(50_000, 45)
    trial = tiny(tmp_path / "run", f"pretrain.from_checkpoint={tmp_path / 'gpt2'}", "tokenizer.merges=50000")
    prepare_start(trial, vocabulary)
    extended = initialized(trial.folder / "start", "mul_tokens", Config(vocabulary.size, 1, 2, 32, 64), vocabulary)
    rows = model.transformer.wte.weight.detach()
    assert torch.equal(extended.wte.weight[:50_257], rows)
    digits = rows[[vocabulary.encode(d)[0] for d in "9981"]].mean(0)
    torch.testing.assert_close(extended.wte.weight[50_348], digits)


# what enters the fingerprint


def test_the_content_of_the_files_is_what_counts(trial, checkpoint, tmp_path):
    prepare_start(trial(), VOCABULARY)
    first = start_fingerprint(trial())
    shutil.copytree(checkpoint, tmp_path / "moved")
    moved = trial(f"pretrain.from_checkpoint={tmp_path / 'moved'}")
    prepare_start(moved, VOCABULARY)
    assert start_fingerprint(moved) == first
    state = load_file(checkpoint / "model.safetensors")
    state["transformer.ln_f.bias"] += 1
    (checkpoint / "model.safetensors").unlink()
    save_file(state, checkpoint / "model.safetensors")
    prepare_start(trial(), VOCABULARY)
    assert start_fingerprint(trial()) != first


def test_a_start_that_was_saved_anew_in_place_is_not_trained_from(trial, checkpoint, monkeypatch):
    """Its files are hard links: what begins later would begin with other weights under the same fingerprint."""
    prepare_start(trial(), VOCABULARY)
    monkeypatch.setattr(PretrainStage, "make", lambda self, job: pytest.fail("it was read"))
    monkeypatch.setattr(CorpusPlan, "sets_of", lambda self, seed: [])
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(TrialError, match=r"start/model\.safetensors: its bytes differ from its manifest"):
        run_cell(trial(), Cell("baseline", 1), ["pretrain"])


@pytest.mark.slow
def test_a_run_goes_on_without_the_folder_it_began_from_and_another_start_pretrains_anew(
    trial, tiny, checkpoint, tmp_path, inline
):
    warm = trial()
    run(warm)
    assert not Cell("mul_tokens", 1).pending(CorpusPlan(warm))
    assert "pretrain" in Cell("mul_tokens", 1).pending(CorpusPlan(tiny(tmp_path / "run")))
    shutil.rmtree(checkpoint)
    assert run(warm)["missing"] == []


# what is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_layer": 2}, r"has n_layer 2; set pretrain\.n_layer=2"),
        ({"n_embd": 48}, r"has n_embd 48; set pretrain\.n_embd=48"),
        ({"n_head": 4}, r"has n_head 4; set pretrain\.n_head=4"),
        ({"n_positions": 32}, r"has 32 positions; set pretrain\.context=32"),
        ({"n_positions": None}, r"has None positions"),
        ({"eos_token_id": 50_256, "vocab_size": 50_257}, r"has 50257 ids and its eos at 50256, where 256 merges put"),
        ({"vocab_size": 500}, r"has 500 ids and its eos at 512"),
        ({"model_type": "llama"}, r"has model_type 'llama', expected 'gpt2'"),
        ({"activation_function": "relu"}, r"has activation_function 'relu', expected 'gelu_new'"),
        ({"tie_word_embeddings": False}, r"has tie_word_embeddings False, expected True"),
        ({"n_inner": 64}, r"has n_inner 64, expected 128"),
    ],
)
def test_another_model_than_the_trial_s_is_refused_with_what_differs(trial, checkpoint, changed, message):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(SettingsError, match=message):
        prepare_start(trial(), VOCABULARY)
    assert not (trial().folder / "start").exists()


def test_a_pickle_is_refused_with_the_way_to_convert_it(trial, checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(SettingsError, match=r"pytorch_model\.bin.*a pickle is not loaded.*save_pretrained"):
        prepare_start(trial(), VOCABULARY)


def test_other_merges_are_refused_and_ours_are_taken(trial, checkpoint):
    to_transformers(VOCABULARY, arms.get_arm("baseline"), 96).save_pretrained(checkpoint)
    prepare_start(trial(), VOCABULARY)
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"].reverse()
    path.write_text(json.dumps(tokenizer))
    os.utime(path, (1, 1))
    with pytest.raises(SettingsError, match="has not GPT-2's first 256 merges"):
        prepare_start(trial(), VOCABULARY)


def test_weights_that_are_not_those_of_the_config_are_named(checkpoint):
    state = load_file(checkpoint / "model.safetensors")
    del state["transformer.h.0.mlp.c_fc.bias"]
    save_file(state, checkpoint / "model.safetensors")
    with pytest.raises(TrialError, match=r"do not match its config\.json.*h\.0\.mlp\.c_fc\.bias"):
        initialized(checkpoint, "baseline")
    (checkpoint / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(TrialError, match="the weights in"):
        initialized(checkpoint, "baseline")


def test_a_word_or_a_folder_that_names_no_model_is_refused(tiny, tmp_path):
    with pytest.raises(SettingsError, match=r"pretrain\.init: found 'zero_projection'"):
        tiny(tmp_path, "pretrain.init=zero_projection")
    with pytest.raises(SettingsError, match=r"from_checkpoint is 'gpt3', expected a folder such as \./gpt3"):
        tiny(tmp_path, "pretrain.from_checkpoint=gpt3")
    with pytest.raises(SettingsError, match="neither a folder nor an OWNER/NAME on the Hub"):
        prepare_start(tiny(tmp_path, f"pretrain.from_checkpoint={tmp_path}/gpt3"), VOCABULARY)


def test_a_trained_model_remembers_what_it_began_from(train, gpt2, checkpoint, tmp_path):
    """Steps at a rate near zero leave the checkpoint's weights, up to what was cut."""
    init = {"from_checkpoint": str(checkpoint), "lr": 1e-9, "muon_lr": 1e-9}
    kept = load_gpt(train(tmp_path / "cell", "mul_tokens", start=checkpoint, **init))
    torch.testing.assert_close(kept.wpe.weight, gpt2.transformer.wpe.weight[:64], atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.wte.weight[: EOS + 1], gpt2.transformer.wte.weight, atol=1e-6, rtol=0)
