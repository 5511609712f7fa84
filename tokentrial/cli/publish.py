"""The commands that share results: `collect` and `bundle`, and `push` and `pull` of models on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from tokentrial.cli.words import FolderArgument, counted, show_report


def bundle(
    out: FolderArgument,
    to: Annotated[Path | None, typer.Option(help="the file to write; OUT.zip if left out")] = None,
) -> None:
    """Pack a run's results into one file, which `compare` reads.

    It holds the trial, the report, all samples (those of a sweep, a ladder or reruns left out), the table of results,
    file hashes and a LaTeX table.

    Example: tokentrial bundle outputs/pilot
    """
    from tokentrial.publish.bundle import write_bundle

    path = write_bundle(out, to)
    print(f"Bundle: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def collect(
    runs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="run folders of the same trial")],
    to: Annotated[Path, typer.Option(help="where to join them: a new folder, or one of OUT")],
) -> None:
    """Join cells from several machines in one run folder, and report.

    The folders must have the same declaration hash. Run all arms of a seed on one machine.

    Example: tokentrial collect laptop/pilot server/pilot --to outputs/joined
    """
    from tokentrial.run.collect import collect as join
    from tokentrial.run.run import rebuild

    joined = join(runs, to)
    print(f"{to}: {counted(len(joined), 'result')} joined")
    show_report(rebuild(to), to)


def push(
    cell: Annotated[Path, typer.Argument(metavar="OUT/ARM/seedK", help="a cell of a run folder")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="its name on the Hub, such as me/pilot-seed1")],
    stage: Annotated[str, typer.Option(help="the model after this stage: pretrain, sft or grpo")] = "pretrain",
    public: Annotated[
        bool, typer.Option("--public", help="create the repository as public instead of private")
    ] = False,
) -> None:
    """Upload a model with its card to the Hugging Face Hub.

    A finished trial's results go to the data set NAME-results. A new repository is private unless --public is given.

    Example: tokentrial push outputs/pilot/baseline/seed1 me/pilot-seed1
    """
    from tokentrial.publish.hub import push as upload

    for what, address in zip(("Model", "Results"), upload(cell, name, stage, public), strict=False):
        print(f"{what}: {address}")


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a model on the Hub, such as me/pilot-seed1")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
) -> None:
    """Download a model from the Hugging Face Hub.

    `evaluate --model` reads that folder.

    Example: tokentrial pull me/pilot-seed1 models/pilot-seed1
    """
    from tokentrial.publish.hub import pull as download

    print(f"{folder}: {', '.join(download(name, folder))}")


VERBS = (collect, bundle, push, pull)
