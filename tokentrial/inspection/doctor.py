"""What this machine and installation are, and what is wrong with them: the first lines of a report of a bug."""

import os
import platform
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

import psutil

from tokentrial import __version__
from tokentrial.devices import HERE, group, has_gpu
from tokentrial.executors.worker import cores
from tokentrial.plan.plan import costs, disk_gb, measured
from tokentrial.trial.load import load

_SIZE = 1024  # rows of the square matrices by which dtypes are compared
_OURS = ("torch", "numpy", "transformers", "trl", "tokenizers", "huggingface-hub", "datasets", "accelerate", "scipy")


class Finding(NamedTuple):
    """One line: what was looked at and found; `advice` is empty where nothing is wrong."""

    name: str
    found: str
    advice: str = ""


def examine(measure: bool = True) -> Iterator[Finding]:
    """The findings, one after another, without a connection to anywhere. With `measure` the pilot's own training steps
    are timed for some seconds."""
    yield Finding("tokentrial", f"{__version__}, {Path(__file__).parents[1]}")
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield _versions()
    yield Finding("system", f"{platform.platform()}, {' '.join(platform.libc_ver())}".rstrip(", "))
    yield _processor()
    yield _gpu()
    yield _dtype()
    yield _compiler()
    yield _memory()
    yield _disk()
    yield _caches()
    yield _network()
    if measure:
        yield _pilot()


def locked_versions() -> dict[str, str]:
    """The versions that this release was tested with, by package; of one that differs by system, that of this one."""
    text = (resources.files("tokentrial") / "constraints.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def _versions() -> Finding:
    """Packages whose versions shape results, against the lock."""
    locked, installed, other = locked_versions(), [], []
    for name in _OURS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            return Finding("versions", f"{name} is absent", "install tokentrial again: `pip install .`")
        installed.append(f"{name} {version}")
        if version.partition("+")[0] != locked[name]:  # +cpu, +cu130: builds of one version
            other.append(f"{name} {locked[name]}")
    advice = f"tested with {', '.join(other)}; results may differ in their last digits" if other else ""
    return Finding("versions", ", ".join(installed), advice)


def _processor() -> Finding:
    import torch

    from tokentrial.store.provenance import provenance

    available, logical = cores(), os.cpu_count()
    width = torch.backends.cpu.get_cpu_capability()
    advice = "" if width not in ("DEFAULT", "NO AVX") else "training takes several times as long without AVX2"
    return Finding("processor", f"{provenance()['processor']}, {width}, {available} of {logical} cores", advice)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("gpu", f"{', '.join(names)}, CUDA {torch.version.cuda}")
    if has_gpu():
        build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        return Finding("gpu", f"an NVIDIA GPU that torch cannot use; {build}", "install torch's build for your driver")
    apple = "; Apple's with pretrain.device=mps" if torch.mps.is_available() else ""
    return Finding("gpu", f"none that is used{apple}")


def _dtype() -> Finding:
    """The dtype in which the device multiplies fastest."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    speed = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
        (matrix @ matrix).sum().item()
        start, products = time.perf_counter(), 0
        while time.perf_counter() - start < 0.3:
            (matrix @ matrix).sum().item()
            products += 1
        speed[str(dtype).removeprefix("torch.")] = 2e-9 * products * _SIZE**3 / (time.perf_counter() - start)
    ordered = sorted(speed.items(), key=lambda item: -item[1])
    rates = (f"{name} {rate:,.0f}" if rate >= 1 else f"{name} under 1" for name, rate in ordered)
    return Finding("dtype", f"on {device}, in GFLOP/s: {', '.join(rates)}")


def _compiler() -> Finding:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [
        what for what, is_present in (("a C compiler", compiler), (str(header), header.exists())) if not is_present
    ]
    advice = f"torch.compile on a GPU needs {' and '.join(missing)}" if missing and has_gpu() else ""
    return Finding("compiler", compiler or "none", advice)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    advice = "the pilot takes 2 GB" if memory.available < 2e9 else ""
    return Finding("memory", f"{memory.available / 1e9:.0f} GB free of {memory.total / 1e9:.0f}", advice)


def _disk() -> Finding:
    free, needed = shutil.disk_usage(Path.cwd()).free / 1e9, disk_gb(load("pilot"), cores())
    writable = os.access(Path.cwd(), os.W_OK)
    advice = f"the pilot needs {needed:.1f} GB" if free < needed else ""
    return Finding("disk", f"{free:.0f} GB free in {Path.cwd()}", advice if writable else "not writable; cd elsewhere")


def _caches() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    advice = "" if os.access(existing, os.W_OK) else "not writable: set HF_HOME to use text or models from the Hub"
    return Finding("caches", str(folder), advice)


def _network() -> Finding:
    """Which variables are set, without their values, as a proxy's may hold a password: nothing is connected to."""
    names = ("HTTPS_PROXY", "https_proxy", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN")
    set_here = ", ".join(name for name in names if os.environ.get(name)) or "no proxy, no token"
    return Finding("network", f"not tried ({set_here}); of the shipped trials only gpt2_* need it")


def _pilot() -> Finding:
    """The plan's hours of the pilot at the speed that its training steps have here."""
    pilot = load("pilot")
    machine = measured(pilot, [group(HERE, {})], {})[-1]
    planned = costs(pilot, machine)
    time = f"about {60 * planned['hours']:.0f} minutes at {planned['tokens_per_s']:,.0f} tokens/s of pretraining"
    return Finding("pilot", time, "" if planned["fits"] else f"needs {planned['host_memory_gb']:.1f} GB of memory")
