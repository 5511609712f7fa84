"""Batches: one token stream, inputs and targets one apart, nothing left out and nothing twice."""

from collections import deque
from itertools import islice

import numpy as np
import pytest

from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.pretrain.loader import Loader


@pytest.fixture
def stream(plan):
    return Stream.of(plan.trial, plan.folder, plan.vocabulary, "mul_tokens", 1)


@pytest.mark.parametrize(("rows", "context"), [(1, 8), (4, 64), (3, 50), (64, 64)])
def test_the_batches_are_the_documents_one_after_another(stream, rows, context):
    loader, batches = Loader(stream, rows, context), 10
    expected = np.concatenate([each.ids for each in islice(stream.documents(), 400)])
    size = rows * context
    for number in range(batches):
        x, y, _ = loader.next()
        assert x.shape == y.shape == (rows, context)
        window = expected[number * size : (number + 1) * size + 1]
        assert x.reshape(-1).tolist() == window[:-1].tolist()
        assert y.reshape(-1).tolist() == window[1:].tolist()


def test_what_is_counted_is_what_was_read(stream):
    loader, size = Loader(stream, 4, 64), 4 * 64
    for number in range(1, 20):
        documents, baseline_tokens, place = loader.next().position
        read = list(islice(stream.documents(), documents))
        assert baseline_tokens == sum(each.base_length for each in read)
        assert place.endswith(f", document {read[-1].number}")
        tokens = sum(len(each.ids) for each in read)
        assert tokens >= number * size + 1 > tokens - len(read[-1].ids)  # as few as the last target needs


def test_ids_fit_pytorch(stream):
    x, y, _ = Loader(stream, 4, 64).next()
    assert x.dtype == y.dtype == np.int64
    assert 0 <= x.min() <= x.max() < stream.vocabulary.size


def test_running_out_is_an_error(stream):
    loader = Loader(stream, 64, 64)
    with pytest.raises(TrialError, match="ran out"):
        deque(loader.next() for _ in range(1000))
