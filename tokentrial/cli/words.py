"""What the verbs of the command line share: their arguments and options, JSON for a machine, a console for a person."""

import re
import sys
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console


def _trials(incomplete: str) -> list[str]:
    """Shipped trials and trial files that begin so, for a shell's completion."""
    from tokentrial.trial.load import shipped

    return [*(name for name in shipped() if name.startswith(incomplete)), *sorted(glob(f"{escape(incomplete)}*.yaml"))]


TrialArgument = Annotated[
    str,
    typer.Argument(metavar="TRIAL", help="a trial file, or a shipped trial such as pilot", autocompletion=_trials),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="overrides, such as pretrain.steps=200")
]
ArmOption = Annotated[str | None, typer.Option("--arm", "--arms", help="only these arms, as A,B")]
SeedOption = Annotated[str | None, typer.Option("--seed", "--seeds", help="only these seeds, as 1,2")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="replace results made with other settings; the new ones are exploratory")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="OUT", help="a run folder, such as outputs/pilot")]


def gigabytes(amount: str) -> float:
    """`20GB`, `500MB` or `1.5TB`, in GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|TB)", amount, re.IGNORECASE)
    if not match:
        raise SettingsError(f"--disk-limit {amount!r}: expected a size such as 20GB, 500MB or 1.5TB")
    return float(match[1]) * {"MB": 1e-3, "GB": 1.0, "TB": 1e3}[match[2].upper()]


def counted(n: int, thing: str) -> str:
    """`1 token`, `1,045 tokens`."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    print_bytes(orjson.dumps(value, option=options))


def print_bytes(data: bytes) -> None:
    """What a machine reads goes out in UTF-8, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def console() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def show_report(report: "Mapping[str, Any]", folder: Path) -> None:
    """A report at the end of a run, and where its page is."""
    from tokentrial.report.text_report import print_report

    print_report(report, console())
    print(f"Report: {folder / 'report.html'}")
