"""Exposure: facts x forms as they are served within the budget, by arm and seed, from the surveys of the written shards
in the loader's order; and the steps that a budget of bytes gives each arm.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from tokentrial.arms.facts import ASKING_FORMS
from tokentrial.corpus.look import FORMS, Counts, Survey
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, read_patch, shard_paths
from tokentrial.corpus.stream import MORE_TEXT, drills_name, order
from tokentrial.errors import TrialError
from tokentrial.tasks.training_examples import stage_examples, stage_sources

_CHUNK = 100_000  # documents walked at a time


class Documents(NamedTuple):
    """All train documents in rows: those of the text, then those of each fold's drills, in the order of their shards.

    Shard s of a set begins at row `first[set][s]`. Row `rows[j]` states fact x form `codes[j]`. `tokens` and
    `fact_tokens` are by arm, `base_tokens` before any patch, `bytes` of the original text.
    """

    surveys: dict[str, list[Survey]]
    first: dict[str, list[int]]
    texts: int  # rows of the text
    tokens: dict[str, Counts]
    fact_tokens: dict[str, Counts]
    base_tokens: Counts
    bytes: Counts
    rows: Counts
    codes: Counts


def expose(plan: CorpusPlan) -> dict[str, Any]:
    """What `exposure.json` holds. Raises TrialError where the text does not last for the budget of some arm."""
    documents = _documents(plan)
    served: dict[str, dict[str, Any]] = {arm: {} for arm in plan.trial.arms}
    for seed in plan.trial.seeds:
        for arm, record in _seed(plan, seed, documents).items():
            served[arm][str(seed)] = record
    by_split = {
        f"drills{fold}": {split: _drill_count(plan, fold, split) for split in ("train", "val")} for fold in plan.folds
    }
    after = {str(seed): {stage: _after(plan, stage, seed) for stage in ("sft", "grpo")} for seed in plan.trial.seeds}
    return {"forms": list(FORMS), "served": served, "drills": by_split, "after_pretraining": after}


def _documents(plan: CorpusPlan) -> Documents:
    """The train documents, from the surveys and patches of their shards."""
    arms, rows, texts = plan.trial.arms, 0, 0
    surveys: dict[str, list[Survey]] = {}
    first: dict[str, list[int]] = {}
    tokens: dict[str, list[Counts]] = {arm: [] for arm in arms}
    fact_tokens: dict[str, list[Counts]] = {arm: [] for arm in arms}
    stating: list[Counts] = []
    for name in (TEXT, *(f"drills{fold}" for fold in plan.folds)):
        surveys[name], first[name] = [], []
        for path in shard_paths(plan.folder if name == TEXT else plan.folder / "drills", name, "train"):
            survey = Survey.read(plan.survey_folder / f"{path.stem}.npz")
            for arm in arms:
                patch = read_patch(plan.patch_folder(arm) / f"{path.stem}.npz")
                lengths, facts = survey.base_lengths.copy(), np.zeros(len(survey), np.int64)
                if patch is not None:
                    lengths[patch.documents] = patch.lengths
                    facts[patch.documents] = patch.fact_tokens(plan.vocabulary.base)
                tokens[arm].append(lengths)
                fact_tokens[arm].append(facts)
            surveys[name].append(survey)
            first[name].append(rows)
            stating.append(rows + survey.documents)
            rows += len(survey)
        texts = texts or rows
    every = [survey for shards in surveys.values() for survey in shards]
    return Documents(
        surveys,
        first,
        texts,
        {arm: np.concatenate(parts) for arm, parts in tokens.items()},
        {arm: np.concatenate(parts) for arm, parts in fact_tokens.items()},
        np.concatenate([survey.base_lengths for survey in every]),
        np.concatenate([survey.bytes for survey in every]),
        np.concatenate(stating),
        np.concatenate([survey.codes for survey in every]),
    )


def _seed(plan: CorpusPlan, seed: int, documents: Documents) -> dict[str, dict[str, Any]]:
    """What each arm reads of one seed's order within its budget."""
    trial, batch = plan.trial, plan.trial.pretrain.batch_tokens
    names = {True: TEXT, False: drills_name(seed, trial.corpus.drills.never_asked_folds)}
    text, drills = ((len(of), of.__getitem__) for of in (documents.surveys[name] for name in names.values()))
    served = order(seed, trial.corpus.drills.share, trial.corpus.epochs, text, drills)
    first = {of_text: documents.first[name] for of_text, name in names.items()}
    ahead = (first[of_text][shard] + number for of_text, shard, number, _ in served)
    walk = np.empty(0, np.int64)
    steps = dict.fromkeys(trial.arms, trial.pretrain.steps)
    records: dict[str, dict[str, Any]] = {}
    # the control comes first: with matched bytes, how far it reads says how far the others do
    for arm in sorted(trial.arms, key=lambda name: name != trial.control):
        walk = _until(walk, ahead, documents, arm, steps[arm] * batch + 1)
        tokens = documents.tokens[arm][walk]
        if trial.budget.match == "bytes" and arm == trial.control:
            read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch)) + 1
            unread = (tokens[:read].sum() - steps[arm] * batch) / tokens[read - 1]
            for other in trial.arms:
                whole = documents.tokens[other][walk[:read]]
                steps[other] = int(np.ceil((whole.sum() - unread * whole[-1]) / batch))
        read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch + 1)) + 1
        records[arm] = {"steps": steps[arm], "tokens": steps[arm] * batch}
        records[arm] |= _record(plan, documents, arm, walk[:read])
    return records


def _until(walk: Counts, ahead: Iterator[int], documents: Documents, arm: str, budget: int) -> Counts:
    """Walk on until the arm's tokens reach the budget; returns the rows walked."""
    while (tokens := documents.tokens[arm][walk].sum()) < budget:
        chunk = np.fromiter(islice(ahead, _CHUNK), np.int64)
        if not len(chunk):
            raise TrialError(
                f"corpus: the text ran out after {tokens:,} tokens, and {arm} reads {budget - 1:,}; {MORE_TEXT}"
            )
        walk = np.append(walk, chunk)
    return walk


def _record(plan: CorpusPlan, documents: Documents, arm: str, walk: Counts) -> dict[str, Any]:
    """What the rows of a walk hold in all."""
    times = np.bincount(walk, minlength=len(documents.bytes))
    kinds = {"text": slice(documents.texts), "drills": slice(documents.texts, None)}
    tokens = {kind: int(times[rows] @ documents.tokens[arm][rows]) for kind, rows in kinds.items()}
    counts = np.bincount(documents.codes, times[documents.rows], len(plan.facts) * len(FORMS))
    table = counts.reshape(len(plan.facts), len(FORMS)).astype(int)
    asked = [FORMS.index(form) for form in FORMS if form in ASKING_FORMS]
    return {
        "documents": {kind: int(times[rows].sum()) for kind, rows in kinds.items()},
        "drill_share": tokens["drills"] / sum(tokens.values()),
        "fact_tokens": int(times @ documents.fact_tokens[arm]),
        "bytes": int(times @ documents.bytes),
        "baseline_tokens": int(times @ documents.base_tokens),
        "questions": int(table[:, asked].sum()),
        "facts": {
            fact.equation: dict(zip(FORMS, row.tolist(), strict=True))
            for fact, row in zip(plan.facts, table, strict=True)
        },
    }


def _drill_count(plan: CorpusPlan, fold: int, split: str) -> dict[str, int]:
    paths = shard_paths(plan.folder / "drills", f"drills{fold}", split)
    surveys = [Survey.read(plan.survey_folder / f"{path.stem}.npz") for path in paths]
    return {"documents": sum(map(len, surveys)), "tokens": int(sum(each.base_lengths.sum() for each in surveys))}


def _after(plan: CorpusPlan, stage: str, seed: int) -> dict[str, Any] | None:
    """What SFT or GRPO trains on, the same in every arm: rows an epoch, facts stated in completions and facts asked in
    prompts. None where the trial has no such stage."""
    trial = plan.trial
    never = plan.facts.never_asked(seed, trial.corpus.drills.never_asked_folds)
    if not stage_sources(trial, stage):
        return None
    stated: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    problems = []
    examples = stage_examples(trial, stage, seed, never)
    for example in examples:
        if stage == "sft":  # GRPO sees no gold completion
            stated.update(site.fact.equation for site in plan.facts.sites(example.completion))
        here = plan.facts.asked_in(example.prompt) | ({example.fact} if example.fact else set())
        asked.update(fact.equation for fact in here)
        problems += [f"asked: {stage}, seed {seed}, asks {fact.equation}: {example.prompt!r}" for fact in here & never]
    return {"rows": len(examples), "stated": stated, "asked": asked, "problems": problems}
