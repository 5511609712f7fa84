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
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARY, ARM = Vocabulary(256, 45), arms.get_arm("mul_tokens")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "hf"
    export(folder, trained, ARM, VOCABULARY, "tiny")
    return folder


def astray(name):
    """`to_hf` with one weight transposed or shifted. The reference transposed a weight only where its shape asked for
    it, so that the square `attn.c_proj` went out as it was."""

    def convert(model, eos):
        converted = to_hf(model, eos)
        with torch.no_grad():
            for block in converted.transformer.h:
                weight = block.get_parameter(name)
                weight.copy_(weight.T.clone() if name == "attn.c_proj.weight" else weight + 0.05)
        return converted

    return convert


@pytest.mark.parametrize("name", ["attn.c_proj.weight", "attn.c_attn.bias", "ln_1.weight", "mlp.c_fc.weight"])
def test_a_weight_that_went_astray_is_refused(trained, tmp_path, monkeypatch, name):
    monkeypatch.setattr(exports, "to_hf", astray(name))
    with pytest.raises(TrialError, match=r"not exported: logits differ from the trained model's by .* of the largest"):
        export(tmp_path / "hf", trained, ARM, VOCABULARY, "tiny")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(("seed", "layers", "scale"), [(1, 1, 1), (2, 2, 1), (3, 3, 1000)])
def test_at_any_seed_shape_and_size_of_logits_the_gap_shows_a_square_matrix_left_alone(seed, layers, scale):
    """fp32 errs by a share of the logits: those of a trained GPT-2 reach 95, at which 8e-5 are no fault."""
    model = GPT(Config(621, layers, 2, 32, 64), seed=seed)
    with torch.no_grad():
        model.ln_f.weight.mul_(scale)
    assert logits_gap(model, to_hf(model, 512)) < exports.TOLERANCE / 2
    assert logits_gap(model, astray("attn.c_proj.weight")(model, 512)) > 5 * exports.TOLERANCE


def test_what_is_loaded_again_is_the_trained_model_and_its_tokenizer(trained, exported):
    model, loaded = load_gpt(trained), AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    ids = torch.randint(621, (5, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model.logits(ids), atol=1e-5, rtol=1e-5)
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
    assert loaded.transformer.wte.weight.shape == (loaded.config.vocab_size, 32) == (621, 32)
    config = json.loads((exported / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == config["pad_token_id"] == VOCABULARY.eos
    tokenizer = AutoTokenizer.from_pretrained(exported)
    for text in ("so 6*9=54 and 2*3=6.", "plain prose\n with  blanks", "Ünïcödé 😀", "User: What is 3 times 4?"):
        expected = VOCABULARY.encode_arm(ARM, text).tolist()
        assert tokenizer(ARM.rewrite(text), add_special_tokens=False)["input_ids"] == expected
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (621, VOCABULARY.eos, VOCABULARY.eos)


def test_weights_are_safetensors_and_the_card_says_what_it_is(exported):
    names = {path.name for path in exported.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    card = (exported / "README.md").read_text()
    for part in ("mul_tokens, seed 2", "5,120 tokens", "eos is id 512", "ids 576 to 620"):
        assert part in card


def test_a_missing_or_damaged_pretraining_is_named(trained, tmp_path):
    with pytest.raises(TrialError, match=r"results\.json: not found"):
        load_gpt(tmp_path)
    shutil.copytree(trained, tmp_path / "p")
    (tmp_path / "p" / "results.json").write_text("{")
    with pytest.raises(TrialError, match=r"results\.json: not valid JSON"):
        load_gpt(tmp_path / "p")
