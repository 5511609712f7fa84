"""One cell as a group of processes: torchrun starts them, and they live no longer than this one.

Of several machines this one is the first; on the others torchrun is called by hand, see docs/scaling.md.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from tokentrial.errors import Interrupted, TrialError
from tokentrial.executors.worker import STOP_SIGNALS, die_with_parent, stoppable
from tokentrial.trial.pretraining import Pretrain

_PROGRESS, _ERROR = "@progress ", "tokentrial: "


def launch(ranks: int, settings: Pretrain, arguments: Sequence[str], progress: Callable[[float, str], None]) -> None:
    """Run `tokentrial.run.rank` with these arguments, folder, arm and seed, in so many processes. Raises TrialError
    with what they said where they fail."""
    cell = f"{arguments[-2]}/seed{arguments[-1]}"
    rendezvous = ["--standalone"]
    if settings.rdzv_endpoint and settings.nnodes > 1:
        host, port = settings.rdzv_endpoint.split(":")
        # the static rendezvous numbers the nodes as they say: the first rank, which writes, is here
        rendezvous = [f"--nnodes={settings.nnodes}", "--node-rank=0", f"--master-addr={host}", f"--master-port={port}"]
    handled = f"--signals-to-handle={','.join(number.name for number in STOP_SIGNALS)}"
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={ranks}", handled]
    with stoppable() as stop:
        group = subprocess.Popen(
            [*command, "-m", "tokentrial.run.rank", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which decides
            preexec_fn=die_with_parent,
        )
        # the word to stop reaches this process, whose call is blocked in reading: it is passed on from a handler
        previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

        passed_on = False

        def terminate_group(number: int, frame: object) -> None:
            nonlocal passed_on
            passed_on = True
            group.terminate()
            if callable(handler := previous[signal.Signals(number)]):
                handler(number, frame)  # type: ignore[arg-type]

        for number in STOP_SIGNALS:
            signal.signal(number, terminate_group)
        if stop() and not passed_on:  # it came before the handlers were there
            group.terminate()
        output: list[str] = []
        try:
            assert group.stdout is not None
            for line in group.stdout:
                if line.startswith(_PROGRESS):
                    share, _, text = line.removeprefix(_PROGRESS).rstrip().partition(" ")
                    progress(float(share), text)
                else:
                    output.append(line)
            code = group.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if group.poll() is None:
                os.killpg(group.pid, signal.SIGKILL)
        if code and stop():
            raise Interrupted(f"{cell}: stopped; the same command resumes from the last checkpoint")
        if code:
            # several ranks say the same
            errors = dict.fromkeys(line.removeprefix(_ERROR).rstrip() for line in output if line.startswith(_ERROR))
            if not errors and any("SIGKILL" in line for line in output):
                raise TrialError(
                    f"{cell}: a rank of pretraining was killed, perhaps for lack of memory; run the same command "
                    "again, with a smaller pretrain.micro_batch if memory is short"
                )
            raise TrialError("\n".join(errors) or f"{cell}: torchrun failed:\n{''.join(output[-30:])}")


def print_error(error: TrialError) -> None:
    """An error from a rank to the process that launched it, which finds each of its lines among those of torchrun."""
    print("\n".join(f"{_ERROR}{line}" for line in str(error).splitlines()), flush=True)


def print_progress(share: float, text: str) -> None:
    """Progress from the first rank to the process that launched it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{_PROGRESS}{share:.5f} {text}", flush=True)
