"""A task of the corpus stage: one part of the source, encoded once, as shards of its own.

    <tasks>/00012/text_{train|val}_000000.npy, record.json

What a task writes depends on its input and the settings alone: tasks may run in any order, on any number of workers.
"""

import hashlib
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches
from tokentrial.corpus.shards import TEXT, ShardWriter
from tokentrial.facts.facts import SLOT_TOKEN, Facts
from tokentrial.store.disk import translate_os_errors
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import place
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary
from tokentrial.trial.settings import Corpus

SPLITS = ("train", "val")
RECORD = "record.json"
_BLANK = bytes(range(33)) + b"\x7f"  # white space and control characters
MAX_LISTED = 100  # bad documents recorded one by one; the others are counted


class TextTasks(NamedTuple):
    """All tasks of a corpus: what every worker is given."""

    folder: Path
    settings: Corpus
    vocabulary: Vocabulary
    facts: Facts
    inputs: list[InputSplit]  # by the task's rank
    target_tokens: int | None  # train tokens wanted; None: all there are

    def done(self) -> dict[int, dict[str, Any]]:
        """Records of the finished tasks; the folder of one at work bears a longer name."""
        paths = [path for path in self.folder.glob(f"[0-9]*/{RECORD}") if path.parent.name.isdigit()]
        return {int(path.parent.name): read_json(path) for path in paths}

    def needed(self, done: dict[int, dict[str, Any]]) -> list[int]:
        """The first tasks that together give the tokens wanted, in order, as far as they are done."""
        rank = tokens = 0
        while rank in done and (self.target_tokens is None or tokens < self.target_tokens):
            tokens += train_tokens([done[rank]])
            rank += 1
        return list(range(rank))

    def enough_before(self, rank: int) -> bool:
        """Whether the finished tasks before this one give all that is wanted."""
        if self.target_tokens is None:
            return False
        return train_tokens(record for done, record in self.done().items() if done < rank) >= self.target_tokens


def train_tokens(records: Iterable[dict[str, Any]]) -> int:
    """Train tokens that the tasks of these records wrote."""
    return sum(record["tokens"]["train"] for record in records)


def run_task(tasks: TextTasks, rank: int) -> None:
    """Do one task, unless it is done, or the tasks before it that are done give all that is wanted. A task that is
    left out so is never among the needed ones: those before it only grow."""
    folder = tasks.folder / f"{rank:05d}"
    if folder.exists() or tasks.enough_before(rank):
        return
    # a name of its own: the same task may still be running somewhere on a cluster
    partial = tasks.folder / f"{rank:05d}.{platform.node()}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with translate_os_errors(folder):
            write_json(partial / RECORD, _write(partial, tasks, tasks.inputs[rank]))
        place(partial, folder)  # unless another machine was faster, with the same bytes
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, tasks: TextTasks, source: InputSplit) -> dict[str, Any]:
    settings, vocabulary = tasks.settings, tasks.vocabulary
    writers = {split: ShardWriter(folder, TEXT, split, settings.shard_tokens, vocabulary.eos) for split in SPLITS}
    documents = DocumentFilter(source, settings, tasks.facts)
    text_bytes = dict.fromkeys(SPLITS, 0)
    for texts, splits in documents.batches():
        ids, lengths = encode_documents(vocabulary, texts)
        start = 0
        for text, split, length in zip(texts, splits, lengths.tolist(), strict=True):
            writers[split].add(ids[start : start + length])
            text_bytes[split] += len(text)
            start += length
    for writer in writers.values():
        writer.close()
    return documents.counts | {
        "bad": [bad._asdict() for bad in documents.bad],
        "documents": {split: writer.documents for split, writer in writers.items()},
        "tokens": {split: writer.tokens for split, writer in writers.items()},
        "bytes": text_bytes,
        "source_bytes": source.bytes,
    }


class DocumentFilter:
    """The documents of an input that go into the corpus, cut into segments, each with its split; others are counted."""

    def __init__(self, source: InputSplit, settings: Corpus, facts: Facts) -> None:
        self.source, self.settings, self.facts = source, settings, facts
        self.token_name = re.compile(b"|".join(re.escape(name.encode()) for name in (*facts.by_token, SLOT_TOKEN)))
        self.bad: list[BadDocument] = []
        self.counts = dict.fromkeys(
            ("documents_read", "bad_documents", "empty_documents", "asking_documents_dropped", "literal_token_names"), 0
        )

    def batches(self) -> Iterator[tuple[list[bytes], list[str]]]:
        """Segments in the order of the source, and the split of each."""
        of, counts = self.settings, self.counts
        for batch in read_batches(self.source, of.text_column, of.on_bad == "skip", of.max_document_bytes):
            left = None if of.documents is None else of.documents - counts["documents_read"]
            texts: list[bytes] = []
            splits: list[str] = []
            for text in batch[:left]:
                counts["documents_read"] += 1
                if isinstance(text, BadDocument):
                    counts["bad_documents"] += 1
                    self.bad += [text] if len(self.bad) < MAX_LISTED else []
                elif self._kept(text):
                    segments = list(split_document(text, of.piece_characters))
                    texts += segments
                    splits += [assign_split(text, of.seed, of.val_share)] * len(segments)
            yield texts, splits
            if counts["documents_read"] == of.documents:
                return

    def _kept(self, text: bytes) -> bool:
        if b"<" in text:
            self.counts["literal_token_names"] += len(self.token_name.findall(text))
        if not text.strip(_BLANK):
            self.counts["empty_documents"] += 1
            return False
        # what asks a fact would teach the never-asked ones; with no folds there are none
        folds = self.settings.drills.holdout_folds
        if folds and not self.facts.asked_in(text.decode()).isdisjoint(self.facts.hard):
            self.counts["asking_documents_dropped"] += 1
            return False
        return True


def assign_split(text: bytes, seed: int, val_share: float) -> str:
    """`train` or `val`, by the document's own hash: order and number of documents change nothing."""
    # two steps: the checksum is eight times as fast over the text, the hash makes an even draw of it for each seed
    summed = zlib.crc32(text).to_bytes(4, "big") + len(text).to_bytes(8, "big")
    digest = hashlib.blake2b(summed, digest_size=8, salt=seed.to_bytes(8, "big")).digest()
    return "val" if int.from_bytes(digest, "big") < val_share * 2**64 else "train"


def split_document(text: bytes, characters: int | None) -> Iterator[bytes]:
    """The text, or its segments of at most `characters`, cut after white space where there is any."""
    if characters is None:
        yield text
        return
    whole, start = text.decode(), 0
    while start < len(whole):
        end = start + characters
        if end < len(whole):
            space = max(whole.rfind(" ", start, end), whole.rfind("\n", start, end))
            end = space + 1 if space > start else end
        if segment := whole[start:end].strip():
            yield segment.encode()
        start = end
