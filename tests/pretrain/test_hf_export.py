"""Export: what goes out is what was trained, or nothing goes out (defect R1)."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokentrial.arms import arm as arms
from tokentrial.errors import TrialError
from tokentrial.pretrain import export as exports
from tokentrial.pretrain.export import export, load_gpt, logits_gap, to_hf
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.steps.cell import Cell
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(256, 45)


@pytest.fixture(scope="module")
def pretrained(finished):
    return Cell("mul_tokens", 1).folder(finished, "pretrain")


@pytest.fixture(scope="module")
def exported(finished):
    return Cell("mul_tokens", 1).folder(finished, "export")


def go(pretrained, folder):
    folder.mkdir()
    export(folder, pretrained, arms.find("mul_tokens"), VOCABULARY, "tiny")
    return folder


def only_shape_mismatches(model, eos):
    """The reference's conversion: it transposed a weight only where its shape asked for it, so that the square
    `attn.c_proj` went out as it was."""
    made = to_hf(model, eos)
    with torch.no_grad():
        for block in made.transformer.h:
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight.T.clone())
    return made


def test_a_square_matrix_left_untransposed_is_refused(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "to_hf", only_shape_mismatches)
    with pytest.raises(TrialError, match=r"not exported: logits differ from the trained model's by .* of the largest"):
        go(pretrained, tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


@pytest.mark.parametrize("name", ["attn.c_attn.bias", "ln_1.weight", "mlp.c_fc.weight"])
def test_any_weight_that_went_astray_is_refused(pretrained, tmp_path, monkeypatch, name):
    def astray(model, eos):
        made = to_hf(model, eos)
        with torch.no_grad():
            made.transformer.h[0].get_parameter(name).add_(0.05)
        return made

    monkeypatch.setattr(exports, "to_hf", astray)
    with pytest.raises(TrialError, match="not exported"):
        go(pretrained, tmp_path / "hf")


@pytest.mark.parametrize(("gap", "passes"), [(1.9e-5, True), (2.1e-5, False), (float("nan"), False)])
def test_the_gate_stands_at_2e_5_of_the_largest_logit(pretrained, tmp_path, monkeypatch, gap, passes):
    monkeypatch.setattr(exports, "logits_gap", lambda model, exported: gap)
    if passes:
        assert (go(pretrained, tmp_path / "hf") / "model.safetensors").exists()
    else:
        with pytest.raises(TrialError, match="not exported"):
            go(pretrained, tmp_path / "hf")


def test_the_gap_is_the_largest_difference_of_logits(pretrained):
    model = load_gpt(pretrained)
    made = to_hf(model, VOCABULARY.eos)
    assert logits_gap(model, made) < 1e-5
    ids = torch.randint(621, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        largest = made(ids).logits.abs().max().item()
        made.transformer.ln_f.bias.copy_(made.transformer.ln_f.bias + 0.01)
    shift = (made.transformer.wte.weight.sum(dim=1) * 0.01).abs().max().item()
    assert logits_gap(model, made) * largest == pytest.approx(shift, rel=1e-2)


def test_the_gate_does_not_depend_on_the_size_of_the_logits(pretrained):
    """fp32 errs by a share of the logits: those of a trained GPT-2 reach 95, at which 8e-5 are no fault."""
    model = load_gpt(pretrained)
    with torch.no_grad():
        model.ln_f.weight.mul_(1000)
        model.ln_f.bias.mul_(1000)
    assert logits_gap(model, to_hf(model, VOCABULARY.eos)) < exports.TOLERANCE
    assert logits_gap(model, only_shape_mismatches(model, VOCABULARY.eos)) > 1e-2


def test_the_gate_knows_nothing_of_luck():
    """At any seed and shape, leaving the square matrix alone opens a gap that the gate sees."""
    for seed, layers in ((1, 1), (2, 2), (3, 3)):
        model = GPT(Config(621, layers, 2, 32, 64), seed=seed)
        assert logits_gap(model, to_hf(model, 512)) < 1e-5
        assert logits_gap(model, only_shape_mismatches(model, 512)) > 1e-4


def test_what_is_loaded_again_has_the_trained_model_s_logits(pretrained, exported):
    model, loaded = load_gpt(pretrained), AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    ids = torch.randint(621, (5, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model.logits(ids), atol=1e-5, rtol=1e-5)


def test_the_embeddings_are_tied_and_trimmed(exported):
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
    assert loaded.transformer.wte.weight.shape == (621, 32)
    assert loaded.config.vocab_size == 621
    config = json.loads((exported / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == config["pad_token_id"] == VOCABULARY.eos


def test_the_tokenizer_that_is_loaded_again_gives_the_trained_ids(exported):
    loaded, arm = AutoTokenizer.from_pretrained(exported), arms.find("mul_tokens")
    for text in ("so 6*9=54 and 2*3=6.", "plain prose\n with  blanks", "Ünïcödé 😀", "User: What is 3 times 4?"):
        ids = VOCABULARY.encode_arm(arm, text).tolist()
        assert loaded(arm.rewrite(text), add_special_tokens=False)["input_ids"] == ids
    assert len(loaded) == 621
    assert loaded.eos_token_id == loaded.pad_token_id == VOCABULARY.eos


def test_weights_are_safetensors_and_the_card_says_what_it_is(exported):
    names = {path.name for path in exported.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    card = (exported / "README.md").read_text()
    for said in ("mul_tokens, seed 1", "81,920 tokens", "eos is id 512", "ids 576 to 620"):
        assert said in card


def test_a_missing_or_damaged_pretraining_is_named(pretrained, tmp_path):
    with pytest.raises(TrialError, match=r"results\.json: not found"):
        load_gpt(tmp_path)
    shutil.copytree(pretrained, tmp_path / "p")
    (tmp_path / "p" / "results.json").write_text("{")
    with pytest.raises(TrialError, match=r"results\.json: not valid JSON"):
        load_gpt(tmp_path / "p")


def test_the_reference_s_ids_survive_the_way_out(tmp_path):
    """50,349 ids, facts from 50304 to 50348, in a model of tiny width (FACTS, section 1)."""
    vocabulary, arm = Vocabulary(50_000, 45), arms.find("mul_tokens")
    model = GPT(Config(vocabulary.size, 1, 1, 8, 16), seed=1)
    assert model.config.rows == 50_432
    made = to_hf(model, vocabulary.eos)
    assert made.transformer.wte.weight.shape == (50_349, 8)
    assert logits_gap(model, made) < 1e-5
    made.save_pretrained(tmp_path)
    to_transformers(vocabulary, arm, 16).save_pretrained(tmp_path)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("<MUL_1_1_1><MUL_6_9_54><MUL_9_9_81>", add_special_tokens=False)["input_ids"]
    assert ids == [50_304, 50_304 + 9 + 8 + 7 + 6 + 5 + 3, 50_348]  # in order of a, then b
    assert tokenizer.eos_token_id == loaded.config.eos_token_id == 50_256
    assert loaded(torch.tensor([ids])).logits.shape == (1, 3, 50_349)
