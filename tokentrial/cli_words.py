"""What the verbs of the command line share: their arguments and options, and JSON for a machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

TrialArgument = Annotated[str, typer.Argument(metavar="TRIAL", help="a trial file, or a shipped trial such as pilot")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings on top, such as pretrain.steps=200")
]
ArmOption = Annotated[str | None, typer.Option("--arm", help="only this arm")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="only this seed")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for a machine")]
FolderArgument = Annotated[Path, typer.Argument(metavar="OUT", help="a run folder, such as outputs/pilot")]


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import orjson

    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
