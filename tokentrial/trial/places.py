"""Places outside a run folder that settings name: files and folders of text, rows, merges and models.

They are made absolute once, as a trial is read, so that the trial.yaml of a run means the same to its workers, to other
machines that share the disk, and to whoever looks at it from elsewhere. What is declared and what enters fingerprints
is what lies there and how it is called, never the way to it.
"""

import os
from typing import Annotated

from pydantic import AfterValidator

_KINDS = ("jsonl", "parquet", "path")


def at_home(path: str) -> str:
    """A path with the home folder for its `~`. Raises ValueError where there is none: a container may have no HOME and
    no entry of the user."""
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        raise ValueError(f"found {path!r}, but this machine has no such home folder; give a path without ~, or ./~")
    return expanded


def absolute(path: str) -> str:
    """A local path from the root; an address, such as s3://bucket/trial, as it is."""
    return path if "://" in path or not path else os.path.abspath(at_home(path))


def absolute_source(source: str) -> str:
    """`jsonl:rows.jsonl` from the root; `sotu`, `gsm8k` and other names as they are."""
    kind, _, path = source.partition(":")
    return f"{kind}:{absolute(path)}" if kind in _KINDS else source


def absolute_checkpoint(folder: str) -> str:
    """A folder from the root; OWNER/NAME on the Hub as it is, unless a folder is called so."""
    is_local = folder.startswith((".", "~")) or os.path.isdir(folder)
    return absolute(folder) if is_local else folder


def is_file(source: str) -> bool:
    """Whether a source is a file or folder of this machine."""
    kind, _, path = source.partition(":")
    return kind in _KINDS and "://" not in path


def without_way(source: str) -> str:
    """`jsonl:/home/me/rows.jsonl` as `jsonl:rows.jsonl`."""
    kind, _, path = source.partition(":")
    return f"{kind}:{os.path.basename(path)}" if is_file(source) else source


LocalPath = Annotated[str, AfterValidator(at_home)]
Place = Annotated[str, AfterValidator(absolute)]
SourcePlace = Annotated[str, AfterValidator(absolute_source)]
CheckpointPlace = Annotated[str, AfterValidator(absolute_checkpoint)]
