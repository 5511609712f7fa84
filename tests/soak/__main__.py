"""Soak: tiny trials under random misfortune, round after round. Nothing that was finished may be lost, and the same
command must end as if nothing had happened.

    python -m tests.soak --rounds 20               # some minutes on two cores
    python -m tests.soak --minutes 60 --seed 3     # what a release has to pass: at least 300 rounds, nothing lost
    python -m tests.soak --seed 3 --round 41       # one round again; moments are by the clock, all else is the same

A round draws one of some trials, begins with nothing, a part or all of it done, and meets one to three misfortunes.
Then the same command is given until it ends, and what stands there is compared with the trial's twin, which was run
once and left alone. All goes through `python -m tokentrial`, in processes of its own; nothing of the package is
imported here. Where a round fails its folder is kept, with what every command printed.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.soak.misfortunes import LAST, MISFORTUNES, NEED_WORK
from tests.soak.round import Round
from tests.soak.trials import Trial, draw_trial, write_sources


class Soak:
    """The rounds of one seed, in a folder that holds their trials' twins."""

    def __init__(self, seed: int, trials: int, work: Path) -> None:
        self.seed, self.work, self.locks = seed, work, [threading.Lock() for _ in range(trials)]
        self.seconds: dict[int, float] = {}  # of the undisturbed runs
        self.counts: Counter[str] = Counter()
        self.violations = 0
        write_sources(work / "sources")

    def twin(self, number: int, trial: Trial) -> Path:
        """The trial's run that nobody disturbs, made as the first round asks for it."""
        place = self.work / f"twin{number}"
        with self.locks[number]:
            if number not in self.seconds:
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(self.work / "sources", place / "sources")
                alone, begun = Round(place, trial, f"{self.seed} twin {number}"), time.monotonic()
                alone.run(alone.words("run"))
                self.seconds[number] = time.monotonic() - begun
        return place / "run"

    def round(self, number: int) -> None:
        """One round; what it violates is printed and counted."""
        begun, name, place = time.monotonic(), f"{self.seed} {number}", self.work / f"round{number}"
        rng, problem = random.Random(f"{name} plan"), ""
        of, executor = rng.randrange(len(self.locks)), "ray" if rng.random() < 0.02 else "local"
        trial, done = (
            draw_trial(random.Random(f"{self.seed} trial {of}"), of),
            rng.choice(["nothing", "a part", "a part", "all"]),
        )
        chosen = dict.fromkeys(rng.choices([*MISFORTUNES], [*MISFORTUNES.values()], k=rng.choice([1, 1, 1, 2, 2, 3])))
        r = Round(place, trial, name, executor)
        try:
            twin = self.twin(of, trial)
            shutil.copytree(self.work / "sources", place / "sources")
            if done != "nothing":
                shutil.copytree(twin, r.folder)
                r.settle()
            for misfortune in sorted(chosen, key=LAST.__contains__):
                if done == "a part" or (misfortune in NEED_WORK and r.is_finished(twin)):
                    r.lose_work()
                misfortune(r, twin)
                done = ""
            r.complete()
            r.check_end(twin)
        except Exception as error:  # noqa: BLE001 - the other rounds go on
            problem = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        for pid in r.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if r.disk.is_mount():
            if problem:
                shutil.copytree(r.disk, place / "copy of the disk")
            subprocess.run(["umount", "-l", str(r.disk)], check=True)
        named, took = [misfortune.__name__ for misfortune in chosen], time.monotonic() - begun
        self.counts.update(r.notes + Counter(["rounds", f"executor {executor}", *named]) + Counter(commands=r.commands))
        state = "VIOLATED" if problem else "ok"
        print(f"round {number}: {state}, {took:.0f} s, trial {of}, {executor}, {' + '.join(named)}", flush=True)
        if problem:
            print(f"  {problem}\n  {place}; again: --seed {self.seed} --round {number}", flush=True)
            self.violations += 1
        else:
            shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10**6, help="at most so many")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no round is begun")
    parser.add_argument("--round", type=int, help="this one alone")
    parser.add_argument("--trials", type=int, default=16, help="so many different ones, each run undisturbed once")
    parser.add_argument("--side-by-side", type=int, default=2, help="rounds at a time")
    parser.add_argument("--work", type=Path, help="where its folder is made; kept where a round fails")
    given, begun, lock = parser.parse_args(), time.monotonic(), threading.Lock()
    work = Path(tempfile.mkdtemp(prefix="tokentrial-soak-", dir=given.work))
    soak = Soak(given.seed, given.trials, work)
    numbers = iter(range(given.rounds) if given.round is None else [given.round])

    def rounds(_: int) -> None:
        while time.monotonic() < begun + 60 * given.minutes:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            soak.round(number)

    with ThreadPoolExecutor(given.side_by_side) as pool:
        list(pool.map(rounds, range(given.side_by_side)))
    for name, count in sorted(soak.counts.items()):
        print(f"{count:7}  {name}")
    alone = statistics.median(soak.seconds.values()) if soak.seconds else 0.0
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)  # without workers that were killed
    cpu_s = (of_children.ru_utime + of_children.ru_stime) / max(1, soak.counts["rounds"])
    minutes = (time.monotonic() - begun) / 60
    print(
        f"seed {given.seed}, {minutes:.1f} minutes, {cpu_s:.0f} CPU seconds a round, an undisturbed run {alone:.0f} s"
    )
    print(json.dumps({"rounds": soak.counts["rounds"], "violations": soak.violations}))
    if soak.violations:
        sys.exit(f"{soak.violations} rounds violated an invariant; their folders are in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
