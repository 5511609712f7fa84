"""Writing sources, and reading shards back as text."""

import bz2
import gzip
import json
import lzma

import zstandard

from tokentrial.corpus.shards import document_text, open_shard, shard_paths
from tokentrial.corpus.text import TextTasks

PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


def jsonl_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def shard_texts(plan, name, split):
    """The texts of one set and split, document by document, before any patch."""
    folder = plan.folder / "drills" if name.startswith("drills") else plan.folder
    shards = [open_shard(path, plan.vocabulary.eos) for path in shard_paths(folder, name, split)]
    return [document_text(shard.document(i), plan.vocabulary) for shard in shards for i in range(len(shard))]


def text_tasks(plan):
    """The tasks of a plan's text, in a folder of their own."""
    corpus, inputs = plan.trial.corpus, plan.source.input_splits(plan.trial.corpus.task_bytes)
    return TextTasks(plan.trial.folder / "tasks", corpus, plan.vocabulary, plan.facts, inputs, plan.target_tokens)
