"""GPUs as data: peak, memory, the share of the peak that training reaches (MFU) and where that is known from, price.

`group("8xA100-80")` is eight of them; `this_machine()` is what is here, told without importing torch. Speeds of GPT-2
124M, from which the MFU follows: ours (H100, `benchmarks/pretrain.py --gpu`), the original report's pilot (A40), its
experiment's later 10B run (4 x H200) and llm.c's published runs (8 x A100, 8 x H100). Prices are one market's lowest by
the hour, from price surveys: they move by tens of percent in a month, so give your own: --price A40=0.35.
"""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

from tokentrial.errors import SettingsError
from tokentrial.executors.worker import cores
from tokentrial.trial.pretraining import Pretrain

HERE = "this machine"
_GPT2_FLOPS = Pretrain().flops_per_token(50_257)  # of GPT-2 124M, whose tokens a second are what is published
# tokens/s a GPU, as in the docstring
_OURS, _ORIGINAL, _TEN_BILLION, _LLMC_H100, _LLMC_A100 = 463_600, 64_000, 278_000, 463_000, 231_000
# the original report fine-tuned 7,473 rows, each padded to 512, for 3 epochs in 8 minutes on the A40: the Trainer's
# eager model against the compiled one of pretraining
TRAINER_SHARE = 7_473 * 3 * 512 / (8 * 60) / _ORIGINAL
# the original report's GRPO: 80,000 rollouts of 256 tokens in 2.2 h on one GPU, 32 a step, 12 layers; a decoding step
# waits for the launches of its kernels, not for their arithmetic, so it is the same on every GPU
DECODE_SECONDS = 2.2 * 3600 / (80_000 / 32) / 256 / 12


class Device(NamedTuple):
    """One GPU, or the cores of this machine's processor. TFLOP/s dense in 16 bit, dollars an hour."""

    name: str
    cuda: str  # what CUDA calls it, in part
    tflops: float
    memory_gb: float
    mfu: float
    source: str  # of the MFU
    price: float | None = None
    priced: str = ""  # when
    trainer: float = TRAINER_SHARE  # speed of SFT, GRPO and scoring, as a share of pretraining's
    decode: float = DECODE_SECONDS  # of one layer, for one token of a whole batch
    start: float = 10.0  # seconds of a stage before it computes: the original report's export, which computes nothing
    compile: float = 60.0  # seconds until a compiled model takes its first step; assumed, twice an H100's and more
    workers: int = 1  # cells at a time


def _mfu(tokens_per_s: float, tflops: float) -> float:
    return tokens_per_s * _GPT2_FLOPS / (tflops * 1e12)


_UNKNOWN = (0.3, "no measurement; assumed")
_H100 = Device(
    "H100",
    "H100",
    989.0,
    80,
    _mfu(_OURS, 989.0),
    "464k tokens/s of ours",
    2.69,
    "2026-03",
    trainer=TRAINER_SHARE * _TEN_BILLION / _OURS,  # the other stages are not compiled: as fast as in the 10B run
    compile=20.0,
)
# peaks are of the makers' data sheets
DEVICES = (
    Device(
        "A40", "A40", 149.7, 48, _mfu(_ORIGINAL, 149.7), "64k tokens/s in the original report's pilot", 0.40, "2025"
    ),
    Device(
        "A100-80",
        "A100",
        312.0,
        80,
        _mfu(_LLMC_A100 * _TEN_BILLION / _LLMC_H100, 312.0),
        "llm.c's 231k tokens/s, times 0.60: what PyTorch reached on an H200 of llm.c's speed on an H100",
        1.19,
        "2026-03",
    ),
    _H100,
    _H100._replace(name="H200", cuda="H200", memory_gb=141, source="as the H100, the same chip", price=3.59),
    Device("4090", "RTX 4090", 165.2, 24, _mfu(106_000, 165.2), "106k tokens/s, the least seen", 0.34, "2026-03"),
    Device("L4", "L4", 121.0, 24, 0.2, "no measurement; assumed, as its 72 W do not hold its clock", 0.44, "2026-03"),
    Device("H100-PCIe", "H100 PCIe", 756.0, 80, *_UNKNOWN, 1.99, "2026-03"),
    Device("L40S", "L40S", 362.0, 48, *_UNKNOWN, 0.79, "2026-03"),
    Device("3090", "RTX 3090", 71.0, 24, *_UNKNOWN, 0.22, "2026-03"),
    Device("A10", "A10", 125.0, 24, *_UNKNOWN),
    Device("V100", "V100", 125.0, 32, *_UNKNOWN),
    Device("T4", "T4", 65.0, 16, *_UNKNOWN),
)
SHOWN = ("A40", "2xA40", "8xA40", "A100-80", "4xA100-80", "8xA100-80", "H100", "8xH100", "H200", "4xH200", "4090", "L4")
# a core's matrix product in fp32, 121 GFLOP/s, and the pilot's cells on two of them: 48 GFLOP/s in pretraining, 0.7 of
# that in SFT, 4.4 ms a layer and token in decoding, next to no start
_OF_A_CORE = "48 of a core's 121 GFLOP/s in the pilot's cells; more in a larger model: --measure"
_CORES = Device(HERE, "", 0.121, 0, 0.4, _OF_A_CORE, 0.0, "yours", trainer=0.7, decode=0.0044, start=1.0, compile=0.0)
_DRIVER = Path("/proc/driver/nvidia/gpus")
# by what file a GPU shows that its driver lists nowhere: under WSL2 Windows' own driver, which is mounted where the GPU
# is NVIDIA's; in a virtual machine of a container the device alone; AMD's, which a ROCm build of torch calls cuda
_NVIDIA = (_DRIVER, Path("/usr/lib/wsl/lib/libcuda.so.1"), Path("/dev/nvidia0"))
_AMD = (Path("/dev/kfd"),)
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_MODEL = re.compile(r"Model:\s*(.*\S)")


class Group(NamedTuple):
    """Several of one device in one machine."""

    number: int
    device: Device

    @property
    def name(self) -> str:
        return self.device.name if self.number == 1 else f"{self.number}x{self.device.name}"


def by_cuda_name(name: str) -> Device | None:
    """The device that CUDA calls so; the longest name that fits, whole words only: an A4000 is no A40. Its memory is
    what the name says, where it says one: there are A100s of 40 and of 80 GB, V100s of 16 and of 32."""
    fitting = [device for device in DEVICES if re.search(rf"\b{re.escape(device.cuda)}\b", name)]
    longest = max(fitting, key=lambda device: len(device.cuda), default=None)
    memory = re.search(r"\b(\d+)GB\b", name)
    return longest._replace(memory_gb=float(memory[1])) if longest and memory else longest


def has_gpu() -> bool:
    """Whether a GPU is visible that the installed build of torch computes on, told without importing torch (3.5 s)."""
    build = version("torch").partition("+")[2]
    files = () if build == "cpu" else _AMD if build.startswith("rocm") else _NVIDIA
    hidden = any(os.environ.get(name) in ("", "-1") for name in _HIDING)
    return not hidden and any(file.exists() for file in files)


def default_device() -> str:
    """`cuda` where a GPU can be computed on, else `cpu`."""
    return "cuda" if has_gpu() else "cpu"


def group(text: str, prices: dict[str, float]) -> Group:
    """`A40`, `2xA40` or `this machine`, at the given prices where there are some."""
    if text == HERE:
        return this_machine(prices)
    several = re.match(r"(\d+)x", text)
    number, name = (int(several[1]), text[several.end() :]) if several else (1, text)
    if number < 1:
        raise SettingsError(f"--device {text}: found {number} of them, expected 1 or more")
    return Group(number, _priced(_named(name, f"--device {text}"), prices))


def parse_prices(options: Sequence[str]) -> dict[str, float]:
    """`A40=0.35` to dollars an hour by name."""
    prices = {}
    for option in options:
        name, _, value = option.rpartition("=")
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        if not name or not 0 <= price < float("inf"):
            raise SettingsError(f"--price {option}: expected NAME=DOLLARS, such as A40=0.35")
        prices[HERE if name == HERE else _named(name, f"--price {option}").name] = price
    return prices


def this_machine(prices: dict[str, float], device: str = "auto") -> Group:
    """The GPUs that the driver lists and this process may see, or, without one or with `cpu` as the device, the
    processor's cores; free of charge unless a price is given. A GPU that the table does not know counts as the slowest
    that it does."""
    if device != "cpu" and has_gpu():
        models = [_MODEL.findall(path.read_text())[0] for path in sorted(_DRIVER.glob("*/information"))] or ["GPU"]
        visible = [len(os.environ[name].split(",")) for name in _HIDING if os.environ.get(name)]
        models = models[: min(visible, default=None)]
        slowest = min(DEVICES, key=lambda device: device.tflops)
        guess = slowest._replace(source=f"{models[0]} is not in the table; assumed to be like a {slowest.name}")
        known = by_cuda_name(models[0]) or guess
        return Group(len(models), _priced(known._replace(name=HERE, price=0.0, priced="yours"), prices))
    memory = psutil.virtual_memory().total / 1e9
    processor = _CORES._replace(memory_gb=memory, workers=cores())
    return Group(1, _priced(processor, prices))


def _priced(device: Device, prices: dict[str, float]) -> Device:
    return device._replace(price=prices[device.name], priced="given") if device.name in prices else device


def _named(name: str, where: str) -> Device:
    by_name = {device.name.lower(): device for device in DEVICES}
    if name.lower() not in by_name:
        near = get_close_matches(name.lower(), by_name, n=1, cutoff=0.5)
        hint = f"did you mean {by_name[near[0]].name}?" if near else f"there are {', '.join(d.name for d in DEVICES)}"
        raise SettingsError(f"{where}: no device {name!r} in the table; {hint}")
    return by_name[name.lower()]
