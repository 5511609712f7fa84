"""The corpus stage: text shards encoded once, drill shards for each fold, a survey of every shard, a patch for each
arm, `meta.json`.

corpus/text_{train|val}_000000.npy       the text, as the baseline reads it
corpus/drills/drills<fold>_{train|val}_000000.npy
corpus/surveys/<shard>.npz               what its documents weigh and state
corpus/patches/<arm>/<shard>.npz         only what the arm changes
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from tokentrial.arms import arm as arms
from tokentrial.corpus.patching import MAX_SHOWN, survey_and_patch
from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches, text_ratio
from tokentrial.corpus.shards import TEXT, ShardWriter, shard_paths
from tokentrial.corpus.sources import Source
from tokentrial.corpus.stream import drills_wanted, text_wanted
from tokentrial.corpus.text import MAX_LISTED, SPLITS, TextTasks, train_tokens
from tokentrial.errors import TrialError
from tokentrial.executors.worker import report
from tokentrial.facts import drills
from tokentrial.facts.families import build_facts
from tokentrial.store.disk import need_disk, need_within, translate_os_errors
from tokentrial.store.files import fingerprint, link, read_json, write_json
from tokentrial.store.folders import is_done, read_manifest, step
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.trial import Trial

VERSION = 5  # 4 called the shards of the text fineweb_*


class CorpusPlan:
    """The folders and fingerprints of a trial's corpus; making one lists the source's files and reads none."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.folder = trial.folder / "corpus"
        self.facts = build_facts(trial.facts)
        self.vocabulary = Vocabulary(trial.tokenizer.merges, len(self.facts), trial.tokenizer.path)
        self.source = Source(trial.corpus.source, trial.corpus.text_column, trial.folder / "sources.json")
        self.target_tokens = text_wanted(trial)  # train tokens of text; None: all there are
        self.folds = range(max(1, trial.corpus.drills.holdout_folds))
        self.survey_folder = self.folder / "surveys"

    @cached_property
    def text_fingerprint(self) -> str:
        """Fingerprint of the text shards."""
        settings = self.trial.experiment("facts", "corpus", "tokenizer")
        for name in ("source", "drills", "epochs", "tokens"):
            settings["corpus"].pop(name)
        asks = self.trial.corpus.drills.holdout_folds > 0
        return fingerprint(
            "text", VERSION, **settings, source=self.source.hash(), drop_asking=asks, tokens=self.target_tokens
        )

    @cached_property
    def drills_fingerprint(self) -> str:
        """Fingerprint of the drill shards."""
        corpus = self.trial.corpus
        return fingerprint(
            "drills",
            VERSION,
            **self.trial.experiment("facts", "tokenizer"),
            drills=corpus.drills.model_dump(),
            seed=corpus.seed,
            shard_tokens=corpus.shard_tokens,
            tokens=self.trial.pretrain.tokens,
        )

    def patch_fingerprint(self, arm: str) -> str:
        """Fingerprint of an arm's patches."""
        return fingerprint("patch", VERSION, arm=arm, version=arms.get_arm(arm).version, of=self._shards)

    @property
    def survey_fingerprint(self) -> str:
        """Fingerprint of the surveys of all shards."""
        return fingerprint("survey", VERSION, of=self._shards)

    @property
    def _shards(self) -> list[str]:
        return [self.text_fingerprint, self.drills_fingerprint]

    def patch_folder(self, arm: str) -> Path:
        return self.folder / "patches" / arm

    def shards(self) -> list[Path]:
        """All shards of text and drills, train and val."""
        return sorted([*self.folder.glob("*.npy"), *(self.folder / "drills").glob("*.npy")])

    @property
    def steps(self) -> list[tuple[Path, str]]:
        """Folder and fingerprint of each step; the first holds the others."""
        return [
            (self.folder, self.text_fingerprint),
            (self.folder / "drills", self.drills_fingerprint),
            (self.survey_folder, self.survey_fingerprint),
            *((self.patch_folder(arm), self.patch_fingerprint(arm)) for arm in self.trial.arms),
        ]

    @property
    def done(self) -> bool:
        """Whether the corpus of every arm is there."""
        return all(is_done(folder, wanted) for folder, wanted in self.steps)


def reuse(plan: CorpusPlan, other: CorpusPlan) -> None:
    """Take over what another trial has made of the same text, drills and patches: the same files under other names."""
    for to, wanted in plan.steps:
        of = other.folder / to.relative_to(plan.folder)
        if is_done(of, wanted) and not is_done(to, wanted):
            with step(to, wanted, shared_with=other.trial.folder.name) as partial:
                for name in read_manifest(of)["files"]:
                    link(of / name, partial / name)


def prepare_text(plan: CorpusPlan, workers: int = 1) -> None:
    """Split by document hash, cut into segments, encode once, write shards; in tasks, side by side."""
    with translate_os_errors(plan.folder):
        if not is_done(plan.folder, plan.text_fingerprint):
            _prepare_text(plan, workers)


def _prepare_text(plan: CorpusPlan, workers: int) -> None:
    from tokentrial.corpus.engine import run_tasks

    settings, address, begun = plan.trial.corpus, plan.trial.ray.address, time.monotonic()
    if settings.executor == "ray" and address:
        settings = settings.model_copy(update={"cluster": {"address": address} | settings.cluster})
    folder = plan.folder.with_name(f"{plan.folder.name}.tasks") / plan.text_fingerprint
    inputs = plan.source.input_splits(settings.task_bytes, in_one=settings.documents is not None)
    tasks = TextTasks(folder, settings, plan.vocabulary, plan.facts, inputs, plan.target_tokens)
    _check_disk(plan, inputs[0], workers)
    run_tasks(tasks, workers, lambda share, text: report("text", share, text))
    done = tasks.done()
    needed = tasks.needed(done)
    records = [done[rank] for rank in needed]
    short = _check_records(plan, tasks, records)
    of_task = [{split: shard_paths(folder / f"{rank:05d}", TEXT, split) for split in SPLITS} for rank in needed]
    # verification finds a document of the source by it
    shards_of_task = [{split: len(paths) for split, paths in shards.items()} for shards in of_task]
    with step(plan.folder, plan.text_fingerprint, begun, source=settings.source) as corpus:
        for split in SPLITS:
            for index, path in enumerate(path for shards in of_task for path in shards[split]):
                link(path, corpus / f"{TEXT}_{split}_{index:06d}.npy")
        record = _summed(records) | {"tasks": len(needed), "short": short}
        write_json(corpus / "text.json", record | {"shards_of_task": shards_of_task})
    shutil.rmtree(folder.parent)


def _check_disk(plan: CorpusPlan, first: InputSplit, workers: int) -> None:
    """Estimate tokens, disk and time from the source's first batch, tell them, and refuse what the disk cannot hold."""
    corpus = plan.trial.corpus
    batch = next(read_batches(first, corpus.text_column, True, corpus.max_document_bytes), [])
    texts = [text for text in batch if not isinstance(text, BadDocument)]
    size = sum(map(len, texts))
    if not size:
        return
    encode_documents(plan.vocabulary, texts[:1])  # makes its tables, which is not to be timed
    begun = time.perf_counter()
    ids, _ = encode_documents(plan.vocabulary, texts)
    seconds = time.perf_counter() - begun
    tokens = plan.source.bytes * text_ratio(first, corpus.text_column) * len(ids) / size
    if plan.target_tokens is not None:
        tokens = min(tokens, plan.target_tokens / (1 - corpus.val_share))
    hours = tokens / len(ids) * seconds * 1.5 / workers / 3600
    need_disk(plan.folder.parent, int(2 * tokens), "the corpus", plan.trial.disk_reserve_gb)
    need_within(plan.folder.parent, int(2 * tokens), "the corpus", plan.trial.disk_limit_gb)
    report("text", 0.0, f"about {tokens / 1e6:,.0f}M tokens, {2 * tokens / 1e9:.1f} GB, {hours:.1f} h")


def _check_records(plan: CorpusPlan, tasks: TextTasks, records: Sequence[dict[str, Any]]) -> bool:
    """Whether the source ended before it gave the tokens wanted. Raises TrialError where that is not allowed, a task is
    missing, or a split is empty."""
    settings, wanted, tokens = tasks.settings, tasks.target_tokens, train_tokens(records)
    documents_read = sum(record["documents_read"] for record in records)
    short = wanted is not None and tokens < wanted
    if len(records) < len(tasks.inputs) and (short or wanted is None):
        raise TrialError(
            f"{tasks.folder}: task {len(records)} of {len(tasks.inputs)} left no record; run the same command again"
        )
    if short and not settings.allow_short:
        raise TrialError(
            f"corpus.source: {settings.source} ended after {tokens:,} train tokens of {wanted:,} "
            f"({documents_read:,} documents of {len(plan.source.files)} files); "
            "give more text, a smaller corpus.tokens, or accept it with --allow-short (corpus.allow_short=true)"
        )
    for split in SPLITS:
        if not any(record["documents"][split] for record in records):
            raise TrialError(
                f"corpus: no document fell into {split} out of {documents_read} read; give more text or another "
                "corpus.val_share"
            )
    return short


def _summed(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of all tasks added up, and the first of their bad documents."""
    total: dict[str, Any] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, dict):  # by split
                total[name] = {key: total.get(name, {}).get(key, 0) + count for key, count in value.items()}
            else:
                total[name] = total.get(name, type(value)()) + value
    total["bad"] = total["bad"][:MAX_LISTED]
    return total


def prepare_drills(plan: CorpusPlan) -> None:
    """Write every fold's drill documents, train and val by seeds of their own (defect R2: none is drained into val)."""
    if is_done(plan.folder / "drills", plan.drills_fingerprint):
        return
    settings, vocabulary = plan.trial.corpus.drills, plan.vocabulary
    wanted = drills_wanted(plan.trial)
    with step(plan.folder / "drills", plan.drills_fingerprint) as folder:
        for fold, (split, tokens) in product(plan.folds, wanted.items()):
            never_asked = plan.facts.never_asked(fold, settings.holdout_folds)
            rng = random.Random(f"drills {plan.trial.corpus.seed} {fold} {split}")
            writer = ShardWriter(folder, f"drills{fold}", split, plan.trial.corpus.shard_tokens, vocabulary.eos)
            written = 0
            for text in drills.generate(plan.facts, settings.mix.model_dump(), settings.lines, never_asked, rng):
                ids = vocabulary.encode(text)
                writer.add(ids)
                written += len(ids) + 1
                if written >= tokens:
                    break
            writer.close()


# calls a function with each named tuple of arguments and returns the results in order
Map = Callable[[Callable[..., Any], Mapping[str, tuple[Any, ...]]], Sequence[Any]]


def map_here(function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> Sequence[Any]:
    """A `Map` that works in this process."""
    return [function(*arguments) for arguments in calls.values()]


def prepare_patches(plan: CorpusPlan, map_calls: Map = map_here) -> None:
    """What the arms change in text and drills, train and val, and the survey of both; what is not there yet is made in
    one pass over the shards."""
    pending = [arm for arm in plan.trial.arms if not is_done(plan.patch_folder(arm), plan.patch_fingerprint(arm))]
    surveyed = is_done(plan.survey_folder, plan.survey_fingerprint)
    if surveyed and not pending:
        return
    with ExitStack() as steps:
        folders = {
            arm: steps.enter_context(step(plan.patch_folder(arm), plan.patch_fingerprint(arm), arm=arm))
            for arm in pending
        }
        surveys = None if surveyed else steps.enter_context(step(plan.survey_folder, plan.survey_fingerprint))
        calls: dict[str, tuple[Any, ...]] = {}
        for path in plan.shards():
            name = f"{path.stem}.npz"
            patches = {arm: folder / name for arm, folder in folders.items()}
            calls[path.stem] = path, surveys and surveys / name, patches, plan.vocabulary, plan.facts
        stats = dict(zip(calls, map_calls(survey_and_patch, calls), strict=True))
        for arm, folder in folders.items():
            counts = {name: of_shard[arm]._asdict() for name, of_shard in stats.items()}
            # sites of the text with their context, for a human eye: each should be a fact that is stated there
            sites = [site for name, count in counts.items() for site in count.pop("sample") if name.startswith(TEXT)]
            sample = random.Random(plan.trial.corpus.seed).sample(sites, min(MAX_SHOWN, len(sites)))
            write_json(folder / "patch.json", {"shards": counts, "sites_in_context": sample})


def write_meta(plan: CorpusPlan) -> None:
    """`meta.json`: the reference's fields for each arm, from the written files, and what became of the source."""
    text = read_json(plan.folder / "text.json")
    text.pop("shards_of_task")
    by_arm: dict[str, Any] = {}
    for arm in plan.trial.arms:
        record = read_json(plan.patch_folder(arm) / "patch.json")
        shards = record["shards"]
        train, val = (sum(c["tokens"] for name, c in shards.items() if f"_{split}_" in name) for split in SPLITS)
        documents, changed, sites = (sum(c[key] for c in shards.values()) for key in ("documents", "changed", "sites"))
        lengths = map(sum, zip_longest(*(counts["lengths"] for counts in shards.values()), fillvalue=0))
        by_arm[arm] = {
            "condition": arm,
            "vocab_size": plan.vocabulary.size,
            "total_tokens": train + val,
            "train_tokens": train,
            "val_tokens": val,
            "num_documents": documents,
            "changed_documents": changed,
            "fact_tokens": sites,
            "fact_token_ratio": sites / (train + val),
            "bytes": sum(text["bytes"].values()),
            "num_shards": len(shards),
            "document_lengths": {f"{2**k}-{2 ** (k + 1) - 1}": number for k, number in enumerate(lengths) if number},
            "sites_in_context": record["sites_in_context"],
        }
    write_json(
        plan.folder / "meta.json",
        {
            "source": plan.trial.corpus.source,
            "seed": plan.trial.corpus.seed,
            "shard_size": plan.trial.corpus.shard_tokens,
            "base_vocab_size": plan.vocabulary.base,
            "eos": plan.vocabulary.eos,
            "text": text,
            "arms": by_arm,
        },
    )
