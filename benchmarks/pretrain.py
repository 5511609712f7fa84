"""Pretraining against karpathy/nanoGPT and the original report's train_nanogpt.py: same shape, cores and dtype.

    python benchmarks/pretrain.py --nanogpt FOLDER --reference FOLDER    # folders with model.py and train_nanogpt.py
    python benchmarks/pretrain.py                                        # ours against ours with one choice undone
    python benchmarks/pretrain.py --gpu [--nanogpt FOLDER --reference FOLDER]        # either of them on a GPU

Every run is a fresh process that takes steps on random ids: forward and backward pass, clipping, AdamW. The contenders
take turns; the figures are medians of `--repeats` runs, each the median of its steps after three to warm up. Memory is
the most that the process held, torch with it. `tiny_trial` sets two processes of ours, one thread each, as a trial
runs its cells, against one process of nanoGPT with both threads. `overhead` is a pilot cell with the logging,
checkpoints and validation of its settings against the same cell with none but the last. `pilot` is the pilot's shape
and its optimizer, Muon, whose own cost is part of it; nanoGPT has AdamW alone. What PyTorch's kernels of the processor
use, AVX2 or AVX512, is printed; where there is AVX-512 everything is measured once more held to AVX2. On a GPU all of
them compute in bf16, compiled, as nanoGPT does by itself and the reference in its largest run; memory is the GPU's.
"""

import argparse
import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tokentrial.executors.worker import cores, worker_environment

SHAPES = {
    "pilot": {"vocab": 429, "n_layer": 2, "n_head": 4, "n_embd": 96, "context": 128, "rows": 8, "steps": 100},
    "tiny": {"vocab": 1088, "n_layer": 3, "n_head": 4, "n_embd": 96, "context": 128, "rows": 16, "steps": 40},
    "vocab50k": {"vocab": 50_349, "n_layer": 4, "n_head": 4, "n_embd": 128, "context": 256, "rows": 4, "steps": 8},
    "gpt2": {"vocab": 50_349, "n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "rows": 1, "steps": 2},
    "gpu": {"vocab": 50_349, "n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "rows": 64, "steps": 20},
}
MICRO = 16  # rows of a pass on a GPU
PEERS = ("nanogpt", "reference")
CLIP, LR, DECAY, BETAS, WARM = 1.0, 6e-4, 0.1, (0.9, 0.95), 3


# what each choice is held against, and the shape in which it tells most
CHOICES = {
    "plain_head": "vocab50k",  # logits whole, as in nanoGPT
    "default_chunks": "vocab50k",  # torch's own options of its chunked loss
    "unfused_adamw": "gpt2",
    "written_attention": "gpt2",  # softmax(q k') v in plain products
    "small_pages": "tiny",
    "torch_muon": "pilot",  # torch.optim.Muon, which iterates in bf16
}
GPU_CHOICES = {
    "eager": "gpu",
    "chunked_head": "gpu",  # the loss of a large vocabulary as a CPU computes it
    "cut_head": "gpu",  # padded rows cut off, not masked
}


# ATen, oneDNN and, on Intel's processors, MKL
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


class Job(NamedTuple):
    """One thing to time: `processes` at once, `threads` each."""

    contender: str
    shape: str
    threads: int
    processes: int = 1
    held_to: str = ""  # AVX2: an instruction set that is less than the processor's


def where(shape: dict[str, int]) -> tuple[str, int]:
    """The device of a shape, and its rows of a pass."""
    return ("cuda", MICRO) if shape is SHAPES["gpu"] else ("cpu", shape["rows"])


def ours(shape: dict[str, int]) -> Any:
    """A function that takes one step, as the training loop takes it."""
    import numpy as np
    import torch

    from tokentrial.pretrain.gpt import GPT, Config
    from tokentrial.pretrain.loader import Batch, Position
    from tokentrial.pretrain.optim import TrainStep
    from tokentrial.pretrain.ranks import Ranks
    from tokentrial.trial.pretraining import Pretrain

    device, micro = where(shape)
    generator = np.random.default_rng(0)

    def drawn() -> Any:
        ids = generator.integers(0, shape["vocab"], (shape["rows"], shape["context"] + 1))
        return Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), Position(0, 0, ""))

    parts = {name: shape[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    batch = shape["rows"] * shape["context"]
    optimizer = "muon" if shape is SHAPES["pilot"] else "adamw"
    step_settings = {"batch_tokens": batch, "micro_batch": micro, "lr": LR, "betas": BETAS, "grad_clip": CLIP}
    settings = Pretrain(**parts, **step_settings, optimizer=optimizer, device=device)
    model = GPT(Config(shape["vocab"], *parts.values()), 0).to(device)
    step = TrainStep(model, drawn, settings, Ranks(device=torch.device(device)))
    return lambda: float(step(1.0)[0])


def undo(choice: str) -> None:
    """Undo one choice in this process."""
    import torch

    from tokentrial.pretrain import gpt, optim

    if choice == "plain_head":
        gpt._LARGE = sys.maxsize
    elif choice == "default_chunks":
        chosen = torch.nn.LinearCrossEntropyOptions
        torch.nn.LinearCrossEntropyOptions = lambda **given: chosen()
    elif choice == "torch_muon":
        optim.Muon = torch.optim.Muon  # type: ignore[misc,assignment]
    elif choice == "unfused_adamw":
        fused = torch.optim.AdamW
        torch.optim.AdamW = lambda *given, **more: fused(*given, **more | {"fused": False})  # type: ignore[misc]
    elif choice == "eager":
        torch.compile = lambda model: model
    elif choice == "chunked_head":
        gpt.masked_loss = gpt.chunked_loss
    elif choice == "cut_head":

        def cut(hidden: Any, head: Any, mask: Any, targets: Any) -> Any:
            logits = torch.nn.functional.linear(hidden, head[: SHAPES["gpu"]["vocab"]])
            return torch.nn.functional.cross_entropy(logits, targets)

        gpt.masked_loss = cut
    elif choice == "written_attention":

        def attention(query: Any, key: Any, value: Any, is_causal: bool) -> Any:
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value

        gpt.F.scaled_dot_product_attention = attention


def peer_step(model: Any, optimizer: Any, shape: dict[str, int]) -> Any:
    import torch

    device, micro = where(shape)
    if device == "cuda":
        model = torch.compile(model)
    parts = shape["rows"] // micro

    def step() -> float:
        total = torch.zeros((), device=device)
        for ids in torch.randint(shape["vocab"], (shape["rows"], shape["context"] + 1)).split(micro):
            x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
            if device == "cuda":
                x, y = (side.pin_memory().to(device, non_blocking=True) for side in (x, y))
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                _, loss = model(x, y)
            (loss / parts).backward()
            total += loss.detach() / parts
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    return step


def nanogpt(shape: dict[str, int]) -> Any:
    peer = importlib.import_module("model")
    device, _ = where(shape)
    vocab = -(-shape["vocab"] // 64) * 64 if device == "cuda" else shape["vocab"]  # a GPU is slow at odd widths
    config = peer.GPTConfig(
        block_size=shape["context"], vocab_size=vocab, n_layer=shape["n_layer"], n_head=shape["n_head"],
        n_embd=shape["n_embd"], dropout=0.0, bias=True,
    )  # fmt: skip
    model = peer.GPT(config).to(device)
    with contextlib.redirect_stdout(sys.stderr):
        optimizer = model.configure_optimizers(DECAY, LR, BETAS, device)
    return peer_step(model, optimizer, shape)


def reference(shape: dict[str, int]) -> Any:
    peer = importlib.import_module("train_nanogpt")
    config = peer.GPTConfig(
        block_size=shape["context"], vocab_size=shape["vocab"], n_layer=shape["n_layer"], n_head=shape["n_head"],
        n_embd=shape["n_embd"],
    )  # fmt: skip
    import torch

    device, _ = where(shape)
    model = peer.GPT(config).to(device)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=1e-8, fused=device == "cuda")
    return peer_step(model, optimizer, shape)


def cell(plain: bool) -> dict[str, float]:
    """Seconds of a pilot cell's pretraining, its probes left out; `plain`: with nothing seen or kept on the way."""
    from tokentrial.corpus.stream import Stream
    from tokentrial.pretrain.train import pretrain
    from tokentrial.run.run import CorpusPlan, run
    from tokentrial.trial.load import load

    with tempfile.TemporaryDirectory() as folder:
        trial = load("pilot", [f"output={folder}/run", "seeds=[1]", "pretrain.steps=300"])
        run(trial, ("corpus",))
        plan = CorpusPlan(trial)
        changed: dict[str, Any] = {"probes": 0}
        if plain:
            changed |= {
                "log_every": 10**9,
                "checkpoint": trial.pretrain.checkpoint.model_copy(update={"interval": 10**9}),
            }
        else:
            changed |= {"checkpoint": trial.pretrain.checkpoint.model_copy(update={"interval": 100})}
        stream = Stream.of(trial, plan.folder, plan.vocabulary, "baseline", 1)
        out = Path(folder) / "out"
        out.mkdir()
        begun = time.perf_counter()
        pretrain(out, stream, trial.pretrain.model_copy(update=changed), None, None, Path(folder) / "checkpoints")
        return {"seconds": time.perf_counter() - begun, "gb": 0.0}


def child(contender: str, shape_name: str) -> None:
    """Time one contender and print the median seconds of a step and the most memory."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in all three; of no effect on a CPU's fp32
    if contender in ("seen", "plain"):
        print(json.dumps(cell(contender == "plain")))
        return
    shape = SHAPES[shape_name]
    undo(contender)
    step = {"nanogpt": nanogpt, "reference": reference}.get(contender, ours)(shape)
    for _ in range(WARM if shape_name != "gpt2" else 1):
        step()
    taken = []
    for _ in range(shape["steps"]):
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    gpu = where(shape)[0] == "cuda"
    gb = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gb /= 1e9
    print(json.dumps({"seconds": median(taken), "gb": gb}))


def timed(job: Job, folders: list[str]) -> dict[str, float]:
    """Run a job's processes side by side, each pinned to its cores; their speeds add up."""
    every = sorted(os.sched_getaffinity(0))
    environment = os.environ | {
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        "PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]),
    }
    if job.held_to:
        environment |= AVX2
    if job.contender not in (*PEERS, "small_pages"):
        environment |= worker_environment(job.threads)  # what a trial gives its workers
    running = []
    for number in range(job.processes):
        mine = every[number * job.threads : (number + 1) * job.threads]
        command = [sys.executable, __file__, "--child", job.contender, job.shape]
        running.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
                preexec_fn=lambda mine=mine: os.sched_setaffinity(0, mine),
            )
        )
    results = []
    for process in running:
        said, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{job} failed")
        results.append(json.loads(said.strip().splitlines()[-1]))
    speed = sum(1 / result["seconds"] for result in results)
    return {"speed": speed, "gb": max(result["gb"] for result in results)}


def measured(
    jobs: list[Job], repeats: int, folders: list[str]
) -> tuple[Callable[[Job], float], Callable[[Job], float]]:
    """Time all jobs, print their table, and return a job's median speed and the most memory it took."""
    results: dict[Job, list[dict[str, float]]] = {job: [] for job in jobs}
    for repeat in range(repeats):
        for job, found in results.items():  # in turns: what slows the machine slows all
            found.append(timed(job, folders))
            print(f"{repeat + 1}: {job} {found[-1]}", file=sys.stderr)

    def speed(job: Job) -> float:
        return median(result["speed"] for result in results[job])

    def memory(job: Job) -> float:
        return max(result["gb"] for result in results[job])

    headings = f"{'tokens/s':>12}{'least-most':>22}{'GB':>7}  instructions"
    print(f"{'contender':18}{'shape':10}{'processes':>10}{'threads':>8}{headings}")
    for job in jobs:
        batch = SHAPES[job.shape]["rows"] * SHAPES[job.shape]["context"] if job.shape in SHAPES else 300 * 1024
        taken = sorted(result["speed"] * batch for result in results[job])
        spread = f"{taken[0]:,.0f}-{taken[-1]:,.0f}"
        print(
            f"{job.contender:18}{job.shape:10}{job.processes:10}{job.threads:8}{median(taken):12,.0f}{spread:>22}"
            f"{memory(job):7.2f}  {job.held_to or capability()}"
        )
    return speed, memory


def capability() -> str:
    """What PyTorch's kernels use of this processor: AVX2, AVX512 or DEFAULT."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def choices(undone: dict[str, str], repeats: int) -> None:
    """Ours as it is against ours with one choice undone."""
    threads = {"pilot": 1, "tiny": 1, "vocab50k": 1, "gpt2": 2, "gpu": cores()}
    pairs = {name: tuple(Job(who, shape, threads[shape]) for who in ("ours", name)) for name, shape in undone.items()}
    speed, memory = measured(list(dict.fromkeys(job for pair in pairs.values() for job in pair)), repeats, [])
    ratios = {name: speed(ours_) / speed(without) for name, (ours_, without) in pairs.items()}
    ratios |= {f"{name}_memory": memory(ours_) / memory(without) for name, (ours_, without) in pairs.items()}
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT's model.py")
    parser.add_argument("--reference", type=Path, help="a folder with the original report's train_nanogpt.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["pilot", "tiny", "vocab50k", "gpt2", "overhead"])
    parser.add_argument("--gpu", action="store_true", help="on a GPU, GPT-2 124M alone")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    if not (given.nanogpt and given.reference):
        choices(GPU_CHOICES if given.gpu else CHOICES, given.repeats)
        return
    only = ["gpu"] if given.gpu else given.only
    folders = [str(given.nanogpt.resolve()), str(given.reference.resolve())]
    held = ["", "AVX2"] if not given.gpu and capability() == "AVX512" else [""]
    threads = {"vocab50k": 2, "gpt2": 2, "gpu": cores()}
    jobs: list[Job] = []
    for held_to in held:
        for shape in ("pilot", "tiny"):
            if shape in only:
                jobs += [Job(name, shape, 1, 1, held_to) for name in ("ours", *PEERS)]
                jobs += [Job("ours", shape, 1, 2, held_to), Job("nanogpt", shape, 2, 1, held_to)]
        for shape in threads:
            if shape in only:
                jobs += [Job(name, shape, threads[shape], 1, held_to) for name in ("ours", *PEERS)]
    if "overhead" in only:
        jobs += [Job(name, "cell", 1) for name in ("seen", "plain")]
    speed, memory = measured(jobs, given.repeats, folders)
    ratios = {}
    for held_to in held:
        mark = f"_{held_to.lower()}" if held_to else ""
        for shape in ("pilot", "tiny"):
            if shape in only:
                alone, peer = (Job(name, shape, 1, 1, held_to) for name in ("ours", "nanogpt"))
                ratios[f"{shape}_cell{mark}"] = speed(alone) / speed(peer)
                trial, peer = Job("ours", shape, 1, 2, held_to), Job("nanogpt", shape, 2, 1, held_to)
                ratios[f"{shape}_trial{mark}"] = speed(trial) / speed(peer)
        for shape, number in threads.items():
            if shape in only:
                mine, *peers = (Job(name, shape, number, 1, held_to) for name in ("ours", *PEERS))
                ratios[f"{shape}{mark}"] = speed(mine) / max(map(speed, peers))
                ratios[f"{shape}_memory{mark}"] = memory(mine) / min(map(memory, peers))
    if "overhead" in only:
        ratios["overhead"] = speed(Job("plain", "cell", 1)) / speed(Job("seen", "cell", 1)) - 1
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
