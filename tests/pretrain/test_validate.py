"""Validation against plain loops over the held-out text: the arm's own loss, and bits per byte of the original."""

import math

import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.shards import document_text, open_shard, shard_paths
from tokentrial.corpus.stream import Stream
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.validate import Scored, document_nats, validate

CONTEXT = 64


@pytest.fixture
def model():
    wide = GPT(Config(621, 1, 2, 32, CONTEXT), seed=1)
    with torch.no_grad():  # wide weights, so that each id's probability is its own
        for parameter in wide.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)), alpha=0.3)
    return wide


@torch.no_grad()
def nats_of(model, ids):
    """Id by id: each is guessed from all that stands before it in its window; windows overlap by a quarter of it, and
    an id belongs to the first that reaches it."""
    overlap, of_window, total = CONTEXT // 4, {}, 0.0
    stride = CONTEXT - overlap
    for position in range(1, len(ids)):
        of_window.setdefault(stride * max(0, math.ceil((position - CONTEXT) / stride)), []).append(position)
    for start, positions in of_window.items():
        assert start == 0 or min(positions) - start >= overlap
        before = model.logits(torch.tensor([ids[start : positions[-1]]]))[0, positions[0] - 1 - start :].double()
        chosen = before[range(len(positions)), [ids[position] for position in positions]]
        total += float((before.logsumexp(1) - chosen).sum())
    return total


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_each_id_of_a_long_document_is_given_a_quarter_of_a_context(model, batch):
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 2, 33, 64, 65, 66, 96, 97, 98, 7, 200, 129]
    documents = [torch.randint(621, (length,), generator=generator).numpy().astype("uint16") for length in lengths]
    scored = Scored(model.logits, 621, CONTEXT, torch.device("cpu"))
    expected = [nats_of(model, ids.tolist()) for ids in documents]
    assert document_nats(scored, documents, batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens", "mul_append"])
def test_bits_are_per_byte_of_the_original_text_and_the_loss_is_of_the_arm_s_own(model, plan, arm):
    """The first 50,000 bytes of val text, as the baseline's shards hold it, rewritten here; and the first 20,000 ids of
    the arm's, as one text."""
    stream, treatment = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, 1), arms.get_arm(arm)
    bits, sizes, taken, all_ids = {}, {}, 0, []
    for path in shard_paths(plan.folder, "text", "val"):
        shard = open_shard(path, plan.vocabulary.eos)
        for index in range(len(shard)):
            text = document_text(shard.document(index), plan.vocabulary)
            ids = [plan.vocabulary.eos, *plan.vocabulary.encode_arm(treatment, text).tolist()]
            all_ids += ids
            taken += len(text.encode())
            if taken <= 50_000:
                subset = "untouched" if treatment.rewrite(text) == text else "rewritten"
                bits[subset] = bits.get(subset, 0) + nats_of(model, ids) / math.log(2)
                sizes[subset] = sizes.get(subset, 0) + len(text.encode())
    assert set(bits) == ({"untouched"} if arm == "baseline" else {"untouched", "rewritten"})
    found = validate(model, stream, torch.device("cpu"))
    assert found.pop("val_loss") == pytest.approx(nats_of(model, all_ids[:20_000]) / (len(all_ids[:20_000]) - 1))
    expected = {f"bits_per_byte_{subset}": bits[subset] / sizes[subset] for subset in bits}
    assert found == pytest.approx(expected, rel=1e-5)
