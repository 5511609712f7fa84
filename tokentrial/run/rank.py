"""One rank of a cell's pretraining: what torchrun starts, here or on several machines.

torchrun --nnodes=2 --node-rank=1 --master-addr=HOST --master-port=29500 --nproc-per-node=8 \
    -m tokentrial.run.rank OUT ARM SEED
"""

import signal
import sys
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.executors import worker
from tokentrial.pretrain.launch import print_error, print_progress
from tokentrial.run.run_folder import open_run
from tokentrial.steps.cell import Cell
from tokentrial.steps.pretrain import train_rank
from tokentrial.steps.stage import Job
from tokentrial.store.disk import translate_os_errors
from tokentrial.store.folders import partial
from tokentrial.store.storage import Storage
from tokentrial.store.tuned import arm_trial


def main(out: str, arm: str, seed: str) -> None:
    """Pretrain a cell of the run folder `out` together with the other ranks; `tokentrial pretrain` on the first node,
    which waits for the others, makes it a finished step."""
    worker.die_with_parent()
    for number in worker.STOP_SIGNALS:
        signal.signal(number, worker.told_to_stop)
    try:
        corpus, cell = CorpusPlan(arm_trial(open_run(Path(out)), arm)), Cell(arm, int(seed))
        folder = partial(cell.folder(corpus.trial, "pretrain"))
        checkpoints = cell.checkpoints(corpus.trial, "pretrain", cell.fingerprints(corpus)["pretrain"])
        save = Storage(corpus.trial).send_checkpoint
        with translate_os_errors(folder):
            train_rank(Job(corpus, cell, folder, corpus.folder, checkpoints, print_progress, save))
    except TrialError as error:
        print_error(error)
        sys.exit(error.code)


if __name__ == "__main__":
    main(*sys.argv[1:])
