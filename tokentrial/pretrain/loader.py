"""Batches: the stream of documents cut into rows, as in build-nanogpt: inputs and targets one token apart."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tokentrial.corpus.stream import Served, Stream


class Loader:
    """Endless batches of `rows` x `context` ids; counts what it has served."""

    def __init__(self, stream: Stream, rows: int, context: int) -> None:
        self.rows, self.context = rows, context
        self.documents = 0
        self.baseline_tokens = 0
        self._documents: Iterator[Served] = stream.documents()
        self._held = np.empty(0, np.uint16)

    def next(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets [rows, context]. Raises TrialError where the text runs out."""
        size = self.rows * self.context
        parts, held = [self._held], len(self._held)
        while held < size + 1:
            document = next(self._documents)
            parts.append(document.ids)
            held += len(document.ids)
            self.documents += 1
            self.baseline_tokens += document.base_length
        tokens = np.concatenate(parts)
        self._held = tokens[size:]
        window = tokens[: size + 1].astype(np.int64)
        return window[:-1].reshape(self.rows, self.context), window[1:].reshape(self.rows, self.context)
