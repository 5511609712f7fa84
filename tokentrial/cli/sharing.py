"""The commands that share results: `bundle`, and `push` and `pull` of models on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from tokentrial.cli.words import FolderArgument


def bundle(
    out: FolderArgument,
    to: Annotated[Path | None, typer.Option(help="the file to write; OUT.zip if left out")] = None,
) -> None:
    """Pack a run's results into one file, which `compare` reads.

    It holds the trial, the report, all samples, file hashes and a LaTeX table.

    Example: tokentrial bundle outputs/pilot
    """
    from tokentrial.publish.bundle import write_bundle

    path = write_bundle(out, to)
    print(f"Bundle: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def push(
    cell: Annotated[Path, typer.Argument(metavar="OUT/ARM/seedK", help="a cell of a run folder")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="its name on the Hub, such as me/pilot-seed1")],
    stage: Annotated[str, typer.Option(help="the model after this stage: pretrain, sft or grpo")] = "pretrain",
    public: Annotated[
        bool, typer.Option("--public", help="create the repository as public instead of private")
    ] = False,
) -> None:
    """Upload a cell's model, tokenizer and model card to the Hugging Face Hub.

    A new repository is private unless --public is given.

    Example: tokentrial push outputs/pilot/baseline/seed1 me/pilot-seed1
    """
    from tokentrial.publish.hub import push as upload

    print(f"Model: {upload(cell, name, stage, public)}")


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a model on the Hub, such as me/pilot-seed1")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
) -> None:
    """Download a model from the Hugging Face Hub into a new folder.

    `evaluate --model` reads that folder.

    Example: tokentrial pull me/pilot-seed1 models/pilot-seed1
    """
    from tokentrial.publish.hub import pull as download

    print(f"{folder}: {', '.join(download(name, folder))}")


VERBS = (bundle, push, pull)
