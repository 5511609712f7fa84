"""The accounts of a corpus: every arm stands for the bytes that were read, and where one does not, no trial starts."""

import shutil

import numpy as np
import pytest

from tokentrial.arms import arm as arms
from tokentrial.arms.arm import SiteArm, arm_names
from tokentrial.corpus.accounting import account
from tokentrial.corpus.patching import survey_and_patch
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import ShardWriter, open_shard
from tokentrial.corpus.text import assign_split, split_document
from tokentrial.errors import TrialError
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.store.files import read_json, write_json
from tokentrial.tokenizer.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def every_arm(tiny, tmp_path_factory):
    """The tiny corpus in every arm there is."""
    plan = CorpusPlan(
        tiny(tmp_path_factory.mktemp("accounts") / "run", f"arms=[{','.join(arm_names())}]", "seeds=[1,2]")
    )
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    account(plan)
    return plan


@pytest.fixture
def copied(every_arm, tiny, tmp_path):
    shutil.copytree(every_arm.trial.folder, tmp_path / "run")
    return CorpusPlan(every_arm.trial.model_copy(update={"output": str(tmp_path / "run")}))


def test_every_arm_stands_for_the_bytes_of_the_source_counted_by_another_road(every_arm, prose):
    """From the source itself: its documents, cut and split, in UTF-8; and from the shards as they are served."""
    accounts = read_json(every_arm.folder / "bytes.json")
    assert accounts["problems"] == []
    assert accounts["decoded"] == 1  # of the one batch there is
    kept = [text.encode() for text in prose if "What is 6 times 7?" not in text]
    for split in ("train", "val"):
        pieces = [p for text in kept if assign_split(text, 0, 0.2) == split for p in split_document(text, 400)]
        assert accounts["source"]["text"][split] == {"documents": len(pieces), "bytes": sum(map(len, pieces))}
    vocabulary = every_arm.vocabulary
    for name in arm_names():
        assert accounts["arms"][name]["keeps_content"] == arms.get_arm(name).keeps_content
        for of_set, by_split in accounts["arms"][name]["sets"].items():
            for split, counts in by_split.items():
                source = accounts["source"][of_set][split]
                assert (counts["documents"], counts["bytes"]) == (source["documents"], source["bytes"])
                served = [
                    open_shard(p, vocabulary.eos, every_arm.patch_path(name, p))
                    for p in every_arm.shards(of_set, split)
                ]
                ids = np.concatenate([shard.document(i) for shard in served for i in range(len(shard))])
                assert counts["tokens"] == len(ids)
                assert counts["eos"] == (ids == vocabulary.eos).sum()
                assert counts["fact_tokens"] == (ids >= vocabulary.base).sum()
                assert counts["plain_tokens"] == (ids < vocabulary.eos).sum()
                assert counts["plain_bytes"] == len(vocabulary.decode_bytes(ids[ids < vocabulary.eos]))
                assert counts["bytes_a_token"] == pytest.approx(source["bytes"] / len(ids))
                assert (counts["fact_tokens"] > 0) == bool(arms.get_arm(name).tokens)
                assert counts["round_trips"] >= counts["exact"]
    trips = {name: of["sets"]["drills1"]["train"] for name, of in accounts["arms"].items()}
    assert trips["baseline"]["round_trips"] == trips["one_slot"]["exact"] == 0
    assert trips["mul_append"]["exact"] == trips["mul_append"]["round_trips"] > 20


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("text.json", "bytes", 1, r"text, train: the bytes of its shards are"),
        ("drills/drills1/drills.json", "documents", -1, r"drills1, train: the documents of its shards are"),
        ("patches/mul_tokens/text/patch.json", "plain_bytes", 1, r"mul_tokens, text, train: .* bytes, with those"),
        (
            "patches/one_slot/drills2/patch.json",
            "replaced_bytes",
            -2,
            r"one_slot, drills2, train: .* bytes, with",
        ),
        ("patches/mul_append/drills1/patch.json", "fact_tokens", 1, r"mul_append, drills1, train: .* tokens \(eos"),
        ("patches/baseline/text/patch.json", "documents", 1, r"baseline, text, train: .* documents, expected"),
    ],
)
def test_accounts_that_do_not_add_up_stop_the_trial(copied, file, old, new, message):
    record = read_json(copied.folder / file)
    counts = record if file == "text.json" else record["train"] if "drills.json" in file else record["shards"]
    if file == "text.json":
        counts["bytes"]["train"] += new
    elif "drills.json" in file:
        counts[old] += new
    else:
        counts[next(stem for stem in counts if "_train_" in stem)][old] += new
    write_json(copied.folder / file, record)
    with pytest.raises(
        TrialError, match=rf"bytes\.json: the bytes do not add up, the trial does not start:\n  {message}"
    ):
        account(copied)
    assert read_json(copied.folder / "bytes.json")["problems"]


class Losing(SiteArm):
    """Drops the character before a site."""

    name = "losing"

    def segments(self, text, sites=None):
        for segment in super().segments(text, sites):
            yield (
                segment._replace(text=segment.text[:-1])
                if segment.token is None and "=" not in segment.text
                else segment
            )


class Garbling(SiteArm):
    """Comes back as another fact, though it says that it keeps the content."""

    name = "garbling"

    def expansion(self, token, before, after):
        return "1*1=1"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            Losing(),
            r"text_train_000000:1: losing keeps 12 bytes and replaces 6 of 20; the segments .* must cover the text",
        ),
        (Garbling(), r"text_train_000000:1: the ids of garbling decode to 'so <MUL_6_9_54> it is', which is not"),
    ],
)
def test_an_arm_that_loses_bytes_or_meaning_is_named(tmp_path, monkeypatch, arm, message):
    vocabulary = Vocabulary(256, 45)
    writer = ShardWriter(tmp_path, "text", "train", 10**6, vocabulary.eos)
    for text in ("plain", "so 6*9=54 it is okay" if isinstance(arm, Losing) else "so 6*9=54 it is"):
        writer.add(vocabulary.encode(text))
    writer.close()
    monkeypatch.setattr(arms, "get_arm", lambda *_: arm)
    with pytest.raises(TrialError, match=message):
        survey_and_patch(
            tmp_path / "text_train_000000.npy",
            None,
            {arm.name: tmp_path / "text_train_000000.npz"},
            vocabulary,
            TIMES_TABLE,
        )
