"""Exposure: facts x forms as they are served within the budget, by arm and seed, from the surveys of the written shards
in the loader's order; and the steps that a budget of bytes gives each arm.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.patching import FORMS, Ints, Survey
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT, read_patch
from tokentrial.corpus.stream import MORE_TEXT, document_order, drills_name
from tokentrial.errors import TrialError
from tokentrial.facts.facts import ASKING_FORMS
from tokentrial.tasks.gsm8k import GSM8K
from tokentrial.tasks.training_examples import stage_examples, stage_sources

_CHUNK = 100_000  # documents walked at a time


class TrainDocuments(NamedTuple):
    """All train documents in rows: those of the text, then those of each fold's drills, in the order of their shards.

    `shards` are the rows of each shard of a set. `statements` are by shard: row `rows[j]` states fact x form
    `codes[j]`. `tokens` and `fact_tokens` are by arm, `base_tokens` before any patch, `bytes` of the original text.
    """

    shards: dict[str, list[slice]]
    tokens: dict[str, Ints]  # (documents,) each
    fact_tokens: dict[str, Ints]  # (documents,) each
    base_tokens: Ints  # (documents,)
    bytes: Ints  # (documents,)
    statements: list[tuple[NDArray[np.int32], NDArray[np.int32]]]  # (statements of the shard,) each


def expose(plan: CorpusPlan) -> dict[str, Any]:
    """What `exposure.json` holds. Raises TrialError where the text does not last for the budget of some arm."""
    documents = _train_documents(plan)
    seeds = plan.trial.seeds
    by_seed = {str(seed): _expose_seed(plan, seed, documents) for seed in seeds}
    return {
        "forms": list(FORMS),
        "served": {arm: {seed: records[arm] for seed, records in by_seed.items()} for arm in plan.trial.arms},
        "after_pretraining": {
            str(seed): {stage: _after_pretraining(plan, stage, seed) for stage in ("sft", "grpo")} for seed in seeds
        },
    }


def _train_documents(plan: CorpusPlan) -> TrainDocuments:
    """The train documents, from the surveys and patches of their shards."""
    paths = [(name, path) for name in plan.sets for path in plan.shards(name, "train")]
    rows: list[slice] = []  # of each shard
    lengths, sizes, statements = list[Ints](), list[Ints](), []
    for _, path in paths:
        survey, start = Survey.read(plan.survey_path(path)), rows[-1].stop if rows else 0
        rows.append(slice(start, start + len(survey)))
        lengths.append(survey.base_lengths)
        sizes.append(survey.bytes)
        # a drill of a dozen lines makes as many statements: half the bytes are saved of most of what is held
        statements.append(((start + survey.documents).astype(np.int32), survey.codes.astype(np.int32)))
    base_tokens = np.concatenate(lengths)
    tokens = {arm: base_tokens.copy() for arm in plan.trial.arms}
    fact_tokens = {arm: np.zeros_like(base_tokens) for arm in plan.trial.arms}
    for arm, ((_, path), of_shard) in product(plan.trial.arms, zip(paths, rows, strict=True)):
        if (patch := read_patch(plan.patch_path(arm, path))) is not None:
            changed = of_shard.start + patch.documents
            tokens[arm][changed] = patch.lengths
            fact_tokens[arm][changed] = patch.fact_tokens(plan.vocabulary.base)
    return TrainDocuments(
        {
            name: [of_shard for (set_name, _), of_shard in zip(paths, rows, strict=True) if set_name == name]
            for name in plan.sets
        },
        tokens,
        fact_tokens,
        base_tokens,
        np.concatenate(sizes),
        statements,
    )


def _expose_seed(plan: CorpusPlan, seed: int, documents: TrainDocuments) -> dict[str, dict[str, Any]]:
    """What each arm reads of one seed's order within its budget."""
    trial, batch = plan.trial, plan.trial.pretrain.batch_tokens
    share, epochs, folds = trial.corpus.drills.share, trial.corpus.epochs, trial.corpus.drills.holdout_folds
    text, drills = documents.shards[TEXT], documents.shards.get(drills_name(seed, folds), [])
    order = document_order(seed, share, epochs, text, drills, documents.base_tokens.__getitem__)
    rows = ((text if of_text else drills)[shard].start + number for of_text, shard, number, _ in order)
    walk = np.empty(0, np.int64)  # rows in the order of the seed, as far as any arm reads
    steps = dict.fromkeys(trial.arms, trial.pretrain.steps)
    records: dict[str, dict[str, Any]] = {}
    # the control comes first: with matched bytes, how far it reads says how far the others do
    for arm in sorted(trial.arms, key=lambda name: name != trial.control):
        walk = _extended(walk, rows, documents, arm, steps[arm] * batch + 1)
        tokens = documents.tokens[arm][walk]
        if trial.budget.match == "bytes" and arm == trial.control:
            read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch)) + 1
            unread = (tokens[:read].sum() - steps[arm] * batch) / tokens[read - 1]  # share of the last document
            for other in trial.arms:
                lengths = documents.tokens[other][walk[:read]]
                steps[other] = int(np.ceil((lengths.sum() - unread * lengths[-1]) / batch))
        read = int(np.searchsorted(np.cumsum(tokens), steps[arm] * batch + 1)) + 1
        records[arm] = {"steps": steps[arm], "tokens": steps[arm] * batch}
        records[arm] |= _record(plan, documents, arm, walk[:read])
    return records


def _extended(walk: Ints, rows: Iterator[int], documents: TrainDocuments, arm: str, budget: int) -> Ints:
    """The walk and as many of the rows as bring the arm's tokens to the budget."""
    while (tokens := documents.tokens[arm][walk].sum()) < budget:
        chunk = np.fromiter(islice(rows, _CHUNK), np.int64)
        if not len(chunk):
            raise TrialError(
                f"corpus: the text ran out after {tokens:,} tokens, and {arm} reads {budget - 1:,}; {MORE_TEXT}"
            )
        walk = np.append(walk, chunk)
    return walk


def _record(plan: CorpusPlan, documents: TrainDocuments, arm: str, walk: Ints) -> dict[str, Any]:
    """What the rows of a walk hold in all."""
    times = np.bincount(walk, minlength=len(documents.bytes))  # (rows,): how often each is read
    texts = documents.shards[TEXT][-1].stop
    kinds = {"text": slice(texts), "drills": slice(texts, None)}
    tokens = {kind: int(times[rows] @ documents.tokens[arm][rows]) for kind, rows in kinds.items()}
    counts = np.zeros(len(plan.facts) * len(FORMS))
    for rows, codes in documents.statements:
        counts += np.bincount(codes, times[rows], len(counts))
    table = counts.reshape(len(plan.facts), len(FORMS)).astype(int)  # (facts, forms)
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


def _after_pretraining(plan: CorpusPlan, stage: str, seed: int) -> dict[str, Any] | None:
    """What SFT or GRPO trains on, the same in every arm: rows an epoch, facts stated in completions and facts asked in
    what is read, for SFT prompt and completion. None where the trial has no such stage."""
    trial = plan.trial
    if not stage_sources(trial, stage):
        return None
    never_asked = plan.facts.never_asked(seed, trial.corpus.drills.holdout_folds)
    stated: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    problems = []
    examples = stage_examples(trial, stage, seed, never_asked)
    for example in examples:
        of_prompt = plan.facts.asked_in(example.prompt) | ({example.fact} if example.fact else set())
        facts = of_prompt
        if stage == "sft":  # GRPO sees no gold completion
            stated.update(site.fact.equation for site in plan.facts.sites(example.completion))
            # together: a question may begin in one and end in the other
            facts = of_prompt | plan.facts.asked_in(example.prompt + example.completion)
        asked.update(fact.equation for fact in facts)
        # a few of GSM8K's solutions say a product in the drills' words: they are counted, and stay as published
        refused = of_prompt if example.task == GSM8K.name else facts
        problems += [
            f"asked: {stage}, seed {seed}, asks {fact.equation}: {example.prompt!r}; reword this row or leave it out"
            for fact in refused & never_asked
        ]
    return {"rows": len(examples), "stated": stated, "asked": asked, "problems": problems}
