"""Exposure is what a slow walk over the served documents counts, and a budget of bytes gives each arm the text that the
control reads.
"""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tokentrial.corpus.exposure import expose
from tokentrial.corpus.patching import FORMS
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import document_text, open_shard
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.facts import drills
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json

ARMS = "arms=[baseline,mul_tokens,mul_append]"
CELLS = [("baseline", 1), ("mul_tokens", 2), ("mul_append", 3)]


@pytest.fixture(scope="module")
def exposed(plan):
    """What was written when the corpus was audited."""
    return read_json(plan.folder / "exposure.json")["served"]


@pytest.fixture(scope="module")
def replanned(plan, tiny):
    """`replanned(*overrides)`: the same corpus under another budget."""
    return lambda *overrides: CorpusPlan(tiny(plan.trial.folder, ARMS, "seeds=[1,2,3]", *overrides))


@pytest.fixture(scope="module")
def matched(replanned):
    """The plan with the budget in bytes, and what it serves."""
    plan = replanned("budget.match=bytes")
    return plan, expose(plan)["served"]


@pytest.fixture(scope="module")
def originals(plan):
    """`originals(served document)`: the text from which an arm's document was made."""
    shards = {}

    def text(served):
        path = plan.set_folder(served.set) / f"{served.set}_train_{served.shard:06d}.npy"
        if path not in shards:
            shards[path] = open_shard(path, plan.vocabulary.eos)
        return document_text(shards[path].document(served.number), plan.vocabulary)

    return text


def walk(plan, arm, seed, tokens):
    """The documents of which a loader holds at least a token, when it has held so many."""
    held = 0
    for served in Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed).documents():
        yield served
        held += len(served.ids)
        if held >= tokens:
            return


def counted(plan, originals, arm, seed, steps):
    """A record of `exposure.json`, document by document. The last target is a token beyond the steps' inputs."""
    documents, tokens, totals = Counter(), Counter(), Counter()
    facts = {fact.equation: dict.fromkeys(FORMS, 0) for fact in TIMES_TABLE}
    for served in walk(plan, arm, seed, steps * plan.trial.pretrain.batch_tokens + 1):
        text, kind = originals(served), "text" if served.set == "text" else "drills"
        documents[kind] += 1
        tokens[kind] += len(served.ids)
        totals["baseline_tokens"] += 1 + len(plan.vocabulary.encode(text))
        totals["bytes"] += len(text.encode())
        totals["fact_tokens"] += sum(token >= plan.vocabulary.base for token in served.ids.tolist())
        stated = (
            [(s.fact, "text") for s in TIMES_TABLE.sites(text)] if kind == "text" else drills.parse(TIMES_TABLE, text)
        )
        for fact, form in stated:
            facts[fact.equation][form] += 1
    return {
        "steps": steps,
        "tokens": steps * plan.trial.pretrain.batch_tokens,
        "documents": dict(documents),
        "drill_share": tokens["drills"] / tokens.total(),
        **totals,
        "questions": sum(forms["question"] + forms["statement"] for forms in facts.values()),
        "facts": facts,
    }


@pytest.mark.parametrize(("arm", "seed"), CELLS)
def test_exposure_is_what_a_slow_walk_over_the_served_documents_counts(plan, exposed, originals, arm, seed):
    assert {arm: [*seeds] for arm, seeds in exposed.items()} == {name: ["1", "2", "3"] for name in exposed}
    record = exposed[arm][str(seed)]
    assert record == counted(plan, originals, arm, seed, plan.trial.pretrain.steps)
    assert record["bytes"] > 50_000
    assert sum(sum(forms.values()) for forms in record["facts"].values()) > 500
    assert sum(forms["text"] for forms in record["facts"].values()) > 5
    assert (record["fact_tokens"] > 0) == (arm != "baseline")


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("mul_tokens", ["corpus.epochs=3", "pretrain.steps=60"]),  # text and drills are read again
        ("mul_tokens", ["budget.match=bytes"]),
        ("mul_append", ["budget.match=bytes"]),
    ],
)
def test_in_another_budget_too_exposure_is_what_is_served(replanned, originals, arm, settings):
    plan = replanned(*settings, "seeds=[2]")
    record = expose(plan)["served"][arm]["2"]
    assert record == counted(plan, originals, arm, 2, record["steps"])


def test_text_that_runs_out_names_the_arm_and_what_to_do(plan, replanned):
    """The same documents last for fewer tokens in an arm of shorter text: for some steps only its run out."""
    lasts = {}
    for arm in ("baseline", "mul_tokens"):
        lengths = []
        with pytest.raises(TrialError):
            lengths.extend(len(served.ids) for served in walk(plan, arm, 2, 10**9))
        lasts[arm] = sum(lengths)
    assert lasts["mul_tokens"] + 64 < lasts["baseline"]
    for steps, runs_out in (
        ((lasts["mul_tokens"] - 1) // 64, None),
        ((lasts["mul_tokens"] - 1) // 64 + 1, "mul_tokens"),
        ((lasts["baseline"] - 1) // 64 + 1, "baseline"),
    ):
        short = replanned(
            ARMS.replace(",mul_append", ""),
            "seeds=[2]",
            f"pretrain.steps={steps}",
            "pretrain.batch_tokens=64",
            "pretrain.micro_batch=1",
        )
        if runs_out is None:
            assert expose(short)["served"]["mul_tokens"]["2"]["steps"] == steps
            continue
        message = rf"ran out after {lasts[runs_out]:,} tokens, and {runs_out} reads {steps * 64:,}; .*corpus\.epochs"
        with pytest.raises(TrialError, match=message):
            expose(short)


# a budget of bytes


def bytes_read(plan, originals, arm, seed, steps):
    """Source bytes that so many steps take in: of the last document the share of its bytes that its tokens are."""
    budget = steps * plan.trial.pretrain.batch_tokens
    sizes, ends = [0], [0]
    for served in walk(plan, arm, seed, budget):
        sizes.append(len(originals(served).encode()))
        ends.append(ends[-1] + len(served.ids))
    return float(np.interp(budget, ends, np.cumsum(sizes)))


@pytest.mark.parametrize("seed", [1, 3])
def test_matched_bytes_leave_the_control_its_steps_and_shorten_the_arm_of_shorter_text(plan, exposed, matched, seed):
    _, served = matched
    steps = {arm: seeds[str(seed)]["steps"] for arm, seeds in served.items()}
    assert steps["baseline"] == plan.trial.pretrain.steps == 20
    assert steps["mul_tokens"] < 20 < steps["mul_append"]
    assert served["baseline"] == exposed["baseline"]
    for arm, seeds in served.items():
        assert seeds[str(seed)]["tokens"] == steps[arm] * plan.trial.pretrain.batch_tokens


@pytest.mark.parametrize(("batch", "seed"), [(4096, 1), (256, 2)])
def test_with_matched_bytes_every_arm_reads_what_the_control_reads_to_within_a_step(replanned, originals, seed, batch):
    smaller = f"pretrain.batch_tokens={batch}", f"pretrain.steps={20 * 4096 // batch}", "pretrain.micro_batch=4"
    plan = replanned("budget.match=bytes", *smaller, f"seeds=[{seed}]")
    served = expose(plan)["served"]
    control = bytes_read(plan, originals, "baseline", seed, 20 * 4096 // batch)
    for arm in ("mul_tokens", "mul_append"):
        steps = served[arm][str(seed)]["steps"]
        before, after = (bytes_read(plan, originals, arm, seed, n) for n in (steps - 1, steps))
        assert before < control <= after


def test_matched_bytes_go_by_the_control_that_the_trial_names(replanned):
    smaller = "pretrain.batch_tokens=256", "pretrain.steps=320", "pretrain.micro_batch=4"
    steps = {}
    for control in ("baseline", "mul_append"):
        served = expose(replanned("budget.match=bytes", *smaller, "seeds=[1]", f"control={control}"))["served"]
        steps[control] = {arm: seeds["1"]["steps"] for arm, seeds in served.items()}
        assert steps[control][control] == 320
    assert all(steps["mul_append"][arm] < steps["baseline"][arm] for arm in steps["baseline"])


# what SFT asks


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("User: What is {} times {}?\nAssistant:", " {}"),
        ("Tell me something.", " {} times {} equals {}."),  # the drills' words
        ("{} times {}", " is {}"),
        ("User: Hello\nAssistant:", " Hi.\nUser: What is {} times {}?\nAssistant: {}"),
    ],
)
def test_a_row_of_fine_tuning_that_asks_a_never_asked_fact_in_prompt_or_completion_is_a_problem(
    replanned, tmp_path, prompt, completion
):
    fact = min(TIMES_TABLE.never_asked(1, 3))
    words = [*map(str, fact.operands), fact.answer]
    in_prompt = prompt.count("{}")
    row = {"prompt": prompt.format(*words), "completion": completion.format(*words[in_prompt:])}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    plan = replanned(f"sft={{stages: [{{sources: [{{source: 'jsonl:{tmp_path}/rows.jsonl'}}]}}]}}", "grpo=null")
    of_seeds = expose(plan)["after_pretraining"]
    assert {seed: len(stages["sft"]["problems"]) for seed, stages in of_seeds.items()} == {"1": 1, "2": 0, "3": 0}
    assert all(stages["sft"]["asked"] == {fact.equation: 1} for stages in of_seeds.values())


def test_solutions_of_gsm8k_that_ask_a_fact_are_counted_and_stay(replanned, tmp_path):
    fact = min(TIMES_TABLE.never_asked(1, 3))
    solution = "She has {0} because {1} times {2} equals <<{1}*{2}={0}>>{0}.\n#### {0}"
    row = {"question": "How many does she have?", "answer": solution.format(fact.answer, *fact.operands)}
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    sources = "sft={stages: [{sources: [{source: gsm8k}]}]}", f"tasks.gsm8k=path:{tmp_path}", "grpo=null"
    record = expose(replanned(*sources))["after_pretraining"]["1"]["sft"]
    assert (record["asked"], record["problems"]) == ({fact.equation: 1}, [])


# what pretraining makes of it


@pytest.mark.slow
def test_a_cell_is_pretrained_for_the_steps_that_exposure_gives_it(tiny, tmp_path, inline):
    mix = "{equation: 0, times_sign: 0, letter_x: 0, boxes: 0.5, statement: 0, question: 0.5}"
    smaller = "pretrain.batch_tokens=2048", "pretrain.micro_batch=32", "pretrain.probes=0", f"corpus.drills.mix={mix}"
    trial = tiny(tmp_path / "run", "seeds=[1]", "budget.match=bytes", *smaller)
    run(trial, ("corpus", "pretrain"))
    served = read_json(trial.folder / "corpus" / "exposure.json")["served"]
    steps = {}
    for arm in trial.arms:
        folder = Cell(arm, 1).folder(trial, "pretrain")
        results = read_json(folder / "results.json")
        steps[arm] = results["total_steps"]
        record = served[arm]["1"]
        assert (results["total_steps"], results["total_tokens"]) == (record["steps"], record["tokens"])
        assert results["documents"] == sum(record["documents"].values())
        assert results["baseline_tokens"] == record["baseline_tokens"]
        assert (folder / f"model_{record['steps'] - 1:05d}.safetensors").exists()
    assert steps["mul_tokens"] < steps["baseline"] == 20


def test_pretraining_is_done_again_where_the_budget_is_matched_otherwise(plan, replanned):
    cell = Cell("mul_tokens", 1)
    variants = [
        replanned(),
        replanned("budget.match=bytes"),
        replanned("budget.match=bytes", "control=mul_append"),
    ]
    prints = [cell.fingerprints(variant) for variant in variants]
    assert prints[0] == cell.fingerprints(plan)
    for one, other in pairwise(prints):
        assert one["pretrain"] != other["pretrain"]
        assert one["export"] != other["export"]
    # with matched tokens it does not matter which arm is the control
    assert cell.fingerprints(replanned("control=mul_append")) == prints[0]
