"""Writing sources, and reading shards back as text."""

import bz2
import gzip
import json
import lzma

import zstandard

from tokentrial.corpus.shards import document_text, open_shard

PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


def jsonl_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def shard_texts(plan, name, split):
    """The texts of one set and split, document by document, before any patch."""
    shards = [open_shard(path, plan.vocabulary.eos) for path in plan.shards(name, split)]
    return [document_text(shard.document(i), plan.vocabulary) for shard in shards for i in range(len(shard))]


def task_of(plan, rank):
    """What `run_task` is called with for one task of a plan's text."""
    inputs = plan.source.input_splits(plan.trial.corpus.task_bytes)
    return plan.trial.folder / "tasks" / f"{rank:05d}", inputs[rank], plan.trial.corpus, plan.vocabulary, plan.facts
