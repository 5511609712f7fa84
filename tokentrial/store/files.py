"""Files that are written whole or not at all, and names for what is in them."""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tokentrial.errors import TrialError

PARTIAL = ".partial"  # how the name of what is not whole yet ends
REPLACED = f".old{PARTIAL}"  # of a folder that another has taken the place of
SEAL = "sha256_of_content"  # of all else in a record, which no manifest covers


def canonical(value: Any) -> bytes:
    """JSON bytes that do not depend on the order of keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def fingerprint(step: str, version: int, /, **inputs: Any) -> str:
    """Name of a step's result: its settings, its inputs' fingerprints, and a version bumped by hand."""
    return hashlib.sha256(canonical([step, version, inputs])).hexdigest()[:16]  # 64 bits, for names people read


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(path: Path, to: Path) -> None:
    """The same file under another name, so that a kill loses nothing; a copy where the disk knows no links."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: processes, threads and machines may write the same file at once, and the last one stays
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with none of its bytes
        partial.replace(path)  # atomic: a reader sees the old file or the new one
    finally:
        partial.unlink(missing_ok=True)


def remove_stale_partials(*folders: Path) -> None:
    """Delete what killed processes left: files that they were writing, an hour ago or longer, and replaced folders."""
    for path in (path for folder in folders for path in folder.glob(f"*{PARTIAL}")):
        if path.name.endswith(REPLACED):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """Indented JSON; NaN and infinity become null. A record that was sealed is sealed again."""
    if isinstance(value, dict) and SEAL in value:
        value = sealed(value)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` atomically."""
    write_bytes(path, json_bytes(value))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the sha256 of its content, by which `read_json` knows whether it is damaged."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return content | {SEAL: hashlib.sha256(canonical(content)).hexdigest()}


def is_as_sealed(value: Any) -> bool:
    """False of a record that is sealed and has other content than it was sealed with."""
    return not (isinstance(value, dict) and SEAL in value) or value == sealed(value)


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file, an object with `keys` where any are given; a record that is sealed must be as it was written.
    The error names the file."""
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise TrialError(f"{path}: not found") from None
    except orjson.JSONDecodeError as error:
        raise TrialError(f"{path}: not valid JSON ({error}); delete it and run again") from None
    if not is_as_sealed(value):
        raise TrialError(f"{path}: damaged, its content does not match its sha256; delete it and run again")
    if keys and not (isinstance(value, dict) and value.keys() >= {*keys}):
        raise TrialError(f"{path}: expected an object with {', '.join(keys)}; delete it and run again")
    return value
