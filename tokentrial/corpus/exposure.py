"""Exposure: facts x forms as they are served within the budget, by arm and seed, from the surveys of the written shards
in the loader's order; and the steps that a budget of bytes gives each arm.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms.facts import ASKING, Facts
from tokentrial.corpus.look import FORMS, Counts, Survey
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, read_patch, shard_paths
from tokentrial.corpus.stream import MORE_TEXT, drills_name, in_order, mixed
from tokentrial.errors import TrialError
from tokentrial.tasks.rows import sources, trained_rows

_CHUNK = 100_000  # documents walked at a time


@dataclass(frozen=True)
class Documents:
    """All train documents of one set, in the order of their shards: document `first[s] + i` is the i-th of shard s.

    `documents[j]` states fact x form `codes[j]`; `tokens` and `fact_tokens` are by arm, `base_tokens` before any patch,
    `bytes` of the original text.
    """

    shards: list[Survey]
    first: Counts
    tokens: dict[str, Counts]
    fact_tokens: dict[str, Counts]
    base_tokens: Counts
    bytes: Counts
    documents: Counts
    codes: Counts


class Walk(NamedTuple):
    """Documents in the order that a seed reads them: whether of the text, and their number in their set."""

    text: NDArray[np.bool_]
    number: Counts


def expose(plan: CorpusPlan) -> dict[str, Any]:
    """What `exposure.json` holds. Raises TrialError where the text does not last for the budget of some arm."""
    sets = {name: _documents(plan, name) for name in (TEXT, *(f"drills{fold}" for fold in plan.folds))}
    served: dict[str, dict[str, Any]] = {arm: {} for arm in plan.trial.arms}
    for seed in plan.trial.seeds:
        here = (sets[TEXT], sets[drills_name(seed, plan.trial.corpus.drills.never_asked_folds)])
        for arm, record in _seed(plan, seed, *here).items():
            served[arm][str(seed)] = record
    by_split = {
        f"drills{fold}": {split: _drill_count(plan, fold, split) for split in ("train", "val")} for fold in plan.folds
    }
    after = {str(seed): {stage: _after(plan, stage, seed) for stage in ("sft", "grpo")} for seed in plan.trial.seeds}
    return {"forms": list(FORMS), "served": served, "drills": by_split, "after_pretraining": after}


def _seed(plan: CorpusPlan, seed: int, text: Documents, of_drills: Documents) -> dict[str, dict[str, Any]]:
    """What each arm reads of one seed's order within its budget."""
    trial = plan.trial
    share, batch = trial.corpus.drills.share, trial.pretrain.batch_tokens
    order = mixed(
        share,
        in_order(seed, trial.corpus.epochs, len(text.shards), text.shards.__getitem__),
        in_order(seed, None, len(of_drills.shards), of_drills.shards.__getitem__),
    )
    places = ((chosen, (text if chosen else of_drills).first[shard] + number) for chosen, _, shard, number, _ in order)
    walk = Walk(np.empty(0, bool), np.empty(0, np.int64))
    steps = dict.fromkeys(trial.arms, trial.pretrain.steps)
    records: dict[str, dict[str, Any]] = {}
    # the control comes first: with matched bytes, how far it reads says how far the others do
    for arm in sorted(trial.arms, key=lambda name: name != trial.control):
        tokens, walk = _until(walk, places, arm, text, of_drills, steps[arm] * batch + 1)
        if trial.budget.match == "bytes" and arm == trial.control:
            read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch)) + 1
            unread = (tokens[:read].sum() - steps[arm] * batch) / tokens[read - 1]
            for other in trial.arms:
                whole = _tokens(Walk(walk.text[:read], walk.number[:read]), other, text, of_drills)
                steps[other] = int(np.ceil((whole.sum() - unread * whole[-1]) / batch))
        read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch + 1)) + 1
        part = Walk(walk.text[:read], walk.number[:read])
        records[arm] = {"steps": steps[arm], "tokens": steps[arm] * batch}
        records[arm] |= _record(plan.facts, part, arm, text, of_drills)
    return records


def _until(
    walk: Walk, places: Iterator[tuple[bool, int]], arm: str, text: Documents, of_drills: Documents, budget: int
) -> tuple[Counts, Walk]:
    """Walk on until the arm's tokens reach the budget; returns the tokens of each document walked."""
    while True:
        tokens = _tokens(walk, arm, text, of_drills)
        if tokens.sum() >= budget:
            return tokens, walk
        chunk = list(islice(places, _CHUNK))
        if not chunk:
            raise TrialError(
                f"corpus: the text ran out after {tokens.sum():,} tokens, and {arm} reads {budget - 1:,}; {MORE_TEXT}"
            )
        walk = Walk(
            np.append(walk.text, np.array([chosen for chosen, _ in chunk], bool)),
            np.append(walk.number, np.array([number for _, number in chunk], np.int64)),
        )


def _tokens(walk: Walk, arm: str, text: Documents, of_drills: Documents) -> Counts:
    tokens = np.empty(len(walk.text), np.int64)
    for chosen, documents in ((walk.text, text), (~walk.text, of_drills)):
        tokens[chosen] = documents.tokens[arm][walk.number[chosen]]
    return tokens


def _record(facts: Facts, walk: Walk, arm: str, text: Documents, of_drills: Documents) -> dict[str, Any]:
    counts = np.zeros(len(facts) * len(FORMS))
    totals: Counter[str] = Counter()
    by_kind: dict[str, dict[str, int]] = {"documents": {}, "tokens": {}}
    for kind, chosen, documents in (("text", walk.text, text), ("drills", ~walk.text, of_drills)):
        times = np.bincount(walk.number[chosen], minlength=len(documents.bytes))
        counts += np.bincount(documents.codes, times[documents.documents], len(counts))
        by_kind["documents"][kind] = int(times.sum())
        by_kind["tokens"][kind] = int(times @ documents.tokens[arm])
        totals["fact_tokens"] += int(times @ documents.fact_tokens[arm])
        totals["bytes"] += int(times @ documents.bytes)
        totals["baseline_tokens"] += int(times @ documents.base_tokens)
    table = counts.reshape(len(facts), len(FORMS)).astype(int)
    asked = [FORMS.index(form) for form in FORMS if form in ASKING]
    return {
        "documents": by_kind["documents"],
        "drill_share": by_kind["tokens"]["drills"] / sum(by_kind["tokens"].values()),
        **totals,
        "questions": int(table[:, asked].sum()),
        "facts": {
            fact.equation: dict(zip(FORMS, row.tolist(), strict=True)) for fact, row in zip(facts, table, strict=True)
        },
    }


def _documents(plan: CorpusPlan, name: str) -> Documents:
    """The train documents of a set, from the surveys and patches of its shards."""
    arms = plan.trial.arms
    folder = plan.folder if name == TEXT else plan.folder / "drills"
    shards: list[Survey] = []
    first = [0]
    tokens: dict[str, list[Counts]] = {arm: [] for arm in arms}
    fact_tokens: dict[str, list[Counts]] = {arm: [] for arm in arms}
    documents: list[Counts] = []
    for path in shard_paths(folder, name, "train"):
        survey = Survey.read(plan.survey_folder / f"{path.stem}.npz")
        for arm in arms:
            patch = read_patch(plan.patch_folder(arm) / f"{path.stem}.npz")
            lengths, facts = survey.base_lengths.copy(), np.zeros(len(survey), np.int64)
            if patch is not None:
                lengths[patch.documents] = patch.lengths
                facts[patch.documents] = patch.fact_tokens(plan.vocabulary.base)
            tokens[arm].append(lengths)
            fact_tokens[arm].append(facts)
        documents.append(first[-1] + survey.documents)
        shards.append(survey)
        first.append(first[-1] + len(survey))
    return Documents(
        shards,
        np.array(first, np.int64),
        {arm: _joined(parts) for arm, parts in tokens.items()},
        {arm: _joined(parts) for arm, parts in fact_tokens.items()},
        _joined([shard.base_lengths for shard in shards]),
        _joined([shard.bytes for shard in shards]),
        _joined(documents),
        _joined([shard.codes for shard in shards]),
    )


def _joined(parts: list[Counts]) -> Counts:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _drill_count(plan: CorpusPlan, fold: int, split: str) -> dict[str, int]:
    paths = shard_paths(plan.folder / "drills", f"drills{fold}", split)
    surveys = [Survey.read(plan.survey_folder / f"{path.stem}.npz") for path in paths]
    return {"documents": sum(map(len, surveys)), "tokens": int(sum(each.base_lengths.sum() for each in surveys))}


def _after(plan: CorpusPlan, stage: str, seed: int) -> dict[str, Any] | None:
    """What SFT or GRPO trains on, the same in every arm: rows an epoch, facts stated in completions and facts asked in
    prompts. None where the trial has no such stage."""
    trial = plan.trial
    never = plan.facts.never_asked(seed, trial.corpus.drills.never_asked_folds)
    if not sources(trial, stage):
        return None
    stated: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    problems = []
    examples = trained_rows(trial, stage, seed, never)
    for example in examples:
        if stage == "sft":  # GRPO sees no gold completion
            stated.update(site.fact.equation for site in plan.facts.sites(example.completion))
        here = plan.facts.asked_in(example.prompt) | ({example.fact} if example.fact else set())
        asked.update(fact.equation for fact in here)
        problems += [f"asked: {stage}, seed {seed}, asks {fact.equation}: {example.prompt!r}" for fact in here & never]
    return {"rows": len(examples), "stated": stated, "asked": asked, "problems": problems}
