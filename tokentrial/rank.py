"""One rank of a cell's pretraining: what torchrun starts, here or on several machines.

torchrun --nnodes=2 --nproc-per-node=8 ... -m tokentrial.rank OUT ARM SEED FOLDER CHECKPOINTS
"""

import signal
import sys
from pathlib import Path

from tokentrial.cell import Cell, pretrain_cell
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.executors import local
from tokentrial.pretrain.launch import tell
from tokentrial.run import open_run
from tokentrial.store import machine_errors


def main(out: str, arm: str, seed: str, folder: str, checkpoints: str) -> None:
    """Pretrain the cell of the run folder `out` into `folder`, together with the other ranks."""
    local.die_with_parent()
    signal.signal(signal.SIGTERM, local.told_to_stop)
    try:
        plan = CorpusPlan(open_run(Path(out)))
        with machine_errors(Path(folder)):
            pretrain_cell(plan, Cell(arm, int(seed)), Path(folder), Path(checkpoints), tell)
    except TrialError as error:
        print(f"tokentrial: {error}", flush=True)
        sys.exit(error.code)


if __name__ == "__main__":
    main(*sys.argv[1:])
