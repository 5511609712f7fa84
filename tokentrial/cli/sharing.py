"""The verbs that hand results on: a bundle, and models to and from the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from tokentrial.cli.words import FolderArgument


def bundle(
    out: FolderArgument,
    to: Annotated[Path | None, typer.Option(help="the file to write; OUT.zip if left out")] = None,
) -> None:
    """Pack a run's results into one file that compare reads.

    It holds trial, report, samples, hashes and a table for a paper.

    Example: tokentrial bundle outputs/pilot
    """
    from tokentrial.publish.bundle import write_bundle

    path = write_bundle(out, to)
    print(f"Bundle: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def push(
    cell: Annotated[Path, typer.Argument(metavar="OUT/ARM/seedK", help="a cell of a run folder")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="its name on the Hub, such as me/pilot-seed1")],
    stage: Annotated[str, typer.Option(help="the model after this stage: pretrain, sft or grpo")] = "pretrain",
    public: Annotated[bool, typer.Option("--public", help="for all to see, where the repository is new")] = False,
) -> None:
    """Upload a cell's model to the Hugging Face Hub, privately.

    Its tokenizer and card go with it; --public is for all to see.

    Example: tokentrial push outputs/pilot/baseline/seed1 me/pilot-seed1
    """
    from tokentrial.publish.hub import push as upload

    print(f"Model: {upload(cell, name, stage, public)}")


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a model on the Hub, such as me/pilot-seed1")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
) -> None:
    """Download a model from the Hugging Face Hub into a folder.

    The folder is what `evaluate --model` reads.

    Example: tokentrial pull me/pilot-seed1 models/pilot-seed1
    """
    from tokentrial.publish.hub import pull as download

    print(f"{folder}: {', '.join(download(name, folder))}")


VERBS = (bundle, push, pull)
