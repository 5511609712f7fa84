"""What Ray costs a cell: 64 cells of the smoke trial up to its first evaluation, by each executor, on this machine.

    python benchmarks/executors.py                # about five minutes on two cores
    python benchmarks/executors.py --cells 8      # a first look

Both have as many workers, one thread each, and the same corpus. What starting and ending an executor takes stands
apart; each worker's imports are in the cells' time of both. The overhead of a cell is in seconds of a worker.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

LIMIT_S = 1.0  # of overhead a cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64, help="an even number: two arms")
    given = parser.parse_args()
    from tokentrial.executors.local import LocalExecutor
    from tokentrial.executors.ray import RayExecutor
    from tokentrial.executors.worker import cores
    from tokentrial.run.run import run
    from tokentrial.steps.cell import cells
    from tokentrial.store.files import read_json
    from tokentrial.trial.load import load

    workers, seconds, losses = cores(), {}, {}
    kinds: dict[str, Callable[[int], Any]] = {"local": LocalExecutor, "ray": RayExecutor}
    print(f"{given.cells} cells, {workers} workers\n{'executor':10}{'start s':>10}{'cells s':>10}{'end s':>10}")
    with tempfile.TemporaryDirectory(prefix="tokentrial") as work:
        for name, kind in kinds.items():
            settings = "arms=[baseline,mul_tokens]", f"seeds={list(range(1, given.cells // 2 + 1))}", "sft=null"
            trial = load("smoke", [*settings, "grpo=null", "verdict.secondary=[]", f"output={work}/{name}"])
            run(trial, ("corpus",))
            times = timed(kind(workers), trial)
            seconds[name] = times[1]
            print(f"{name:10}" + "".join(f"{took:10.1f}" for took in times), flush=True)
            made = [cell.folder(trial, "pretrain") / "results.json" for cell in cells(trial)]
            losses[name] = [read_json(path)["train_losses"] for path in made]
    overhead = (seconds["ray"] - seconds["local"]) * workers / given.cells
    print(f"overhead of a cell: {overhead:.2f} s, at most {LIMIT_S:g}")
    print(json.dumps({"overhead_s": overhead, "ray_to_local": seconds["ray"] / seconds["local"]}))
    if losses["ray"] != losses["local"]:
        sys.exit("the executors' losses differ")
    if overhead > LIMIT_S:
        sys.exit("over a limit")


def timed(executor: Any, trial: Any) -> list[float]:
    """Seconds to start the executor, to run all cells of the trial, and to end it."""
    from tokentrial.executors.worker import Call
    from tokentrial.run.cells import run_cell
    from tokentrial.steps.cell import cells
    from tokentrial.steps.stage import stage_names

    calls = [Call(cell.name, run_cell, (trial, cell, stage_names(trial))) for cell in cells(trial)]
    marks = [time.perf_counter()]
    with executor:
        marks.append(time.perf_counter())
        executor.run(calls, lambda report: None)
        marks.append(time.perf_counter())
    marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)]


if __name__ == "__main__":
    main()
