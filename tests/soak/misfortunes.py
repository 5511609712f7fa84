"""Misfortunes: each leaves a state from which the same command has to end well."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.soak.round import Round
from tests.soak.state import hashes, steps, whole

# a signal comes soon after the first file of one of these
MOMENTS = ["corpus.tasks/*", "corpus.partial", "corpus/drills.partial", "corpus/patches", "*/seed*/*.checkpoints/*/*"]
MOMENTS += [f"*/seed*/{stage}.partial" for stage in ("pretrain", "hf", "eval_*", "sft", "grpo")] + ["report.md"]


def signals(r: Round, twin: Path) -> None:
    """A signal to the main process, to a worker or to all, at a random moment of a run."""
    moments = [glob for glob in MOMENTS if r.trial.kind == "ladder" or not re.search("sft|grpo", glob)]
    if "corpus" in whole(r.folder):
        moments = [glob for glob in moments if not glob.startswith("corpus")]
    glob = "*/seed3/*" if r.trial.kind == "looks" and r.rng.random() < 0.5 else r.rng.choice(["", "", *moments])
    before, later = {*r.folder.glob(glob)} if glob else set(), r.rng.uniform(0, 0.7)
    process = r.start(r.words("run"))
    while glob and process.poll() is None and {*r.folder.glob(glob)} <= before:
        time.sleep(0.02)
    time.sleep(later if glob else 0.5 + later * 12)
    number = r.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    victim = r.rng.choice(["main", "main", "worker", "group"])
    workers = sorted(r.processes("spawn_main") | r.processes("ray::")) if victim == "worker" else []
    if workers and number == signal.SIGINT:  # which workers ignore
        number = signal.SIGTERM
    finished = whole(r.folder)
    with suppress(ProcessLookupError):  # it was faster than we
        if workers:
            os.kill(r.rng.choice(workers), number)
        else:
            (os.killpg if victim == "group" else os.kill)(process.pid, number)
    if workers:
        codes = [0, 1 if number == signal.SIGKILL else 75]
    else:  # 130 and -15 while Python starts, or as the report is printed
        codes = [0, -number] if number == signal.SIGKILL else [0, 75, 130, -signal.SIGTERM]
    r.notes[f"{number.name} to {victim if workers or victim == 'group' else 'main'}"] += 1
    r.end(process, codes)
    r.kept |= finished
    r.settle()


def two_writers(r: Round, twin: Path) -> None:
    """The same command twice at a time."""
    first = r.start(r.words("run"))
    time.sleep(r.rng.choice([0.0, 0.3, 3.0]))
    second = r.start(r.words("run"))
    codes = [r.end(second, [0, 1])[0], r.end(first, [0, 1], r.commands - 1)[0]]
    r.settle()
    assert 0 in codes, "two writers, and both were refused"
    r.notes[f"two writers: {'one refused' if 1 in codes else 'one after the other'}"] += 1


def moved(r: Round, twin: Path) -> None:
    """The run folder lies elsewhere from now on, and commands come from elsewhere, with younger copies of sources."""
    if r.folder.exists() and not r.disk.exists():
        names = ["elsewhere", "with a space", "übersee", "a[1]", "a::b", "a*b"]
        to = r.place / f"{r.rng.choice(names)}{r.commands}" / "run"
        to.parent.mkdir()
        r.folder = r.folder.rename(to)
    if r.cwd == r.place and r.rng.random() < 0.5:
        r.cwd = r.place / "else where"
        shutil.copytree(r.place / "sources", r.cwd / "sources", copy_function=shutil.copyfile)


def full_disk(r: Round, twin: Path) -> None:
    """The disk has room for a part of what is left to do; then there is room again."""

    def blocks(folder: Path) -> int:
        return sum(4096 + -(-path.stat().st_size // 4096) * 4096 for path in [folder, *folder.rglob("*")])

    r.folder.mkdir(exist_ok=True)
    size = blocks(r.folder) + int(r.rng.uniform(0.05, 1) * max(blocks(twin) - blocks(r.folder), 1 << 18))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(r.disk)]
    if r.disk.exists() or os.geteuid() != 0:
        return
    r.disk.mkdir()
    if subprocess.run(mount, check=False).returncode:
        r.notes["full disk: may not mount"] += 1
        return
    r.folder = Path(shutil.move(r.folder, r.disk / "run"))
    code, printed = r.run(r.words("run"), 0, 1)
    assert code == 0 or re.search("No space left on device|GB are free", printed), f"not told: {printed[-300:]}"
    r.notes[f"full disk: exit code {code}"] += 1
    subprocess.run(["mount", "-o", "remount,size=256m", str(r.disk)], check=True)


def lost_source(r: Round, twin: Path) -> None:
    """The files that a trial was made from are gone: a finished run can be looked at, and nothing is lost."""
    sources = r.cwd / "sources"
    gone = sources.rename(r.cwd / "gone")
    if r.is_finished(twin):
        r.run(["status", str(r.folder)])
        r.run(["report", str(r.folder)])
        printed = r.run(["results", str(r.folder), "--items"])[1]
        assert (twin / "results.csv").read_text().strip() in printed, "without its source a run shows other results"
    else:
        r.run(r.words("run"), 0, 1, 2)
    gone.rename(sources)
    if r.rng.random() < 0.5:
        (sources / "text.jsonl").touch()


def other_settings(r: Round, twin: Path) -> None:
    """Another trial, or other settings, into this folder: refused, and nothing is changed."""
    if any(name.endswith("/pretrain") for name in steps(r.folder)):
        before, other = hashes(r.folder), r.rng.choice(["name=another", "pretrain.lr=0.007", "corpus.val_share=0.29"])
        r.run(r.words(r.rng.choice(["run", "corpus", "pretrain", "evaluate"]), other), 1)
        assert before == hashes(r.folder), f"{other}: refused, and yet something was written"


def by_stages(r: Round, twin: Path) -> None:
    """Stage by stage in place of the whole run, for some of its cells. A stage alone knows no looks."""
    verbs = ["corpus", "pretrain", "export", "evaluate", *(["sft"] if r.trial.kind == "ladder" else [])]
    chosen = r.rng.choice([[], ["--arm", r.trial.arms[1]], ["--seed", str(r.trial.seeds[0])]])
    for verb in verbs[: r.rng.randint(1, len(verbs)) if r.trial.kind != "looks" else 1]:
        r.run(r.words(verb, *(chosen if verb != "corpus" else [])))


def damaged_file(r: Round, twin: Path) -> None:
    """A file of a step, or a record of the run, is damaged; what is made from it is still to do."""
    if not (done := sorted(steps(r.folder))):
        return
    name = r.rng.choice(done)
    path = r.rng.choice(sorted(path for path in (r.folder / name).iterdir() if path.is_file()))
    records = ["sources.json", "declared.json", "trial.yaml", "corpus/audit.json", "corpus/exposure.json"]
    if r.rng.random() < 0.15 and (record := r.folder / r.rng.choice(records)).exists():
        path = record
    cell, _, stage = name.rpartition("/")
    readers = {"pretrain": ["hf"], "hf": ["eval_pretrain"], "sft": ["eval_sft"], "grpo": ["eval_grpo"]}.get(stage, [])
    if name.startswith("corpus"):
        cell, readers = f"{r.rng.choice(r.trial.arms)}/seed{r.trial.seeds[0]}", ["pretrain", "hf", "eval_pretrain"]
    r.remove(r.folder / "comparison_report.json", *(r.folder / cell / reader for reader in readers))
    r.damage(path)


def storage(r: Round, twin: Path) -> None:
    """A storage: another trial may not have it, and what is whole there is not made again as the folder is lost."""
    if r.backups:
        r.complete()
    r.local.append(f"storage={r.storage}")
    if not r.backups and r.rng.random() < 0.4:
        r.lose_work()
        signals(r, twin)
    else:
        r.complete()
    before = steps(r.storage)
    if before and r.rng.random() < 0.5:
        trained = any(name.endswith("/pretrain") for name in before)  # a corpus alone may be shared
        other = r.rng.choice(["name=another", "pretrain.lr=0.007"]) if trained else "name=another"
        r.run(r.words("run", other, f"output={r.place / 'another'}"), 1)
        assert steps(r.storage) == before, f"{other}: a storage was changed by another trial"
    files = sorted(path for path in r.storage.rglob("*") if path.is_file())
    for path in r.rng.sample(files, min(len(files), r.rng.choice([0, 0, 1, 3]))):
        r.damage(path)
    if files and not r.disk.exists() and r.rng.random() < 0.7:
        stored, r.kept = whole(r.storage), {}
        if "corpus" not in stored:  # the text is made anew, and with it all that is made from it
            stored = {name: step for name, step in stored.items() if not name.startswith("corpus/")}
        shutil.rmtree(r.folder)
        r.complete()
        again = stored.items() - steps(r.folder).items()
        assert not again, f"{dict(again).keys()}: whole in the storage, and made again"
        r.notes["folder brought back from the storage"] += 1


MISFORTUNES: dict[Callable[[Round, Path], None], int] = {signals: 8, two_writers: 2, moved: 3, full_disk: 3}
MISFORTUNES |= {lost_source: 3, other_settings: 3, by_stages: 1, damaged_file: 5, storage: 3}
NEED_WORK, LAST = (signals, two_writers, full_disk), (damaged_file, storage)
