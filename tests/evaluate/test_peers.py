"""Models of other makings, with random weights: every causal one is asked and scored, to the digit as read alone and
without a cache, and its prompts begin as its own tokenizer begins them."""

import math
import sys

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tokentrial.arms import arm as arms
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete, encode_prompts, limits, unsayable_mask
from tokentrial.evaluate.score import answer_logprobs
from tokentrial.evaluate.solve import gold_nats
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.gsm8k import solution_prompt
from tokentrial.tasks.task import Example
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import Vocabulary

VOCABULARY = Vocabulary(256, 45)
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 2}
_NEW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_GROUPED = _NEW | {"num_key_value_heads": 1}
_STATES = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
# shape, and how many ids its context holds by its own configuration
PEERS = {
    "gpt2": (_OLD, 1024),
    "openai-gpt": (_OLD, 512),  # keeps no cache
    "gpt_neox": (_NEW, 2048),
    "gpt_bigcode": (_OLD, 1024),
    "llama": (_GROUPED, 2048),
    "gemma2": (_GROUPED | {"head_dim": 16, "sliding_window": 8}, 8192),
    "qwen3": (_GROUPED | {"head_dim": 16}, 32_768),
    "opt": (_NEW | {"ffn_dim": 64, "word_embed_proj_dim": 32}, 2048),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, None),
    "mpt": ({"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 256}, 256),
    "falcon": (_NEW | {"alibi": True}, 2048),
    "mamba": (_STATES, None),
    "mamba2": (_STATES | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}, None),
    "rwkv": ({"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, 1024),
    "recurrent_gemma": (_GROUPED | {"lru_width": 32, "attention_window_size": 8}, None),
    "lfm2": (_GROUPED | {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]}, 128_000),
}
PROMPTS = ["a", "User: What is 6 times 9?\nAssistant: The answer is", "so it"]


def write_peer(folder, kind, shape):
    """A model whose answers depend on all that it reads, with a tokenizer of ours, which has fewer ids."""
    from transformers import AutoConfig, AutoModelForCausalLM

    eos = VOCABULARY.eos
    config = AutoConfig.for_model(kind, vocab_size=640, bos_token_id=eos, eos_token_id=eos, pad_token_id=0, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    to_transformers(VOCABULARY, arms.get_arm("baseline"), 1024).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", PEERS)
@torch.no_grad()
def test_any_causal_model_is_asked_and_scored_as_it_is_alone(tmp_path, kind):
    shape, context = PEERS[kind]
    (model, tokenizer), arm = load(write_peer(tmp_path, kind, shape)), arms.get_arm("baseline")
    assert limits(model) == (640, context or sys.maxsize)

    def alone(ids):
        return model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)

    expected, muted = [], unsayable_mask(model, tokenizer)
    for ids in encode_prompts(tokenizer, PROMPTS):
        said = []
        while len(said) < 6 and said[-1:] != [tokenizer.eos_token_id]:
            said.append(int((alone([*ids, *said])[-1] + muted).argmax()))
        expected.append(tokenizer.decode(said, skip_special_tokens=True))
    assert [said.text for said in complete(model, tokenizer, PROMPTS, 6, 3, line=False)] == expected

    gold = Example("t", "How?", solution_prompt("How?"), " 6*9=54\n#### 54", "54")
    [prompt], [solution] = (encode_prompts(tokenizer, [text]) for text in (gold.prompt, gold.completion))
    ids = [*prompt, *solution, tokenizer.eos_token_id]
    logprobs = alone(ids)
    nats = -sum(float(logprobs[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))
    assert gold_nats(model, tokenizer, arm, [gold], 2) == pytest.approx([nats / len(gold.completion)], rel=1e-4)

    shares = answer_logprobs(model, tokenizer, arm, Arithmetic().table()[:1])[0]
    assert math.fsum(map(math.exp, shares)) == pytest.approx(1)


# what a tokenizer puts first, as bos in most; GPT-2's and ours put nothing


@pytest.fixture
def beginning(tmp_path):
    """`beginning(template)`: model and tokenizer of a folder whose tokenizer frames a text so; `$A` is the text."""

    def make(template):
        write_peer(tmp_path, "llama", PEERS["llama"][0])
        tokenizer = to_transformers(VOCABULARY, arms.get_arm("baseline"), 1024)
        framed = TemplateProcessing(single=template, special_tokens=[("<|endoftext|>", VOCABULARY.eos)])
        tokenizer.backend_tokenizer.post_processor = framed
        tokenizer.save_pretrained(tmp_path)
        return load(tmp_path)

    return make


@pytest.mark.parametrize("template", ["$A", "<|endoftext|> $A", "<|endoftext|> $A <|endoftext|>", "$A <|endoftext|>"])
def test_prompts_begin_as_the_tokenizer_begins_them(beginning, template):
    """And as EleutherAI's harness begins them by default; what comes at the end of a text is none of a prompt."""
    model, tokenizer = beginning(template)
    texts = [example.prompt for example in Arithmetic().table()[:2]] + ["\na"]
    first = [VOCABULARY.eos] if template.startswith("<") else []
    found = encode_prompts(tokenizer, texts)
    assert found == [[*first, *VOCABULARY.encode(text).tolist()] for text in texts]
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs tokentrial[eval]")
    if not template.endswith("<|endoftext|>"):
        harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
        assert found == [harness.tok_encode(text) for text in texts]


@torch.no_grad()
def test_what_stands_first_counts_in_every_score_and_is_never_part_of_an_answer(beginning):
    model, tokenizer = beginning("<|endoftext|> $A")
    gold = Example("t", "How?", solution_prompt("How?"), " 6*9=54\n#### 54", "54")
    prompt, solution = (
        [VOCABULARY.eos] * first + VOCABULARY.encode(text).tolist()
        for first, text in ((1, gold.prompt), (0, gold.completion))
    )
    logprobs = model(torch.tensor([[*prompt, *solution]])).logits[0].double().log_softmax(-1)
    rows = [*solution, tokenizer.eos_token_id]
    nats = -sum(float(logprobs[len(prompt) - 1 + k, token]) for k, token in enumerate(rows))
    [found] = gold_nats(model, tokenizer, arms.get_arm("baseline"), [gold], 1)
    assert found == pytest.approx(nats / len(gold.completion), rel=1e-4)


def test_a_tokenizer_without_an_end_is_asked_to_the_limit(beginning):
    model, tokenizer = beginning("$A")
    tokenizer.eos_token = None
    [said] = complete(model, tokenizer, ["so"], 5, 1, line=False)
    assert (said.tokens, said.stopped) == (5, False)
    gold = Example("t", "How?", solution_prompt("How?"), " 54", "54")
    assert gold_nats(model, tokenizer, arms.get_arm("baseline"), [gold], 1)[0] > 0
