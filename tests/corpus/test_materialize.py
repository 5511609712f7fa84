"""`corpus --materialize`: shards that karpathy/build-nanogpt's loader reads, holding just what a cell reads."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from tokentrial.arms import arm as arms
from tokentrial.corpus.materialize import materialize
from tokentrial.corpus.shards import document_text, open_shard, shard_paths
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.run.run import materialize as materialize_of_run
from tokentrial.store.files import read_json
from tokentrial.store.folders import MANIFEST

SHARD, TARGET = 4096, 15_000


class BuildNanoGPTLoader:
    """The documented slicing of build-nanogpt's DataLoaderLite, written anew."""

    def __init__(self, folder, batch, time, rank, world, split):
        self.batch, self.time, self.rank, self.world = batch, time, rank, world
        self.shards = sorted(str(path) for path in folder.iterdir() if split in path.name)
        assert self.shards
        self._open(0)

    def _open(self, number):
        self.shard = number
        self.tokens = torch.tensor(np.load(self.shards[number]).astype(np.int32), dtype=torch.long)
        self.position = self.batch * self.time * self.rank

    def next(self):
        """(shard, position, x, y)"""
        size = self.batch * self.time
        place = self.shard, self.position
        buffer = self.tokens[self.position : self.position + size + 1]
        x, y = buffer[:-1].view(self.batch, self.time), buffer[1:].view(self.batch, self.time)
        self.position += size * self.world
        if self.position + size * self.world + 1 > len(self.tokens):
            self._open((self.shard + 1) % len(self.shards))
        return *place, x, y


@pytest.fixture(scope="module", params=["baseline", "mul_tokens"])
def written(request, plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("materialized") / "out"
    counts = materialize(plan, request.param, 2, TARGET, SHARD, folder)
    stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, request.param, 2)
    expected = np.concatenate([document.ids for document in islice(stream.documents(), 400)])
    assert len(expected) > TARGET
    return folder, counts, expected


def test_the_shards_are_full_but_the_last(written):
    folder, counts, expected = written
    shards = [np.load(path) for path in shard_paths(folder, "fineweb", "train")]
    assert [len(ids) for ids in shards] == [SHARD, SHARD, SHARD, TARGET - 3 * SHARD]
    assert all(ids.dtype == np.uint16 for ids in shards)
    assert np.concatenate(shards).tolist() == expected[:TARGET].tolist()
    assert (counts["train_tokens"], counts["shards"]) == (TARGET, 4)
    assert read_json(folder / "materialized.json") == counts


@pytest.mark.parametrize(("batch", "time", "world"), [(2, 64, 2), (3, 50, 1)])
def test_build_nanogpts_loader_reads_what_a_cell_reads(written, batch, time, world):
    folder, _, expected = written
    ranks = [BuildNanoGPTLoader(folder, batch, time, rank, world, "train") for rank in range(world)]
    covered = Counter()
    while True:
        batches = [rank.next() for rank in ranks]
        if batches[0][:2] in covered:
            break  # the loader has gone round
        for shard, position, x, y in batches:
            covered[shard, position] += 1
            start = shard * SHARD + position
            window = expected[start : start + batch * time + 1].astype(np.int64)
            assert x.reshape(-1).tolist() == window[:-1].tolist()
            assert y.reshape(-1).tolist() == window[1:].tolist()
    # all of the stream but, in each of the four shards, less than a batch at its end
    assert len(covered) * batch * time > TARGET - 4 * (batch * time * world + 1)
    assert max(covered.values()) == 1


def test_the_held_out_shards_are_the_arm_s(plan, written):
    folder, counts, _ = written
    arm = arms.get_arm(read_json(folder / MANIFEST)["arm"])
    tokens = 0
    for path in shard_paths(plan.folder, "text", "val"):
        base = open_shard(path, plan.vocabulary.eos)
        texts = [document_text(base.document(i), plan.vocabulary) for i in range(len(base))]
        expected = [i for text in texts for i in (512, *plan.vocabulary.encode_arm(arm, text))]
        assert np.load(folder / path.name.replace("text", "fineweb")).tolist() == expected
        tokens += len(expected)
    assert counts["val_tokens"] == tokens


def test_too_little_text_is_an_error_and_leaves_no_shards(plan, tmp_path):
    """Defect R12: a stream that broke off was written down as complete."""
    with pytest.raises(TrialError, match="ran out"):
        materialize(plan, "baseline", 1, 10_000_000, SHARD, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_others_is_left_alone(plan, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TrialError, match="was not written by tokentrial"):
        materialize_of_run(plan.trial, "baseline", 1, None, SHARD, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_arm_that_is_none_is_told_before_a_corpus_is_made(tokentrial, tmp_path):
    code, _, err = tokentrial("corpus", "smoke", "--materialize", "mul_token", f"output={tmp_path / 'run'}")
    assert code == 2
    assert "--materialize mul_token: the trial's arms are baseline, mul_tokens, mul_append" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--shard-size", "--target-tokens"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_size_that_is_none_is_refused_before_anything_is_written(tokentrial, tmp_path, option, value):
    words = "corpus", "smoke", "--materialize", "baseline", option, value, f"output={tmp_path / 'run'}"
    code, _, err = tokentrial(*words)
    assert code == 2
    assert f"{option} is {value}, expected" in err
    assert not (tmp_path / "run").exists()
