"""The audit: whether the trial may start.

`exposure.json` counts what every arm and seed is really served; `audit.json` lists every check and what failed it; a
trial refuses to start on a failed one.
"""

import re
from collections.abc import Iterable
from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.corpus.exposure import expose
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import decode_documents, open_shard
from tokentrial.errors import TrialError
from tokentrial.facts import drills
from tokentrial.facts.facts import ASKING_FORMS, Facts
from tokentrial.store.files import fingerprint, read_json, sealed, write_json
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.contents import source_hashes
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import stage_sources

VERSION = 3  # 2 did not read the completions of SFT


def audit_fingerprint(plan: CorpusPlan) -> str:
    """Fingerprint of exposure and audit: the corpus of every arm, the seeds, the budget and the probes."""
    trial = plan.trial
    return fingerprint(
        "audit",
        VERSION,
        patches={arm: plan.patch_fingerprint(arm) for arm in trial.arms},
        seeds=trial.seeds,
        tokens=[trial.pretrain.steps, trial.pretrain.batch_tokens],
        budget=[trial.budget.match, trial.control],
        epochs=trial.corpus.epochs,
        evaluate=[trial.evaluate.probes_each, trial.evaluate.probe_seed],
        rows=[source.weight for part in (trial.sft.stages if trial.sft else ()) for source in part.sources],
        word_problems=trial.tasks.word_problems.model_dump(),
        content=source_hashes(trial, [source for stage in ("sft", "grpo") for source in stage_sources(trial, stage)]),
    )


def audited(plan: CorpusPlan) -> bool:
    """Whether accounts, exposure and audit of this very trial are there and passed. Raises TrialError where one of them
    is damaged."""
    paths = [plan.folder / name for name in ("bytes.json", "meta.json", "exposure.json", "audit.json")]
    if not all(path.exists() for path in paths):
        return False
    *_, audit = [read_json(path, *(("fingerprint", "passed") if path.stem == "audit" else ())) for path in paths]
    return bool(audit["fingerprint"] == audit_fingerprint(plan) and audit["passed"])


def audit(plan: CorpusPlan) -> None:
    """Write `exposure.json` and `audit.json`; raise TrialError with the failed lines."""
    wanted = audit_fingerprint(plan)
    exposure = expose(plan)
    write_json(plan.folder / "exposure.json", sealed(exposure))
    probes = Arithmetic(plan.trial.evaluate.probes_each, plan.trial.evaluate.probe_seed, plan.facts).examples()
    drilled = _statements(plan)
    after_pretraining = [record for stages in exposure["after_pretraining"].values() for record in stages.values()]
    problems = [
        *leaking_prompts(plan.trial.arms, plan.facts, probes),
        *(unserved_facts(plan, exposure["served"]) if plan.trial.corpus.drills.share else ()),
        *drilled_never_asked(plan, drilled),
        *(problem for record in after_pretraining if record for problem in record["problems"]),
    ]
    write_json(
        plan.folder / "audit.json",
        sealed(
            {
                "fingerprint": wanted,
                "passed": not problems,
                "problems": problems,
                "checks": [
                    "no arm rewrites a probe's prompt, no prompt holds its answer",
                    "every fact that should be trained is served, in every arm and seed",
                    "every fact token stands beside its digits somewhere",
                    "no never-asked fact is asked in drills, text, SFT rows (GSM8K's solutions apart) or GRPO prompts",
                ],
                "questions_that_hold_their_answer": telling_questions(probes),
                "overlap_of_probes_and_drills": probe_overlap(probes, drilled),
            }
        ),
    )
    if problems:
        shown = "\n  ".join(problems[:10])
        raise TrialError(f"{plan.folder / 'audit.json'}: the audit failed, the trial does not start:\n  {shown}")


def leaking_prompts(arm_names: Iterable[str], facts: Facts, probes: Iterable[Example]) -> list[str]:
    """Prompts that carry their answer: rewritten by an arm, or with the answer beside the operands (R3). A question's
    own words may be its answer, as of `What is the capital of Singapore?`: see `telling_questions`."""
    problems = []
    treatments = [arms.get_arm(name, facts) for name in arm_names]
    for probe in probes:
        for treatment in treatments:
            if any(piece.token for piece in treatment.segments(probe.prompt)):
                problems.append(f"leak: {treatment.name} rewrites the prompt {probe.prompt!r}")
        own = " ".join(map(str, probe.operands)) or probe.question  # 1 times 6 is 6: an operand may be the answer
        if _times_in(probe.prompt, probe.answer) > _times_in(own, probe.answer):
            problems.append(f"leak: the prompt {probe.prompt!r} holds its answer {probe.answer}")
    return problems


def telling_questions(probes: Iterable[Example]) -> list[str]:
    """Questions of words that hold their answer, which a model needs not know to say it."""
    return [probe.question for probe in probes if not probe.operands and _times_in(probe.question, probe.answer)]


def _times_in(text: str, answer: str) -> int:
    """How often an answer of one or several words stands in a text, as no part of a longer word or number."""
    return len(re.findall(rf"(?<![\w.$-]){re.escape(answer)}(?![\w%]|[.,]\d)", text))


def unserved_facts(plan: CorpusPlan, served: dict[str, dict[str, Any]]) -> list[str]:
    """Facts that should be trained and are not served, by arm and seed (R2)."""
    problems = []
    asked_in_drills = any(plan.trial.corpus.drills.mix.model_dump()[form] for form in ASKING_FORMS)
    for arm, seeds in served.items():
        treatment = arms.get_arm(arm, plan.facts)
        for seed, record in seeds.items():
            never_asked = plan.facts.never_asked(int(seed), plan.trial.corpus.drills.holdout_folds)
            for fact in plan.facts:
                forms = record["facts"][fact.equation]
                if not any(forms.values()):
                    problems.append(f"absent: {arm}, seed {seed}: {fact.equation} is never served")
                if asked_in_drills and fact not in never_asked and not any(forms[form] for form in ASKING_FORMS):
                    problems.append(
                        f"absent: {arm}, seed {seed}: {fact.equation} is in no question of training, "
                        "though no fold holds it out; raise pretrain.steps or corpus.drills.share"
                    )
                # in plain text alone: digits in a token's name are none to the model
                plain = "".join(s.text for s in treatment.segments(fact.equation) if s.token is None)
                left = fact.wordings[0].spellings[0]
                hidden = treatment.keeps_content and not (left in plain and fact.answer in plain)
                if hidden and not forms["boxes"]:
                    problems.append(
                        f"unlinked: {arm}, seed {seed}: no boxes line has the token of {fact.equation} "
                        "beside its digits, so the arm cannot learn it; raise corpus.drills.mix.boxes"
                    )
    return problems


def drilled_never_asked(plan: CorpusPlan, drilled: dict[int, list[str]]) -> list[str]:
    """Never-asked facts that the drills of their own fold ask after all."""
    problems = []
    for fold, statements in drilled.items():
        never_asked = plan.facts.never_asked(fold, plan.trial.corpus.drills.holdout_folds)
        for text in statements:
            asked = {fact for fact, form in drills.parse(plan.facts, text) if form in ASKING_FORMS}
            for fact in (plan.facts.asked_in(text) | asked) & never_asked:
                problems.append(f"asked: drills of fold {fold} ask {fact.equation}: {text!r}")
    return problems


def probe_overlap(probes: Iterable[Example], drilled: dict[int, list[str]]) -> dict[str, float]:
    """Share of each probe's items whose question stands word for word in a drill line of some fold."""
    lines = {line.removeprefix("User: ") for texts in drilled.values() for text in texts for line in text.split("\n")}
    hits: dict[str, list[bool]] = {}
    for probe in probes:
        hits.setdefault(probe.task, []).append(probe.question in lines)
    return {task: sum(of_task) / len(of_task) for task, of_task in hits.items()}


def _statements(plan: CorpusPlan) -> dict[int, list[str]]:
    """Every distinct statement of each fold's drills, in the order of its train shards."""
    by_fold: dict[int, list[str]] = {}
    for name, fold in plan.folds.items():
        shards = (open_shard(path, plan.vocabulary.eos) for path in plan.shards(name, "train"))
        texts = (text for shard in shards for _, text in decode_documents(shard, plan.vocabulary, None))
        by_fold[fold] = list(dict.fromkeys(line for text in texts for line in drills.statements(text)))
    return by_fold
