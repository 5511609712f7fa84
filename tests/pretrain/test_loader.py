"""Batches: one token stream, inputs and targets one apart, nothing left out and nothing twice."""

from itertools import islice

import numpy as np
import pytest

from tokentrial.corpus.stream import Stream
from tokentrial.pretrain.loader import Loader


@pytest.fixture
def stream(plan):
    return lambda arm="mul_tokens": Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, 1)


@pytest.mark.parametrize(("rows", "context"), [(1, 8), (4, 64), (3, 50), (64, 64)])
def test_the_batches_are_the_documents_one_after_another(stream, rows, context):
    loader, size = Loader(stream(), rows, context), rows * context
    expected = np.concatenate([document.ids for document in islice(stream().documents(), 400)])
    for number in range(10):
        x, y, _ = loader.next()
        assert (x.shape, x.dtype) == (y.shape, y.dtype) == ((rows, context), np.int64)
        window = expected[number * size : (number + 1) * size + 1]
        assert x.reshape(-1).tolist() == window[:-1].tolist()
        assert y.reshape(-1).tolist() == window[1:].tolist()


def test_what_is_counted_is_what_was_read(stream):
    loader, size = Loader(stream(), 4, 64), 4 * 64
    for number in range(1, 20):
        documents, baseline_tokens, place = loader.next().position
        read = list(islice(stream().documents(), documents))
        assert baseline_tokens == sum(document.base_length for document in read)
        assert place.endswith(f", document {read[-1].number}")
        tokens = sum(len(document.ids) for document in read)
        assert tokens >= number * size + 1 > tokens - len(read[-1].ids)  # as few as the last target needs
