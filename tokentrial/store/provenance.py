"""What made a result: time, versions, machine, commit. Never part of a fingerprint."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("tokentrial", "torch", "numpy", "transformers", "trl", "tokenizers", "tiktoken", "scipy")


def provenance() -> dict[str, Any]:
    """What made a result: time, versions, machine. Never part of a fingerprint."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds")} | _maker()


@cache
def _maker() -> dict[str, Any]:
    """This process's code and machine, of which 17 ms are reading the versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "versions": versions,
        # of the exact versions that this release was tested with, which `tokentrial doctor` holds against these
        "lock": hashlib.sha256((Path(__file__).parents[1] / "constraints.txt").read_bytes()).hexdigest(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of this package's checkout, `-dirty` where files differ from it; None where it is no checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None  # installed, perhaps below somebody else's repository
    words = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        described = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here
    return described.stdout.strip() or None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
