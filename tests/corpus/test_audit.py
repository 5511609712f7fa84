"""Exposure is what the loader serves; the audit stops a trial whose prompts leak or whose facts are not trained."""

import re
import shutil
from dataclasses import replace as replaced
from types import SimpleNamespace

import numpy as np
import pytest

from tokentrial.arms import arm as arms
from tokentrial.arms.arm import Segment, SiteArm
from tokentrial.corpus import audit as audits
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.facts.families import TIMES_TABLE, build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.pretrain.loader import Loader
from tokentrial.store.files import read_json
from tokentrial.tasks.arithmetic import Arithmetic

# this test's own reading of the drills' lines; (a, b, c) are each pattern's first three numbers
LINES = {
    "equation": r"^(\d)\*(\d)=(\d+)$",
    "times_sign": r"^(\d) × (\d) = (\d+)$",
    "letter_x": r"^(\d)x(\d)=(\d+)$",
    "boxes": r"^If you have \d boxes with \d apples each, you have (\d)\*(\d)=(\d+) apples in total, so \d+\.$",
    "statement": r"^(\d) times (\d) equals (\d+)\.$",
    "question": r"^User: What is (\d) times (\d)\?\nAssistant: The answer is (\d+)\.$",
}


def served_documents(plan, arm, seed):
    """Ids of the documents that the loader's batches hold within the budget, cut out of the batches themselves.

    One batch more than the budget is read, so that the last document is whole.
    """
    settings = plan.trial.pretrain
    loader = Loader(Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed), 64, settings.context)
    served = []
    for _ in range(settings.steps):
        served.append(loader.next()[0].reshape(-1))
    documents = loader.position.documents
    served.append(loader.next()[0].reshape(-1))
    ids = np.concatenate(served)
    starts = np.flatnonzero(ids == plan.vocabulary.eos)
    assert len(starts) > documents
    return np.split(ids, starts[1 : documents + 1])[:documents]


def test_a_sound_corpus_passes_and_the_overlap_of_probes_and_drills_is_told(plan):
    """Of the table, what is asked in some fold stands in drills word for word; nothing else is drilled."""
    audit = read_json(plan.folder / "audit.json")
    assert (audit["passed"], audit["problems"]) == (True, [])
    assert audits.audited(plan)
    assert audit["overlap_of_probes_and_drills"] == {
        "mul_table": 1.0,
        "mul_multidigit": 0.0,
        "addition": 0.0,
        "division": 0.0,
        "subtraction": 0.0,
        "two_step": 0.0,
    }


@pytest.fixture
def copied(plan, tiny, tmp_path):
    """`copied(*overrides)`: the plan of a copy of the corpus."""

    def make(*overrides):
        shutil.copytree(plan.trial.folder, tmp_path / "run", dirs_exist_ok=True)
        kept = "arms=[baseline,mul_tokens,mul_append]", "seeds=[1,2,3]"
        return CorpusPlan(tiny(tmp_path / "run", *kept, *overrides))

    return make


class Leaking(SiteArm):
    """As defect R3: what is asked is rewritten, and the token carries the answer."""

    name = "leaking"

    def segments(self, text):
        if match := re.search(r"(?<![0-9])([1-9]) times ([1-9])(?![0-9])", text):
            yield Segment(text[: match.start()], None, 0, match.start())
            yield Segment(match[0], TIMES_TABLE.of(int(match[1]), int(match[2])).token, match.start(), match.end())
            yield Segment(text[match.end() :], None, match.end(), len(text))


def test_a_prompt_that_an_arm_rewrites_stops_the_trial(copied, monkeypatch):
    monkeypatch.setattr(arms, "get_arm", lambda *_: Leaking())
    plan = copied()
    with pytest.raises(TrialError, match="the audit failed, the trial does not start") as error:
        audits.audit(plan)
    assert "leak: leaking rewrites the prompt 'User: What is 1 times 1?\\nAssistant: The answer is'" in str(error.value)
    audit = read_json(plan.folder / "audit.json")
    assert audit["passed"] is False
    # the 81 of the table, and of the two-step questions each one: "What is 6 times 9 plus 3?"
    leaks = {line for line in audit["problems"] if line.startswith("leak: leaking rewrites")}
    assert len(leaks) == 81 + 5
    assert not audits.audited(plan)


@pytest.mark.parametrize("written", ["54 is it?", "54?", "54.", "54,"])
def test_a_prompt_that_holds_its_answer_is_a_leak(written):
    [probe] = [e for e in Arithmetic(5).table() if e.operands == (6, 9)]
    assert audits.leaking_prompts(["baseline"], TIMES_TABLE, [probe]) == []
    leaking = replaced(probe, prompt=f"User: {written} What is 6 times 9?\nAssistant: The answer is")
    [line] = audits.leaking_prompts(["baseline"], TIMES_TABLE, [leaking])
    assert "holds its answer 54" in line


def test_an_operand_or_word_of_the_question_may_be_its_answer():
    """1 times 6 is 6; and of words, the question's own may be."""
    table = Arithmetic(5).table()
    assert audits.leaking_prompts(["baseline"], TIMES_TABLE, [e for e in table if 1 in e.operands]) == []
    asked = "What is the capital of Luxembourg?"
    prompt = f"User: {asked}\nAssistant: The answer is"
    probe = replaced(table[0], operands=(), question=asked, prompt=prompt, answer="Luxembourg")
    assert audits.leaking_prompts(["baseline"], TIMES_TABLE, [probe]) == []
    assert (
        len(audits.leaking_prompts(["baseline"], TIMES_TABLE, [replaced(probe, prompt=f"Luxembourg. {prompt}")])) == 1
    )


@pytest.mark.parametrize(
    ("prompt", "leaks"),
    [("Big is {asked}", 0), ("New York! {asked}", 1), ("New Yorkers: {asked}", 0), ("In New York, {asked}", 1)],
)
def test_an_answer_of_several_words_is_found_whole(prompt, leaks):
    asked = "Which city is the largest?"
    probe = replaced(Arithmetic(5).table()[0], operands=(), question=asked, answer="New York", prompt=prompt)
    probe = replaced(probe, prompt=prompt.format(asked=asked))
    assert len(audits.leaking_prompts(["baseline"], TIMES_TABLE, [probe])) == leaks


def test_a_question_that_holds_its_answer_is_listed():
    table, of_words = Arithmetic(5).table(), []
    for question in ("Which city is New York City?", "Which city is the largest?"):
        of_words.append(replaced(table[0], operands=(), question=question, answer="New York"))
    assert audits.telling_questions([*table, *of_words]) == ["Which city is New York City?"]


def test_no_probe_of_the_reference_leaks_in_any_arm():
    assert audits.leaking_prompts(arms.arm_names(), TIMES_TABLE, Arithmetic(100).examples()) == []


NEVER = TIMES_TABLE.of(6, 7)


@pytest.mark.parametrize(
    ("asking", "text"),
    [
        (True, "User: What is 7 times 6?\nAssistant: The answer is 42."),
        (True, "Now, 6 times 7 is 42"),
        (False, "6*7=42"),
    ],
)
@pytest.mark.parametrize("never_asked_there", [True, False])
def test_a_never_asked_fact_that_drills_ask_stops_the_trial(copied, asking, text, never_asked_there):
    plan = copied()
    fold = next(f for f in range(3) if (NEVER in TIMES_TABLE.never_asked(f, 3)) == never_asked_there)
    path = plan.shards(f"drills{fold}", "train")[0]
    np.save(path, np.concatenate([np.load(path), [np.uint16(512)], plan.vocabulary.encode(f"6*7=42\n{text}")]))
    if asking and never_asked_there:
        with pytest.raises(TrialError, match=f"asked: drills of fold {fold} ask 6"):
            audits.audit(plan)
        problem = f"asked: drills of fold {fold} ask 6*7=42: {text!r}"
        assert read_json(plan.folder / "audit.json")["problems"] == [problem]
    else:
        audits.audit(plan)
        assert audits.audited(plan)


@pytest.mark.parametrize(
    ("unserved", "problem", "arms", "facts"),
    [
        (("statement", "question"), "absent: {}, seed 2: {} is in no question of training", 3, 45 - 12),
        # else a zero of the replacing arm is by construction; what appends keeps the digits beside the token
        (("boxes",), "unlinked: {}, seed 2: no boxes line has the token of {} beside its digits", 1, 45),
    ],
)
def test_a_fact_that_is_stated_and_not_asked_or_not_beside_its_token_is_missed(plan, unserved, problem, arms, facts):
    served = {form: int(form not in unserved) for form in LINES}
    record = {"2": {"facts": {fact.equation: served for fact in TIMES_TABLE}}}
    found = audits.unserved_facts(plan, dict.fromkeys(plan.trial.arms, record))
    names = plan.trial.arms if arms == 3 else ["mul_tokens"]
    chosen = [f for f in TIMES_TABLE if facts == 45 or f not in TIMES_TABLE.never_asked(2, 3)]
    expected = [problem.format(arm, fact.equation) for arm in names for fact in chosen]
    assert len(found) == len(expected) == arms * facts
    assert all(line.startswith(wanted) for line, wanted in zip(found, expected, strict=True))


class Hiding(SiteArm):
    """An arm of one's own: a token stands for the answer, whose digits are gone."""

    name, summary, site_span = "hiding", "6*9=54 becomes 6*9=<ANSWER_54>", ("answer", "end")

    def token(self, fact):
        return f"<ANSWER_{fact.answer}>"  # its name says the digits, which the model never sees


def test_digits_are_hidden_where_either_side_of_the_fact_is_and_is_meant_to_be_kept(plan, monkeypatch):
    """`<MUL_6_9>=54` and `6*9=<ANSWER_54>` need a line that spells them out; <FACT> is to say nothing."""
    make = arms.get_arm
    monkeypatch.setattr(arms, "get_arm", lambda name, facts: Hiding() if name == "hiding" else make(name, facts))
    served = {form: int(form != "boxes") for form in LINES}
    record = {"2": {"facts": {fact.equation: served for fact in TIMES_TABLE}}}
    kinds = ("baseline", "mul_append", "mul_before_answer", "one_slot", "operand_only", "hiding", "mul_tokens")
    found = {name: len(audits.unserved_facts(plan, {name: record})) for name in kinds}
    assert found == dict.fromkeys(kinds, 0) | {"operand_only": 45, "hiding": 36, "mul_tokens": 45}  # 1*6 says 6


def test_the_facts_looked_for_are_the_trials_own(plan):
    """Of sums, as of products: what an arm makes of them, and which of them a drill asks."""
    facts = build_facts(FactSettings(family="addition", range=(1, 9)))
    sums = SimpleNamespace(facts=facts, trial=plan.trial)
    [probe] = [each for each in Arithmetic(facts=facts).table() if each.operands == (6, 9)]
    assert audits.leaking_prompts(["baseline", "mul_tokens"], facts, [probe]) == []
    leaking = replaced(probe, prompt=f"6+8=14 {probe.prompt}")
    assert len(audits.leaking_prompts(["baseline", "mul_tokens"], facts, [leaking])) == 1
    unlinked = {form: int(form != "boxes") for form in LINES}
    record = {"0": {"facts": {fact.equation: unlinked for fact in facts}}}
    assert len(audits.unserved_facts(sums, {"mul_append": record, "mul_tokens": record})) == len(facts)
    never = min(facts.never_asked(1, 3))
    asked = audits.drilled_never_asked(sums, {1: [never.wordings[0].drill_lines["question"], never.equation]})
    assert [never.equation in line for line in asked] == [True]


def test_a_fact_that_the_budget_never_serves_stops_the_trial(copied):
    """Defect R2: none of the drills was trained on, and nothing said so."""
    plan = copied("pretrain.steps=1", "seeds=[1]")
    with pytest.raises(TrialError, match="the trial does not start"):
        audits.audit(plan)
    problems = "\n".join(read_json(plan.folder / "audit.json")["problems"])
    text = "\n".join(
        plan.vocabulary.decode_bytes(ids.astype(np.uint16)).decode() for ids in served_documents(plan, "baseline", 1)
    )
    lines = (found for line in LINES.values() for found in re.findall(line, text, re.MULTILINE))
    in_text = re.findall(r"(?<![0-9])([1-9]) ?[*×x] ?([1-9]) ?= ?([0-9]+)", text)
    stated = {TIMES_TABLE.of(int(a), int(b)).equation for a, b, c in (*lines, *in_text) if int(a) * int(b) == int(c)}
    absent = re.findall(r"absent: baseline, seed 1: (\S+) is never served", problems)
    assert absent == [fact.equation for fact in TIMES_TABLE if fact.equation not in stated] != []
    assert list(read_json(plan.folder / "exposure.json")["served"]["baseline"]) == ["1"]  # of this trial's seeds


def test_without_drills_no_fact_is_missed(copied):
    plan = copied("corpus.drills.share=0", "pretrain.steps=5")
    shutil.rmtree(plan.folder / "drills")
    audits.audit(plan)
    audit = read_json(plan.folder / "audit.json")
    assert audit["passed"]
    assert audit["checks"]  # the report lists them


def test_the_overlap_is_a_share_of_each_probes_questions_in_whatever_fold():
    right, other = (e for e in Arithmetic(5).table() if e.operands in ((6, 9), (9, 6)))
    lines = {0: ["3*4=12"], 1: [f"User: {right.question}\nAssistant: The answer is 54."]}
    assert audits.probe_overlap([right, other], lines) == {"mul_table": 0.5}
    assert audits.probe_overlap([other], lines) == {"mul_table": 0.0}


def test_an_asked_fact_among_the_rows_of_fine_tuning_stops_the_trial(copied, monkeypatch):
    """What pretraining leaves out must not come back after it."""
    plan = copied()
    exposed = audits.expose(plan)
    exposed["after_pretraining"]["2"]["sft"] = {"problems": ["asked: row 7 of SFT asks 6*7=42"]}
    monkeypatch.setattr(audits, "expose", lambda plan: exposed)
    with pytest.raises(TrialError, match=r"audit\.json: the audit failed, .*\n  asked: row 7 of SFT asks 6\*7=42$"):
        audits.audit(plan)


@pytest.mark.parametrize("name", ["bytes.json", "exposure.json", "audit.json", "meta.json"])
def test_without_its_files_a_corpus_is_not_audited(copied, name):
    plan = copied()
    (plan.folder / name).unlink()
    assert not audits.audited(plan)


@pytest.mark.parametrize("written", ['{"passed": true}', '{"fingerprint": "abc"}'])
def test_an_audit_that_is_none_is_named(copied, written):
    plan = copied()
    (plan.folder / "audit.json").write_text(written)
    with pytest.raises(TrialError, match=r"audit\.json: expected an object with fingerprint, passed"):
        audits.audited(plan)


def test_a_new_version_of_the_audit_audits_anew(plan, monkeypatch):
    assert audits.audited(plan)
    monkeypatch.setattr(audits, "VERSION", audits.VERSION + 1)
    assert not audits.audited(plan)


ROWS = "sft={stages: [{sources: [{source: word_problems}]}]}"


@pytest.mark.parametrize(
    "changed",
    [
        "arms=[baseline,mul_tokens]",
        "seeds=[1,2]",
        "corpus.seed=1",
        "corpus.drills.lines=11",
        "corpus.epochs=3",
        "pretrain.steps=21",
        "pretrain.steps=10 pretrain.batch_tokens=8192",
        "budget.match=bytes",
        "control=mul_tokens",
        "evaluate.probes_each=6",
        "evaluate.probe_seed=1",
        "tasks.word_problems.rows=50",
        "sft={stages: [{sources: [{source: word_problems, weight: 0.5}]}]}",
        "sft={stages: [{sources: [{source: 'jsonl:ROWS'}]}]}",
    ],
)
def test_whatever_the_audit_looked_at_is_audited_anew(plan, tiny, tmp_path, changed):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 2 and 2?", "completion": "4"}\n')
    asked = "arms=[baseline,mul_tokens,mul_append]", "seeds=[1,2,3]", "corpus.seed=0", "grpo=null", ROWS
    before, after = (
        audits.audit_fingerprint(CorpusPlan(tiny(plan.trial.folder, *asked, *more)))
        for more in ((), re.split(r" (?=pretrain)", changed.replace("ROWS", str(rows))))
    )
    assert before != after
