"""The corpus stage: text shards encoded once, drill shards for each fold, a patch for each arm, `meta.json`.

corpus/fineweb_{train|val}_000000.npy    the text, as the baseline reads it
corpus/drills/drills<fold>_{train|val}_000000.npy
corpus/patches/<arm>/<shard>.npz         only what the arm changes
"""

import hashlib
import random
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.arms import arm as arms
from tokentrial.arms.facts import FACTS, never_asked
from tokentrial.corpus import drills
from tokentrial.corpus.shards import ShardWriter, open_shard, shard_paths, write_patch
from tokentrial.corpus.sources import Source
from tokentrial.corpus.stream import TEXT, Stream
from tokentrial.errors import TrialError
from tokentrial.store import fingerprint, is_done, need_disk, read_json, step, write_json
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial import Trial

VERSION = 1
# drill tokens made for each that the budget takes: arms with shorter text read more of them
_MORE_DRILLS = 1.5
_VAL_DRILLS = 0.05
_TOKEN_NAME = re.compile(r"<(?:MUL_[1-9]_[1-9]_[0-9]{1,2}|FACT)>", re.ASCII)


class CorpusPlan:
    """The folders and fingerprints of a trial's corpus; making one reads the source's hash and nothing else."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.folder = trial.folder / "corpus"
        self.vocabulary = Vocabulary(trial.tokenizer.merges, len(FACTS), trial.tokenizer.path)
        self.source = Source(trial.corpus.source, trial.corpus.text_column)

    @property
    def folds(self) -> range:
        return range(max(1, self.trial.corpus.drills.never_asked_folds))

    @cached_property
    def text(self) -> str:
        """Fingerprint of the text shards."""
        settings = self.trial.experiment("corpus", "tokenizer")
        for name in ("source", "drills", "epochs"):
            settings["corpus"].pop(name)
        asks = self.trial.corpus.drills.never_asked_folds > 0
        return fingerprint("text", VERSION, **settings, source=self.source.hash(), drop_asking=asks)

    @cached_property
    def drills(self) -> str:
        """Fingerprint of the drill shards."""
        corpus = self.trial.corpus
        return fingerprint(
            "drills",
            VERSION,
            **self.trial.experiment("tokenizer"),
            drills=corpus.drills.model_dump(),
            seed=corpus.seed,
            shard_tokens=corpus.shard_tokens,
            tokens=self.trial.pretrain.tokens,
        )

    def patch(self, arm: str) -> str:
        """Fingerprint of an arm's patches."""
        return fingerprint("patch", VERSION, arm=arm, version=arms.find(arm).version, of=[self.text, self.drills])

    def patch_folder(self, arm: str) -> Path:
        return self.folder / "patches" / arm

    @property
    def done(self) -> bool:
        """Whether the corpus of every arm is there."""
        return (
            is_done(self.folder, self.text)
            and is_done(self.folder / "drills", self.drills)
            and all(is_done(self.patch_folder(arm), self.patch(arm)) for arm in self.trial.arms)
        )


def prepare_text(plan: CorpusPlan) -> None:
    """Split by document hash, cut into pieces, encode once, write shards."""
    settings = plan.trial.corpus
    if is_done(plan.folder, plan.text):
        return
    need_disk(plan.folder.parent, 2 * sum(path.stat().st_size for path in plan.source.files), "the corpus")
    counts = {"documents_read": 0, "empty_documents": 0, "asking_documents_dropped": 0, "literal_token_names": 0}
    text_bytes = {"train": 0, "val": 0}
    with step(plan.folder, plan.text, source=settings.source) as folder:
        writers = {
            split: ShardWriter(folder, TEXT, split, settings.shard_tokens, plan.vocabulary.eos)
            for split in ("train", "val")
        }
        for text in plan.source.documents():
            if settings.documents is not None and counts["documents_read"] == settings.documents:
                break
            counts["documents_read"] += 1
            counts["literal_token_names"] += len(_TOKEN_NAME.findall(text)) if "<" in text else 0
            if not text.strip():
                counts["empty_documents"] += 1
                continue
            if settings.drills.never_asked_folds and any(f.left >= 2 for f in drills.asked_in(text)):
                counts["asking_documents_dropped"] += 1
                continue
            split = split_of(text, settings.seed, settings.val_share)
            for piece in pieces(text, settings.piece_characters):
                writers[split].add(plan.vocabulary.encode(piece))
                text_bytes[split] += len(piece.encode("utf-8", "replace"))
        for split, writer in writers.items():
            writer.close()
            if not writer.documents:
                raise TrialError(
                    f"corpus: no document fell into {split} out of {counts['documents_read']} read; "
                    "give more text or another corpus.val_share"
                )
        record = counts | {
            "documents": {split: writer.documents for split, writer in writers.items()},
            "tokens": {split: writer.tokens for split, writer in writers.items()},
            "bytes": text_bytes,
        }
        write_json(folder / "text.json", record)


def split_of(text: str, seed: int, val_share: float) -> str:
    """`train` or `val`, by the document's own hash: order and number of documents change nothing."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, salt=seed.to_bytes(8, "big")).digest()
    return "val" if int.from_bytes(digest, "big") < val_share * 2**64 else "train"


def pieces(text: str, characters: int | None) -> Iterator[str]:
    """The text, or its pieces of at most `characters`, cut after white space where there is any."""
    if characters is None:
        yield text
        return
    start = 0
    while start < len(text):
        end = start + characters
        if end < len(text):
            cut = max(text.rfind(space, start, end) for space in (" ", "\n"))
            end = cut + 1 if cut > start else end
        if piece := text[start:end].strip():
            yield piece
        start = end


def prepare_drills(plan: CorpusPlan) -> None:
    """Write every fold's drill documents, train and val by seeds of their own (defect R2: none is drained into val)."""
    if is_done(plan.folder / "drills", plan.drills):
        return
    settings, vocabulary = plan.trial.corpus.drills, plan.vocabulary
    wanted = int(_MORE_DRILLS * settings.share * plan.trial.pretrain.tokens) if settings.share else 0
    with step(plan.folder / "drills", plan.drills) as folder:
        for fold in plan.folds if wanted else ():
            skipped = never_asked(fold, settings.never_asked_folds)
            for split, tokens in (("train", wanted), ("val", max(2000, int(_VAL_DRILLS * wanted)))):
                rng = random.Random(f"drills {plan.trial.corpus.seed} {fold} {split}")
                writer = ShardWriter(folder, f"drills{fold}", split, plan.trial.corpus.shard_tokens, vocabulary.eos)
                written = 0
                for text in drills.documents(settings.mix.model_dump(), settings.lines, skipped, rng):
                    ids = vocabulary.encode(text)
                    writer.add(ids)
                    written += len(ids) + 1
                    if written >= tokens:
                        break
                writer.close()


def prepare_patches(plan: CorpusPlan, arm: str) -> None:
    """Encode anew what the arm changes, in text and drills, train and val."""
    if is_done(plan.patch_folder(arm), plan.patch(arm)):
        return
    with step(plan.patch_folder(arm), plan.patch(arm), arm=arm) as folder:
        treatment, record = arms.find(arm), {}
        for path in sorted([*plan.folder.glob("*.npy"), *(plan.folder / "drills").glob("*.npy")]):
            record[path.stem] = write_patch(path, folder / f"{path.stem}.npz", treatment, plan.vocabulary)
        write_json(folder / "patch.json", record)


def write_meta(plan: CorpusPlan) -> None:
    """`meta.json`: the reference's fields for each arm, from the written files."""
    text = read_json(plan.folder / "text.json")
    by_arm: dict[str, Any] = {}
    for arm in plan.trial.arms:
        shards = read_json(plan.patch_folder(arm) / "patch.json")
        train = sum(counts["tokens"] for name, counts in shards.items() if "_train_" in name)
        val = sum(counts["tokens"] for name, counts in shards.items() if "_val_" in name)
        sites = sum(counts["sites"] for counts in shards.values())
        by_arm[arm] = {
            "condition": arm,
            "vocab_size": plan.vocabulary.size,
            "total_tokens": train + val,
            "train_tokens": train,
            "val_tokens": val,
            "fact_tokens": sites,
            "fact_token_ratio": sites / (train + val),
            "changed_documents": sum(counts["documents"] for counts in shards.values()),
            "num_shards": len(shards),
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


def materialize(
    plan: CorpusPlan, arm: str, seed: int, target_tokens: int, shard_size: int, folder: Path
) -> dict[str, int]:
    """Write an arm's mixed stream in full shards for build-nanogpt's loader: documents run on across shards."""
    stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed)
    val = shard_paths(plan.folder, TEXT, "val")
    need_disk(folder.parent, 2 * target_tokens, "the materialized stream")
    counts = {"train_tokens": 0, "val_tokens": 0, "shards": 0}
    wanted = fingerprint(
        "materialize", VERSION, patch=plan.patch(arm), seed=seed, tokens=target_tokens, shard_size=shard_size
    )
    with step(folder, wanted, arm=arm, seed=seed) as partial:
        for path in val:
            shard = open_shard(path, plan.vocabulary.eos, plan.patch_folder(arm) / f"{path.stem}.npz")
            ids = np.concatenate([shard.document(index) for index in range(len(shard))])
            np.save(partial / path.name, ids)
            counts["val_tokens"] += len(ids)
        held: list[Any] = []
        held_tokens = 0
        for document in stream.documents():
            held.append(document.ids)
            held_tokens += len(document.ids)
            enough = counts["train_tokens"] + held_tokens >= target_tokens
            if held_tokens >= shard_size or enough:
                ids = np.concatenate(held)
                size = min(shard_size, target_tokens - counts["train_tokens"])
                while len(ids) >= size > 0:
                    np.save(partial / f"{TEXT}_train_{counts['shards']:06d}.npy", ids[:size])
                    ids, counts["shards"] = ids[size:], counts["shards"] + 1
                    counts["train_tokens"] += size
                    size = min(shard_size, target_tokens - counts["train_tokens"])
                held, held_tokens = [ids], len(ids)
            if enough:
                break
        write_json(partial / "materialized.json", counts)
    return counts
