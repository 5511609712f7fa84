"""Batches: the stream of documents cut into rows, as in build-nanogpt: inputs and targets one token apart."""

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.stream import Stream

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Loader:
    """Endless batches of `rows` x `context` ids; counts what it has served. Every rank makes the whole batch and takes
    its rows: the order does not depend on how many there are."""

    def __init__(self, stream: Stream, rows: int, context: int) -> None:
        self.shape = rows, context
        self.documents = 0
        self.baseline_tokens = 0
        self.place = "the beginning"  # the last document read, for messages
        self._stream = stream.documents()
        self._held = np.empty(0, np.uint16)

    def next(self) -> Batch:
        """Inputs and targets [rows, context]. Raises TrialError where the text runs out."""
        ids = self._read().astype(np.int64)
        return ids[:-1].reshape(self.shape), ids[1:].reshape(self.shape)

    def skip(self, batches: int) -> None:
        """Go on behind so many batches, as if they had been served."""
        for _ in range(batches):
            self._read()

    def _read(self) -> NDArray[np.uint16]:
        """A batch's ids and the one after them, with which the next batch begins."""
        size = self.shape[0] * self.shape[1]
        parts, held = [self._held], len(self._held)
        while held <= size:
            document = next(self._stream)
            parts.append(document.ids)
            held += len(document.ids)
            self.documents += 1
            self.baseline_tokens += document.base_length
            self.place = f"shard {document.set} {document.shard}, document {document.number}"
        ids = np.concatenate(parts)
        self._held = ids[size:]
        return ids[: size + 1]
