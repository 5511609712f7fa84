"""Batches: the stream of documents cut into rows, as in build-nanogpt: inputs and targets one token apart."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.stream import Stream


class Position(NamedTuple):
    """How far the text is read: documents, their length as the baseline encodes them, and, for messages, the last."""

    documents: int
    baseline_tokens: int
    place: str


class Batch(NamedTuple):
    """Inputs and targets (rows, context), one token apart, and how far in the text they go."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    position: Position


class Loader:
    """Endless batches of `rows` x `context` ids. Every rank makes the whole batch and takes its rows: the order does
    not depend on how many there are."""

    def __init__(self, stream: Stream, rows: int, context: int) -> None:
        self.shape = rows, context
        self.position = Position(0, 0, "the beginning")
        self._stream = stream.documents()
        self._leftover = np.empty(0, np.uint16)

    def next(self) -> Batch:
        """The next batch. Raises TrialError where the text runs out."""
        ids = self._read().astype(np.int64)
        return Batch(ids[:-1].reshape(self.shape), ids[1:].reshape(self.shape), self.position)

    def skip(self, batches: int) -> None:
        """Go on behind so many batches, as if they had been served: all that a resume needs, as the order of documents
        comes from the seed. They are read, not computed: seconds."""
        for _ in range(batches):
            self._read()

    def _read(self) -> NDArray[np.uint16]:
        """A batch's ids and the one after them: the last target, and the first input of the next batch. Documents run
        on over rows and batches, so that no id is padding or lost."""
        size = self.shape[0] * self.shape[1]
        parts, count = [self._leftover], len(self._leftover)
        while count <= size:
            document = next(self._stream)
            parts.append(document.ids)
            count += len(document.ids)
            self.position = Position(
                self.position.documents + 1,
                self.position.baseline_tokens + document.base_length,
                f"shard {document.set} {document.shard}, document {document.number}",
            )
        ids = np.concatenate(parts)
        self._leftover = ids[size:]
        return ids[: size + 1]
