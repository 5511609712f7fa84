"""Batches: the stream of documents cut into rows, as in build-nanogpt: inputs and targets one token apart."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.stream import Served, Stream

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Batches(Protocol):
    """What a training step takes its batches from, `rows` rows each."""

    rows: int

    def next(self) -> Batch:
        """Inputs and targets [rows, context]."""


class Loader:
    """Endless batches of `rows` x `context` ids; counts what it has served. Every rank makes the whole batch and takes
    its rows: the order does not depend on how many there are."""

    def __init__(self, stream: Stream, rows: int, context: int) -> None:
        self.rows, self.context = rows, context
        self.documents = 0
        self.baseline_tokens = 0
        self.place = "the beginning"  # the last document read, for messages
        self._documents: Iterator[Served] = stream.documents()
        self._held = np.empty(0, np.uint16)

    def next(self) -> Batch:
        """Inputs and targets [rows, context]. Raises TrialError where the text runs out."""
        size = self.rows * self.context
        tokens = self._read(size + 1)
        self._held = tokens[size:]
        window = tokens[: size + 1].astype(np.int64)
        return window[:-1].reshape(self.rows, self.context), window[1:].reshape(self.rows, self.context)

    def skip(self, batches: int) -> None:
        """Go on behind so many batches, as if they had been served."""
        for _ in range(batches):
            self._held = self._read(self.rows * self.context + 1)[self.rows * self.context :]

    def _read(self, tokens: int) -> NDArray[np.uint16]:
        parts, held = [self._held], len(self._held)
        while held < tokens:
            document = next(self._documents)
            parts.append(document.ids)
            held += len(document.ids)
            self.documents += 1
            self.baseline_tokens += document.base_length
            self.place = f"shard {document.set} {document.shard}, document {document.number}"
        return np.concatenate(parts)
