"""Hostile completions: a model may say anything. It is scored, kept and shown as text, and everything around it goes
on."""

import json

import pytest

from tokentrial.arms.arm import get_arm
from tokentrial.evaluate.generate import Completion
from tokentrial.posttrain.rewards import reward
from tokentrial.store.files import read_json
from tokentrial.tasks.gsm8k import SolutionTask, extract_last, extract_marked
from tokentrial.trial.settings import GRPO

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred"
HOSTILE = {
    "terminal escapes": ESCAPES,
    "markup": "[red]54[/red] [/] [link=http://x]x[/link] {{ 7 * 7 }} {% raw %}",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "latex": r"\input{/etc/passwd} % $x$ & _ # ~ ^",
    "nul": "5\x004",
    "many digits": "9" * 100_000,
    "many commas": "#### " + "1," * 50_000,
    "many tokens' names": "<MUL_6_9_54>" * 10_000,
    "half a token's name": "<MUL_6_9_" * 10_000,
    "huge": "6*9=" * 2_500_000,  # 10 MB
    "other digits": "٥٤ ५४ ⁵⁴ 54",
    "direction and width": "\u202e45\u202c \u200b\u2066",
    "replacement": "\ufffd" * 1000,
    "no number": "#### nan, inf, 1e999, -0, 0x36",
}


LONG = pytest.param("huge", marks=pytest.mark.slow)


@pytest.mark.parametrize("what", [LONG, *(what for what in HOSTILE if what != "huge")])
def test_whatever_is_said_it_is_read_and_rewarded(what):
    text = HOSTILE[what]
    for name in ("baseline", "mul_tokens", "mul_append"):
        arm = get_arm(name)
        plain = arm.untokenize(text)
        assert isinstance(plain, str)
        for read in (extract_marked, extract_last, SolutionTask().extract_answer):
            assert read(plain) is None or isinstance(read(plain), str)
        settings = GRPO(task="word_problems", format_bonus=0.5)
        assert reward(text, "54", arm, settings) in (0.0, 0.5, 1.0, 1.5)


@pytest.mark.slow
def test_a_run_whose_models_say_all_this_ends_with_a_clean_report(
    finished_copy, tiny, written, tokentrial, inline, monkeypatch
):
    import shutil

    texts = [text[:5000] for text in HOSTILE.values()]

    def speak(model, tokenizer, prompts, *given, **more):
        return [Completion(texts[i % len(texts)], 5, False) for i in range(len(prompts))]

    for cell in finished_copy.glob("*/seed*"):
        shutil.rmtree(cell / "eval_pretrain")
    (finished_copy / "comparison_report.json").unlink()
    monkeypatch.setattr("tokentrial.evaluate.evaluate.complete", speak)
    code, out, err = tokentrial(*written(tiny(finished_copy)))
    assert code == 0, err
    assert "\x1b" not in out + err
    page = (finished_copy / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    lines = next(finished_copy.glob("baseline/seed1/eval_*/samples.jsonl")).read_bytes().splitlines()
    kept = {json.loads(line)["completion"] for line in lines}
    assert set(texts) <= kept
    for words in (("compare", finished_copy), ("bundle", finished_copy, "--to", finished_copy.parent / "a.zip")):
        code, out, err = tokentrial(*words)
        assert code == 0, err
        assert "\x1b" not in out + err
    outcomes = read_json(finished_copy / "comparison_report.json")["outcomes"]
    assert outcomes["pretrain/mul_table/all/accuracy"]["per_seed"]["baseline"]
