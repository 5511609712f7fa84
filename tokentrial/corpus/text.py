"""A task of the corpus stage: one part of the source, encoded once, as shards of its own.

    <tasks>/00012/text_{train|val}_000000.npy, record.json

What a task writes depends on its input and the settings alone: tasks may run in any order, on any number of workers.
"""

import hashlib
import os
import platform
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches
from tokentrial.corpus.shards import TEXT, Ids, ShardWriter
from tokentrial.errors import TrialError
from tokentrial.facts.facts import Facts
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
    """All tasks of a corpus."""

    folder: Path
    inputs: list[InputSplit]  # by the task's rank
    target_tokens: int | None  # train tokens wanted; None: all there are

    def done(self) -> dict[int, dict[str, Any]]:
        """Records of the finished tasks; the folder of one at work bears a longer name."""
        paths = [path for path in self.folder.glob(f"[0-9]*/{RECORD}") if path.parent.name.isdigit()]
        return {int(path.parent.name): read_json(path) for path in paths}

    def needed(self, done: Mapping[int, dict[str, Any]]) -> list[int]:
        """The first tasks that together give the tokens wanted, in order, as far as they are done."""
        rank = tokens = 0
        while rank in done and (self.target_tokens is None or tokens < self.target_tokens):
            tokens += train_tokens([done[rank]])
            rank += 1
        return list(range(rank))

    def pending(self, done: Mapping[int, dict[str, Any]], tokens_a_byte: float) -> list[int]:
        """The tasks to do next: of those that are expected to give the tokens wanted, what is not done. A task that is
        not done is taken to give as many tokens a byte of its files as the finished ones, before there are any
        `tokens_a_byte`. An empty list once the needed ones are done."""
        if read := sum(record["source_bytes"] for record in done.values()):
            tokens_a_byte = train_tokens(done.values()) / read
        expected, ranks = 0.0, list[int]()
        for rank, source in enumerate(self.inputs):
            if self.target_tokens is not None and expected >= self.target_tokens:
                break
            expected += train_tokens([done[rank]]) if rank in done else tokens_a_byte * source.bytes
            ranks += [] if rank in done else [rank]
        return ranks


def train_tokens(records: Iterable[dict[str, Any]]) -> int:
    """Train tokens that the tasks of these records wrote."""
    return sum(record["tokens"]["train"] for record in records)


def run_task(
    folder: Path, source: InputSplit, settings: Corpus, vocabulary: Vocabulary, facts: Facts
) -> dict[str, Any]:
    """Encode one input into `folder`, unless it is there, and return its record."""
    # a name of its own: the same task may still be running on a machine that was given up
    partial = folder.with_name(f"{folder.name}.{platform.node()}.{os.getpid()}.partial")
    with translate_os_errors(folder):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                write_json(partial / RECORD, _write(partial, source, settings, vocabulary, facts))
                place(partial, folder)  # unless another machine was faster, with the same bytes
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return dict(read_json(folder / RECORD))


def _write(folder: Path, source: InputSplit, settings: Corpus, vocabulary: Vocabulary, facts: Facts) -> dict[str, Any]:
    writers = {split: ShardWriter(folder, TEXT, split, settings.shard_tokens, vocabulary.eos) for split in SPLITS}
    documents = DocumentFilter(source, settings, facts)
    text_bytes, round_trips = dict.fromkeys(SPLITS, 0), 0
    for texts, splits in documents.batches():
        ids, lengths = encode_documents(vocabulary, texts)
        _check_round_trip(vocabulary, ids, lengths, texts)
        start = 0
        for text, split, length in zip(texts, splits, lengths.tolist(), strict=True):
            writers[split].add(ids[start : start + length])
            text_bytes[split] += len(text)
            start += length
        round_trips += bool(texts)
    for writer in writers.values():
        writer.close()
    return documents.counts | {
        "bad": [bad._asdict() for bad in documents.bad],
        "documents": {split: writer.documents for split, writer in writers.items()},
        "tokens": {split: writer.tokens for split, writer in writers.items()},
        "bytes": text_bytes,
        "source_bytes": source.bytes,
        "round_trips": round_trips,
    }


def _check_round_trip(vocabulary: Vocabulary, ids: Ids, lengths: NDArray[np.int64], texts: Sequence[bytes]) -> None:
    """Decode the first document of a batch. Raises TrialError where it is not what was encoded."""
    if texts and vocabulary.decode_bytes(ids[: lengths[0]]) != texts[0]:
        raise TrialError(
            f"corpus: the ids of {texts[0][:60].decode(errors='replace')!r} do not decode to the document; this is an "
            "error of the tokenizer: reinstall gigatoken and tiktoken of the versions in constraints.txt"
        )


class DocumentFilter:
    """The documents of an input that go into the corpus, cut into segments, each with its split; others are counted."""

    def __init__(self, source: InputSplit, settings: Corpus, facts: Facts) -> None:
        self.source, self.settings, self.facts = source, settings, facts
        self.bad: list[BadDocument] = []
        self.counts = dict.fromkeys(
            ("documents_read", "bad_documents", "empty_documents", "asking_documents_dropped"), 0
        )

    def batches(self) -> Iterator[tuple[list[bytes], list[str]]]:
        """Segments in the order of the source, and the split of each."""
        settings, counts = self.settings, self.counts
        for batch in read_batches(
            self.source, settings.text_column, settings.on_bad == "skip", settings.max_document_bytes
        ):
            left = None if settings.documents is None else settings.documents - counts["documents_read"]
            texts: list[bytes] = []
            splits: list[str] = []
            for text in batch[:left]:
                counts["documents_read"] += 1
                if isinstance(text, BadDocument):
                    counts["bad_documents"] += 1
                    self.bad += [text] if len(self.bad) < MAX_LISTED else []
                elif self._kept(text):
                    segments = list(split_document(text, settings.piece_characters))
                    texts += segments
                    splits += [assign_split(text, settings.seed, settings.val_share)] * len(segments)
            yield texts, splits
            if counts["documents_read"] == settings.documents:
                return

    def _kept(self, text: bytes) -> bool:
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
