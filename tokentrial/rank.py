"""One rank of a cell's pretraining: what torchrun starts, here or on several machines.

torchrun --nnodes=2 --node-rank=1 --master-addr=HOST --master-port=29500 --nproc-per-node=8 \
    -m tokentrial.rank OUT ARM SEED
"""

import signal
import sys
from pathlib import Path

from tokentrial.cell import Cell, pretrain_cell
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.executors import worker
from tokentrial.opened import open_run
from tokentrial.pretrain.launch import print_progress
from tokentrial.store import machine_errors, partial


def main(out: str, arm: str, seed: str) -> None:
    """Pretrain a cell of the run folder `out` together with the other ranks; `tokentrial pretrain` on the first node,
    which waits for the others, makes it a finished step."""
    worker.die_with_parent()
    signal.signal(signal.SIGTERM, worker.told_to_stop)
    try:
        plan = CorpusPlan(open_run(Path(out)))
        cell = Cell(arm, int(seed))
        folder = partial(cell.folder(plan.trial, "pretrain"))
        checkpoints = cell.checkpoints(plan.trial, "pretrain", cell.fingerprint(plan))
        with machine_errors(folder):
            pretrain_cell(plan, cell, folder, checkpoints, print_progress)
    except TrialError as error:
        print(f"tokentrial: {error}", flush=True)
        sys.exit(error.code)


if __name__ == "__main__":
    main(*sys.argv[1:])
