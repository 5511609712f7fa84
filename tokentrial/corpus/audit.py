"""Exposure and audit: what every arm and seed is really served, and whether the trial may start.

`exposure.json` counts facts x forms within the budget, read back from the written shards in the loader's order.
`audit.json` lists every check and what failed it; a trial refuses to start on a failed one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.arms.facts import FACTS, Fact, never_asked, sites
from tokentrial.corpus import drills
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import documents_with, open_shard, shard_paths, text_of
from tokentrial.corpus.stream import TEXT, Stream
from tokentrial.errors import TrialError
from tokentrial.store import fingerprint, read_json, write_json
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.tasks.rows import contents, sources, trained_rows
from tokentrial.tasks.task import Example

VERSION = 1
FORMS = (*drills.FORMS, "text")  # "text": sites in the source's own documents
_NUMBER = {fact: number for number, fact in enumerate(FACTS)}


@dataclass(frozen=True)
class Statements:
    """What the documents of one shard state: entry i says that document `documents[i]` holds fact x form `codes[i]`."""

    documents: NDArray[np.int64]
    codes: NDArray[np.int64]
    bytes: NDArray[np.int64]  # original bytes of every document of the shard


def audit_fingerprint(plan: CorpusPlan) -> str:
    """Fingerprint of exposure and audit: the corpus of every arm, the seeds, the budget and the probes."""
    trial = plan.trial
    return fingerprint(
        "audit",
        VERSION,
        patches={arm: plan.patch(arm) for arm in trial.arms},
        seeds=trial.seeds,
        tokens=trial.pretrain.tokens,
        epochs=trial.corpus.epochs,
        evaluate=[trial.evaluate.probes_each, trial.evaluate.probe_seed],
        rows=[source.weight for part in (trial.sft.stages if trial.sft else ()) for source in part.sources],
        word_problems=trial.tasks.word_problems.model_dump(),
        content=contents(trial, [source for stage in ("sft", "grpo") for source in sources(trial, stage)]),
    )


def audited(plan: CorpusPlan) -> bool:
    """Whether exposure and audit of this very trial are there and passed."""
    paths = [plan.folder / name for name in ("exposure.json", "audit.json", "meta.json")]
    if not all(path.exists() for path in paths):
        return False
    audit = read_json(plan.folder / "audit.json")
    return bool(audit["fingerprint"] == audit_fingerprint(plan) and audit["passed"])


def audit(plan: CorpusPlan) -> None:
    """Write `exposure.json` and `audit.json`; raise TrialError with the failed lines."""
    wanted = audit_fingerprint(plan)
    exposure = expose(plan)
    write_json(plan.folder / "exposure.json", {"fingerprint": wanted, **exposure})
    probes = Arithmetic(plan.trial.evaluate.probes_each, plan.trial.evaluate.probe_seed).examples()
    lines = _distinct_lines(plan)
    problems = [
        *leaks(plan.trial.arms, probes),
        *(missing(plan, exposure["served"]) if plan.trial.corpus.drills.share else ()),
        *asked_anyway(plan, lines),
        *(
            problem
            for stages in exposure["after_pretraining"].values()
            for record in stages.values()
            for problem in (record or {}).get("problems", ())
        ),
    ]
    write_json(
        plan.folder / "audit.json",
        {
            "fingerprint": wanted,
            "passed": not problems,
            "problems": problems,
            "checks": [
                "no arm rewrites a probe's prompt, no prompt holds its answer",
                "every fact that should be trained is served, in every arm and seed",
                "every fact token stands beside its digits somewhere",
                "no never-asked fact is asked in drills, text, SFT rows or GRPO prompts",
            ],
            "drills_made": bool(plan.trial.corpus.drills.share),
            "overlap_of_probes_and_drills": overlap(probes, lines),
        },
    )
    if problems:
        shown = "\n  ".join(problems[:10])
        raise TrialError(f"{plan.folder / 'audit.json'}: the audit failed, the trial does not start:\n  {shown}")


def leaks(arm_names: Iterable[str], probes: Iterable[Example]) -> list[str]:
    """Prompts that carry their answer: rewritten by an arm, or with the answer beside the operands (R3)."""
    problems = []
    treatments = [arms.find(name) for name in arm_names]
    for probe in probes:
        for treatment in treatments:
            if any(piece.token for piece in treatment.pieces(probe.prompt)):
                problems.append(f"leak: {treatment.name} rewrites the prompt {probe.prompt!r}")
        numbers = Counter(word.strip("?.,") for word in probe.prompt.split())
        if numbers[probe.answer] > probe.operands.count(int(probe.answer)):
            problems.append(f"leak: the prompt {probe.prompt!r} holds its answer {probe.answer}")
    return problems


def missing(plan: CorpusPlan, served: dict[str, dict[str, Any]]) -> list[str]:
    """Facts that should be trained and are not served, by arm and seed (R2)."""
    problems = []
    mix = plan.trial.corpus.drills.mix.model_dump()
    for arm, seeds in served.items():
        treatment = arms.find(arm)
        for seed, record in seeds.items():
            unasked = never_asked(int(seed), plan.trial.corpus.drills.never_asked_folds)
            for fact in FACTS:
                forms = record["facts"][fact.equation]
                if not any(forms.values()):
                    problems.append(f"absent: {arm}, seed {seed}: {fact.equation} is never served")
                asking = any(mix[form] for form in drills.ASKING) and fact not in unasked
                if asking and not any(forms[form] for form in drills.ASKING):
                    problems.append(f"absent: {arm}, seed {seed}: {fact.equation} is never asked and should be")
                replaced = treatment.keeps_content and fact.equation not in treatment.rewrite(fact.equation)
                if replaced and not forms["boxes"]:
                    problems.append(
                        f"unlinked: {arm}, seed {seed}: the token of {fact.equation} never stands beside its "
                        "digits in a boxes line; a zero would be by construction"
                    )
    return problems


def asked_anyway(plan: CorpusPlan, lines: dict[int, Counter[str]]) -> list[str]:
    """Never-asked facts that are asked after all."""
    folds = plan.trial.corpus.drills.never_asked_folds
    problems = []
    for fold, counted in lines.items():
        unasked = never_asked(fold, folds)
        for text in counted:
            for fact in drills.asked_in(text) | {f for f, form in drills.read(text) if form in drills.ASKING}:
                if fact in unasked:
                    problems.append(f"asked: drills of fold {fold} ask {fact.equation}: {text!r}")
    return problems


def overlap(probes: Iterable[Example], lines: dict[int, Counter[str]]) -> dict[str, float]:
    """Share of each probe's items whose question stands word for word in a drill line of some fold."""
    drilled = {
        line.removeprefix("User: ") for counted in lines.values() for text in counted for line in text.split("\n")
    }
    hits: dict[str, list[bool]] = {}
    for probe in probes:
        hits.setdefault(probe.task, []).append(probe.question in drilled)
    return {task: sum(found) / len(found) for task, found in hits.items()}


def _distinct_lines(plan: CorpusPlan) -> dict[int, Counter[str]]:
    """Every distinct drill statement of each fold's train shards, with its count, from the shards."""
    lines: dict[int, Counter[str]] = {}
    for fold in plan.folds:
        counted: Counter[str] = Counter()
        for path in shard_paths(plan.folder / "drills", f"drills{fold}", "train"):
            shard = open_shard(path, plan.vocabulary.eos)
            for index in range(len(shard)):
                text = text_of(shard.document(index), plan.vocabulary)
                counted.update(text.replace("\nAssistant:", "\0Assistant:").split("\n"))
        lines[fold] = Counter({line.replace("\0", "\n"): count for line, count in counted.items()})
    return lines


def expose(plan: CorpusPlan) -> dict[str, Any]:
    """Facts x forms as served within the budget, by arm and seed, and drill counts by split."""
    statements = {name: _statements(plan, name) for name in (TEXT, *(f"drills{fold}" for fold in plan.folds))}
    served = {
        arm: {str(seed): _served(plan, arm, seed, statements) for seed in plan.trial.seeds} for arm in plan.trial.arms
    }
    by_split = {
        f"drills{fold}": {split: _drill_count(plan, fold, split) for split in ("train", "val")} for fold in plan.folds
    }
    after = {str(seed): {stage: _after(plan, stage, seed) for stage in ("sft", "grpo")} for seed in plan.trial.seeds}
    return {"forms": list(FORMS), "served": served, "drills": by_split, "after_pretraining": after}


def _after(plan: CorpusPlan, stage: str, seed: int) -> dict[str, Any] | None:
    """What SFT or GRPO trains on, the same in every arm: rows an epoch, facts stated in completions and facts asked in
    prompts. None where the trial has no such stage."""
    trial = plan.trial
    never = never_asked(seed, trial.corpus.drills.never_asked_folds)
    if not sources(trial, stage):
        return None
    stated: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    problems = []
    examples = trained_rows(trial, stage, seed, never)
    for example in examples:
        if stage == "sft":  # GRPO sees no gold completion
            stated.update(site.fact.equation for site in sites(example.completion))
        facts = drills.asked_in(example.prompt) | ({example.fact} if example.fact else set())
        asked.update(fact.equation for fact in facts)
        problems += [f"asked: {stage}, seed {seed}, asks {fact.equation}: {example.prompt!r}" for fact in facts & never]
    return {"rows": len(examples), "stated": stated, "asked": asked, "problems": problems}


def _served(plan: CorpusPlan, arm: str, seed: int, statements: dict[str, list[Statements]]) -> dict[str, Any]:
    stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed)
    budget = plan.trial.pretrain.tokens + 1  # the last target
    tokens = fact_tokens = original = 0
    read: Counter[str] = Counter()
    times: dict[tuple[str, int], Counter[int]] = {}
    for document in stream.documents():
        kind = "text" if document.set == TEXT else "drills"
        read[kind] += 1
        times.setdefault((document.set, document.shard), Counter())[document.number] += 1
        fact_tokens += int(np.count_nonzero(document.ids >= plan.vocabulary.base))
        tokens += len(document.ids)
        original += document.base_length
        read[f"{kind}_tokens"] += len(document.ids)
        if tokens >= budget:
            break
    counts = np.zeros(len(FACTS) * len(FORMS))
    original_bytes = 0
    for (name, shard), served in times.items():
        stated = statements[name][shard]
        weight = np.zeros(len(stated.bytes))
        weight[list(served)] = list(served.values())
        counts += np.bincount(stated.codes, weight[stated.documents], len(counts))
        original_bytes += int(weight @ stated.bytes)
    table = counts.reshape(len(FACTS), len(FORMS)).astype(int)
    asked = [FORMS.index(form) for form in drills.FORMS if form in drills.ASKING]
    return {
        "tokens": plan.trial.pretrain.tokens,
        "documents": {"text": read["text"], "drills": read["drills"]},
        "drill_share": read["drills_tokens"] / tokens,
        "fact_tokens": fact_tokens,
        "baseline_tokens": original,
        "bytes": original_bytes,
        "questions": int(table[:, asked].sum()),
        "facts": {
            fact.equation: dict(zip(FORMS, row.tolist(), strict=True)) for fact, row in zip(FACTS, table, strict=True)
        },
    }


def _statements(plan: CorpusPlan, name: str) -> list[Statements]:
    """What each train shard of a set states, from its bytes. Of text, only documents with an "=" are looked at."""
    folder = plan.folder if name == TEXT else plan.folder / "drills"
    byte_sizes = np.zeros(plan.vocabulary.size, np.int64)
    byte_sizes[list(plan.vocabulary.ranks.values())] = [len(token) for token in plan.vocabulary.ranks]
    found = []
    for path in shard_paths(folder, name, "train"):
        shard = open_shard(path, plan.vocabulary.eos)
        documents: list[int] = []
        codes: list[int] = []
        if name == TEXT:
            for index, text in documents_with(shard, plan.vocabulary, b"="):
                for site in sites(text):
                    documents.append(index)
                    codes.append(_code(site.fact, "text"))
        else:
            for index in range(len(shard)):
                for fact, form in drills.read(text_of(shard.document(index), plan.vocabulary)):
                    documents.append(index)
                    codes.append(_code(fact, form))
        sizes = np.add.reduceat(byte_sizes[shard.ids], shard.starts)
        found.append(Statements(np.array(documents, np.int64), np.array(codes, np.int64), sizes))
    return found


def _code(fact: Fact, form: str) -> int:
    return _NUMBER[fact] * len(FORMS) + FORMS.index(form)


def _drill_count(plan: CorpusPlan, fold: int, split: str) -> dict[str, int]:
    shards = [
        open_shard(path, plan.vocabulary.eos) for path in shard_paths(plan.folder / "drills", f"drills{fold}", split)
    ]
    return {"documents": sum(map(len, shards)), "tokens": sum(len(shard.ids) for shard in shards)}
