"""The corpus stage: text shards encoded once, drill shards for each fold that a seed uses, a survey of every shard, a
patch for each arm, `meta.json`.

corpus/text_{train|val}_000000.npy                        the text, as the baseline reads it
corpus/drills/drills<fold>/drills<fold>_{train|val}_000000.npy
corpus/surveys/<set>/<shard>.npz                          what its documents weigh and state
corpus/patches/<arm>/<set>/<shard>.npz                    only what the arm changes

The work itself is handed to a `Map`, which the run gives: processes of this machine, or Ray.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.arms import arm as arms
from tokentrial.corpus.patching import MAX_SHOWN, ShardStats, survey_and_patch
from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches, text_ratio
from tokentrial.corpus.shards import TEXT, Ids, ShardWriter, patch_path, set_folder, shard_paths
from tokentrial.corpus.sources import Source
from tokentrial.corpus.stream import drill_sets, drills_name, drills_wanted, text_wanted
from tokentrial.corpus.text import MAX_LISTED, SPLITS, TextTasks, run_task, train_tokens
from tokentrial.errors import TrialError
from tokentrial.executors.worker import cores, report
from tokentrial.facts import drills
from tokentrial.facts.facts import Facts
from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.store.disk import need_disk, need_within, translate_os_errors
from tokentrial.store.files import fingerprint, link, write_json
from tokentrial.store.folders import is_done, read_manifest, step
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.settings import LOCAL
from tokentrial.trial.trial import Trial

VERSION = 5  # 4 called the shards of the text fineweb_*
_NO_FACTS = FactSettings().model_dump(mode="json", exclude={*LOCAL["facts"]})
_DRILLS_AT_ONCE = 500

# calls a function with each named tuple of arguments and returns the results in order
Map = Callable[[Callable[..., Any], Mapping[str, tuple[Any, ...]]], Sequence[Any]]


def map_here(function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> Sequence[Any]:
    """A `Map` that works in this process."""
    return [function(*arguments) for arguments in calls.values()]


class CorpusPlan:
    """The folders and fingerprints of a trial's corpus; making one lists the source's files and reads none."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.folder = trial.folder / "corpus"
        self.facts = build_facts(trial.facts)
        self.vocabulary = Vocabulary(trial.tokenizer.merges, len(self.facts), trial.tokenizer.path)
        self.source = Source(trial.corpus.source, trial.corpus.text_column, trial.folder / "sources.json")
        self.target_tokens = text_wanted(trial)  # train tokens of text; None: all there are
        self.folds = drill_sets(trial)

    @cached_property
    def text_fingerprint(self) -> str:
        """Fingerprint of the text shards."""
        settings = self.trial.experiment("facts", "corpus", "tokenizer")
        for name in ("source", "drills", "epochs", "tokens"):
            settings["corpus"].pop(name)
        asks = self.trial.corpus.drills.holdout_folds > 0
        if not asks:  # facts decide what is left out, and nothing else of the text: then any have the same
            settings["facts"] = _NO_FACTS
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
        """Fingerprint of all that an arm reads: text, drills, and what it changes in them."""
        shards = [self.text_fingerprint, self.drills_fingerprint]
        return fingerprint("patch", VERSION, arm=arm, version=arms.get_arm(arm).version, of=shards)

    @property
    def sets(self) -> list[str]:
        """The sets of shards: the text, and the drills of each fold."""
        return [TEXT, *self.folds]

    def sets_of(self, seed: int) -> list[str]:
        """The sets that a seed reads."""
        return [TEXT, *({drills_name(seed, self.trial.corpus.drills.holdout_folds)} & self.folds.keys())]

    def shards(self, name: str, split: str = "*") -> list[Path]:
        """The shards of a set and split."""
        return shard_paths(self.folder, name, split)

    def set_folder(self, name: str) -> Path:
        """Where the shards of a set lie."""
        return set_folder(self.folder, name)

    def survey_path(self, shard: Path) -> Path:
        """Where the survey of a shard lies."""
        return self.folder / "surveys" / _set_of(shard.stem) / f"{shard.stem}.npz"

    def patch_path(self, arm: str, shard: Path) -> Path:
        """Where an arm's patch of a shard lies, if it changes anything there."""
        return patch_path(self.folder, arm, shard)

    def _made_from(self, name: str) -> dict[str, Any]:
        """What surveys and patches of a set are made from."""
        source = self.text_fingerprint if name == TEXT else self.drills_fingerprint
        return {"of": source, **self.trial.experiment("facts", "tokenizer")}

    def survey_step(self, name: str) -> tuple[Path, str]:
        """Folder and fingerprint of the surveys of a set."""
        return self.folder / "surveys" / name, fingerprint("survey", VERSION, **self._made_from(name))

    def patch_step(self, arm: str, name: str) -> tuple[Path, str]:
        """Folder and fingerprint of an arm's patches of a set."""
        inputs = {"arm": arm, "version": arms.get_arm(arm).version, **self._made_from(name)}
        return self.folder / "patches" / arm / name, fingerprint("patch", VERSION, **inputs)

    @property
    def steps(self) -> list[tuple[Path, str]]:
        """Folder and fingerprint of each step; the first holds the others."""
        return [
            (self.folder, self.text_fingerprint),
            *((self.set_folder(name), self.drills_fingerprint) for name in self.folds),
            *(self.survey_step(name) for name in self.sets),
            *(self.patch_step(arm, name) for arm in self.trial.arms for name in self.sets),
        ]

    @property
    def done(self) -> bool:
        """Whether the corpus of every arm is there."""
        return all(is_done(folder, wanted) for folder, wanted in self.steps)


def reuse(plan: CorpusPlan, other: CorpusPlan) -> None:
    """Take over what another trial has made of the same text, drills and patches: the same files under other names."""
    for to, wanted in plan.steps:
        original = other.folder / to.relative_to(plan.folder)
        if is_done(original, wanted) and not is_done(to, wanted):
            with step(to, wanted, shared_with=other.trial.folder.name) as partial:
                for name in read_manifest(original)["files"]:
                    link(original / name, partial / name)


def prepare_text(plan: CorpusPlan, map_calls: Map = map_here) -> None:
    """Split by document hash, cut into segments, encode once, write shards; in tasks, side by side."""
    with translate_os_errors(plan.folder):
        if not is_done(plan.folder, plan.text_fingerprint):
            _prepare_text(plan, map_calls)


def _prepare_text(plan: CorpusPlan, map_calls: Map) -> None:
    settings, start = plan.trial.corpus, time.monotonic()
    folder = plan.folder.with_name(f"{plan.folder.name}.tasks") / plan.text_fingerprint
    [(inputs, tokens_a_byte)] = map_calls(split_source, {"text": (plan,)})
    tasks = TextTasks(folder.absolute(), inputs, plan.target_tokens)
    for left in folder.glob("*.partial"):
        shutil.rmtree(left)  # of a run that was killed
    done = tasks.done()
    while ranks := tasks.pending(done, tokens_a_byte):
        more = settings, plan.vocabulary, plan.facts
        calls = {f"text {rank}": (tasks.folder / f"{rank:05d}", inputs[rank], *more) for rank in ranks}
        done |= zip(ranks, map_calls(run_task, calls), strict=True)
    needed = tasks.needed(done)
    records = [done[rank] for rank in needed]
    short = _check_records(plan, tasks, records)
    of_task = [{split: shard_paths(folder / f"{rank:05d}", TEXT, split) for split in SPLITS} for rank in needed]
    # verification finds a document of the source by it
    shards_of_task = [{split: len(paths) for split, paths in shards.items()} for shards in of_task]
    with step(plan.folder, plan.text_fingerprint, start, source=settings.source) as corpus:
        for split in SPLITS:
            for index, path in enumerate(path for shards in of_task for path in shards[split]):
                link(path, corpus / f"{TEXT}_{split}_{index:06d}.npy")
        record = _summed(records) | {"tasks": len(needed), "short": short}
        write_json(corpus / "text.json", record | {"shards_of_task": shards_of_task})
    shutil.rmtree(folder.parent)


def split_source(plan: CorpusPlan) -> tuple[list[InputSplit], float]:
    """What each task of the text reads, and train tokens a byte of its files, from the first batch of documents. Tells
    tokens, disk and time that this comes to. Raises TrialError where the disk cannot hold it."""
    corpus, trial = plan.trial.corpus, plan.trial
    inputs = plan.source.input_splits(corpus.task_bytes, in_one=corpus.documents is not None)
    batch = next(read_batches(inputs[0], corpus.text_column, True, corpus.max_document_bytes), [])
    texts = [text for text in batch if not isinstance(text, BadDocument)]
    size = sum(map(len, texts))
    if not size:
        return inputs, 0.0
    encode_documents(plan.vocabulary, texts[:1])  # makes its tables, which is not to be timed
    start = time.perf_counter()
    ids, _ = encode_documents(plan.vocabulary, texts)
    seconds = time.perf_counter() - start
    tokens_a_byte = text_ratio(inputs[0], corpus.text_column) * len(ids) / size
    tokens = plan.source.bytes * tokens_a_byte
    if plan.target_tokens is not None:
        tokens = min(tokens, plan.target_tokens / (1 - corpus.val_share))
    hours = tokens / len(ids) * seconds * 1.5 / (trial.workers or cores()) / 3600
    need_disk(plan.folder.parent, int(2 * tokens), "the corpus", trial.disk_reserve_gb)
    need_within(plan.folder.parent, int(2 * tokens), "the corpus", trial.disk_limit_gb)
    report("text", 0.0, f"about {tokens / 1e6:,.0f}M tokens, {2 * tokens / 1e9:.1f} GB, {hours:.1f} h")
    return inputs, tokens_a_byte * (1 - corpus.val_share)


def _check_records(plan: CorpusPlan, tasks: TextTasks, records: Sequence[dict[str, Any]]) -> bool:
    """Whether the source ended before it gave the tokens wanted. Raises TrialError where that is not allowed, or
    a split is empty."""
    settings, wanted, tokens = plan.trial.corpus, tasks.target_tokens, train_tokens(records)
    documents_read = sum(record["documents_read"] for record in records)
    short = wanted is not None and tokens < wanted
    if short and not settings.allow_short:
        raise TrialError(
            f"corpus.source: {settings.source} ended after {tokens:,} train tokens of {wanted:,} "
            f"({documents_read:,} documents of {len(plan.source.files)} files); "
            "give more text, a smaller corpus.tokens, or accept it with corpus.allow_short=true"
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


def prepare_drills(plan: CorpusPlan, map_calls: Map = map_here) -> None:
    """Write the drill documents of the folds, train and val by seeds of their own (defect R2: none is drained into
    val), and count them in each fold's `drills.json`."""
    wanted = drills_wanted(plan.trial)
    with ExitStack() as steps:
        folders = {
            name: steps.enter_context(step(plan.set_folder(name), plan.drills_fingerprint))
            for name in plan.folds
            if not is_done(plan.set_folder(name), plan.drills_fingerprint)
        }
        calls = {
            f"{name} {split}": (folder, plan.trial, plan.vocabulary, plan.facts, name, plan.folds[name], split)
            for name, folder in folders.items()
            for split in wanted
        }
        counts = dict(zip(calls, map_calls(write_drills, calls), strict=True))
        for name, folder in folders.items():
            write_json(folder / "drills.json", {split: counts[f"{name} {split}"] for split in wanted})


def write_drills(
    folder: Path, trial: Trial, vocabulary: Vocabulary, facts: Facts, name: str, fold: int, split: str
) -> dict[str, int]:
    """Write a fold's drills of one split in shards; returns their documents, bytes and tokens."""
    settings, tokens = trial.corpus.drills, drills_wanted(trial)[split]
    never_asked = facts.never_asked(fold, settings.holdout_folds)
    rng = random.Random(f"drills {trial.corpus.seed} {fold} {split}")
    documents = drills.generate(facts, settings.mix.model_dump(), settings.lines, never_asked, rng)
    writer = ShardWriter(folder, name, split, trial.corpus.shard_tokens, vocabulary.eos)
    written = text_bytes = 0
    for text, ids in _encoded(documents, vocabulary):
        writer.add(ids)
        written += len(ids) + 1
        text_bytes += len(text)
        if written >= tokens:
            break
    writer.close()
    return {"documents": writer.documents, "bytes": text_bytes, "tokens": writer.tokens}


def _encoded(documents: Iterator[str], vocabulary: Vocabulary) -> Iterator[tuple[bytes, Ids]]:
    """Endless documents in UTF-8 with their ids, encoded some hundred at a time."""
    while True:
        texts = [text.encode() for text in islice(documents, _DRILLS_AT_ONCE)]
        ids, lengths = encode_documents(vocabulary, texts)
        yield from zip(texts, np.split(ids, np.cumsum(lengths)[:-1]), strict=True)


def prepare_patches(plan: CorpusPlan, map_calls: Map = map_here) -> None:
    """What the arms change in text and drills, train and val, and the survey of both; what is not there yet is made in
    one pass over the shards."""
    with ExitStack() as steps:

        def pending(found: tuple[Path, str], **record: Any) -> Path | None:
            """A folder to fill, where the step is not done."""
            return None if is_done(*found) else steps.enter_context(step(*found, **record))

        surveys = {name: pending(plan.survey_step(name)) for name in plan.sets}
        patches = {
            (arm, name): pending(plan.patch_step(arm, name), arm=arm) for arm in plan.trial.arms for name in plan.sets
        }
        calls: dict[str, tuple[Any, ...]] = {}
        for name in plan.sets:
            of_arm = {arm: folder for arm in plan.trial.arms if (folder := patches[arm, name])}
            survey = surveys[name]
            for path in plan.shards(name) if survey or of_arm else ():
                file = f"{path.stem}.npz"
                to = {arm: folder / file for arm, folder in of_arm.items()}
                calls[path.stem] = path, survey and survey / file, to, plan.vocabulary, plan.facts
        stats: dict[str, ShardStats] = dict(zip(calls, map_calls(survey_and_patch, calls), strict=True))
        for name, folder in surveys.items():
            if folder:
                shards = {
                    stem: stat.survey._asdict() for stem, stat in stats.items() if stat.survey and _set_of(stem) == name
                }
                write_json(folder / "survey.json", {"shards": shards})
        for (arm, name), folder in patches.items():
            if folder:
                of_set = {stem: stat.patches[arm]._asdict() for stem, stat in stats.items() if _set_of(stem) == name}
                sites = [site for counts in of_set.values() for site in counts.pop("sample")]
                # for a human eye: each should be a fact that is stated there
                shown = random.Random(plan.trial.corpus.seed).sample(sites, min(MAX_SHOWN, len(sites)))
                write_json(folder / "patch.json", {"shards": of_set, "sites_in_context": shown})


def _set_of(shard: str) -> str:
    return shard.partition("_")[0]
