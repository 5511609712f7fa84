"""A round: one trial, the commands that are given, and what has to hold after each."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.soak.state import Step, differences, steps, whole
from tests.soak.trials import Trial

ROOT = Path(__file__).resolve().parents[2]
MARK = "TOKENTRIAL_SOAK"  # in the environment of every process of a round, by which strays are found
PATIENCE_S = 600.0


class Round:
    """One trial and what happens to it. `kept` are steps that must not change any more, `backups` the bytes of what
    was damaged. An invariant that does not hold is an AssertionError, which ends the round."""

    def __init__(self, place: Path, trial: Trial, name: str, executor: str = "local") -> None:
        self.rng, self.place, self.trial, self.name = random.Random(name), place, trial, name
        self.cwd, self.folder, self.storage, self.disk = place, place / "run", place / "storage", place / "disk"
        self.local = [f"workers={self.rng.choice([1, 1, 1, 2])}", f"executor={executor}", "disk_reserve_gb=0"]
        self.kept: dict[str, Step] = {}
        self.backups: dict[Path, bytes] = {}
        self.commands, self.notes = 0, Counter[str]()

    def words(self, verb: str, *more: str) -> list[str]:
        """A verb that works on the trial."""
        output = self.folder if self.cwd == self.place else os.path.relpath(self.folder, self.cwd)
        return [verb, "smoke", *self.trial.words, f"output={output}", *self.local, *more]

    def start(self, words: list[str]) -> "subprocess.Popen[bytes]":
        """Start a command in a session of its own; what it prints goes to a file beside the run."""
        self.commands += 1
        environment = os.environ | {"PYTHONPATH": str(ROOT), MARK: self.name, "RAY_AUTH_TOKEN": "0" * 32}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each worker would compile PyTorch anew
        with (self.place / f"command{self.commands:02d}.txt").open("wb") as out:
            out.write(f"{self.cwd}$ tokentrial {' '.join(words)}\n".encode())
            out.flush()
            command = [sys.executable, "-m", "tokentrial", *words]
            return subprocess.Popen(
                command, cwd=self.cwd, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def end(self, process: "subprocess.Popen[bytes]", codes: list[int], number: int = 0) -> tuple[int, str]:
        """The exit code of a command and what it printed: none but these codes, and never a traceback."""
        path = self.place / f"command{number or self.commands:02d}.txt"
        code, printed = process.wait(PATIENCE_S), path.read_text(errors="replace")
        self.notes[f"exit code {code}"] += 1
        assert "Traceback (most recent call last)" not in printed, f"{path.name}: {printed.strip()[-300:]}"
        assert code in codes, f"{path.name}: exit code {code}, expected {codes}: {printed.strip()[-300:]}"
        return code, printed

    def run(self, words: list[str], *codes: int) -> tuple[int, str]:
        ended = self.end(self.start(words), [*(codes or (0,))])
        self.settle()
        return ended

    def settle(self) -> None:
        """Once no command runs: no process lives on, and what was finished stands as it did."""
        # Ray's own processes take their time to notice that theirs was killed
        end = time.monotonic() + (180 if "executor=ray" in self.local else 60)
        while strays := self.processes():
            assert time.monotonic() < end, f"processes live on: {[*strays.values()]}"
            time.sleep(0.05)
        now = steps(self.folder)
        for name, step in self.kept.items():
            assert now.get(name) == step, f"{name}: finished, and now {'not the same' if name in now else 'lost'}"
        self.kept = {name: step for name, step in now.items() if not step.damaged}

    def processes(self, word: str = "") -> dict[int, str]:
        """Processes of this round whose command line holds a word."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.name}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if line and word in line:  # a zombie has none
                        found[int(entry.name)] = line
        return found

    def complete(self) -> None:
        """Give the same command until it ends, doing what it says where a file was damaged."""
        for _ in range(8):
            code, printed = self.run(self.words("run"), *((0, 1, 2) if self.backups else (0,)))
            if code == 0:
                return
            message = printed.split("tokentrial: ")[-1]
            if found := re.search(r"delete (.+?) and run", message):
                path = (self.cwd / (message.split(": ")[0] if found[1] == "it" else found[1])).resolve()
                assert path.exists(), f"is told to delete {path}: {message[-300:]}"
                assert path.is_relative_to(self.place.resolve()), f"is told to delete {path}: {message[-300:]}"
                self.remove(path)
                self.notes["refused: deleted what was named"] += 1
            else:
                for path, data in self.backups.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                self.backups = {}
                self.notes["refused: put back what was damaged"] += 1
        raise AssertionError(f"the same command does not end: {message[-300:]}")

    def is_finished(self, twin: Path) -> bool:
        return steps(twin).keys() <= whole(self.folder).keys() and (self.folder / "comparison_report.json").exists()

    def lose_work(self) -> None:
        """A cell loses what it has from a random stage on; seldom the corpus goes."""
        cell = f"{self.rng.choice(self.trial.arms)}/seed{self.rng.choice(self.trial.seeds)}"
        order = ["pretrain", "hf", "eval_pretrain", "sft", "eval_sft", "grpo", "eval_grpo"]
        lost = [f"{cell}/{stage}" for stage in order[self.rng.randrange(3) :]]
        lost += [self.rng.choice(["corpus", "corpus/drills", "corpus/surveys"])] if self.rng.random() < 0.15 else []
        self.remove(*(self.folder / name for name in [*lost, "comparison_report.json"]))

    def remove(self, *paths: Path) -> None:
        """Delete files or steps."""
        for path in paths:
            self.release(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def release(self, path: Path) -> None:
        """Of the steps that must not change leave out the one that a file is in, and all that lie in a folder."""
        path, folder = path.resolve(), self.folder.resolve()
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else "-"
        step = name if (path / "manifest.json").exists() else name.rpartition("/")[0]
        self.kept = {kept: of for kept, of in self.kept.items() if not f"{kept}/".startswith((f"{step}/", f"{name}/"))}

    def damage(self, path: Path) -> None:
        """Flip a bit, cut, empty, lengthen or delete a file."""
        self.release(path)
        data = self.backups.setdefault(path, path.read_bytes())
        kind, at = (
            self.rng.choice(["flip", "flip", "cut", "empty", "longer", "gone"]),
            self.rng.randrange(len(data) or 1),
        )
        seal = data.find(b"sha256_of_content")
        if 0 <= seal <= at < seal + len("sha256_of_content"):  # without a seal it is of an earlier release
            at = 0
        flipped = data[:at] + bytes([byte ^ 1 for byte in data[at : at + 1]]) + data[at + 1 :]
        path.write_bytes({"flip": flipped, "cut": data[:at], "longer": data + b"\n"}.get(kind, b""))
        if kind == "gone":
            path.unlink()
        self.notes[f"damage: {kind}"] += 1

    def check_end(self, twin: Path) -> None:
        """The run is as its twin; what is damaged and was not read since is found by who looks for it."""
        for name, step in steps(self.folder).items():
            for path in [self.folder / name / file for file in step.damaged]:
                # a damaged manifest may say of a file that is whole that it is not
                hurt = next((it for it in (path, path.with_name("manifest.json")) if it in self.backups), None)
                assert hurt, f"{path}: damaged by nobody"
                bundle = ["bundle", str(self.folder), "--to", str(self.place / "bundle.zip")]
                looks = self.words("corpus", "--verify", "--full") if name.startswith("corpus") else bundle
                assert path.name in self.run(looks, 1)[1], f"{path}: damaged, and not found"
                hurt.write_bytes(self.backups[hurt])
                self.notes["damage that nothing read was found as asked for"] += 1
        assert not (litter := [*self.folder.rglob("*.partial*")]), f"litter: {litter}"
        assert not (found := differences(twin, self.folder)), f"not as its twin: {'; '.join(found[:10])}"
