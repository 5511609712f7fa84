"""The verbs that look at texts: through an arm, and what a trained model says to one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokentrial.cli.words import JsonOption, console, print_json
from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    from tokentrial.inspection.side_by_side import Column

HtmlOption = Annotated[Path | None, typer.Option("--html", help="also write an HTML page")]


def inspect(
    text: Annotated[str, typer.Argument(help="a text; \\n stands for a newline")],
    arm: Annotated[list[str], typer.Option("--arm", help="the arm to show; repeatable")],
    trial: Annotated[
        str | None, typer.Option("--trial", help="trial whose vocabulary to use; GPT-2's if left out")
    ] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Show how arms see a text: sites, tokens, ids, plain text.

    Example: tokentrial inspect 'so 6*9=54.' --arm baseline
    """
    from tokentrial.inspection.inspect import inspect_text, inspection_column
    from tokentrial.trial.load import load

    loaded = load(trial) if trial else None
    seen = [inspect_text(_typed(text), name, loaded) for name in dict.fromkeys(arm)]
    _tell(seen, {record["arm"]: inspection_column(record) for record in seen}, html, json)


def sample(
    cells: Annotated[list[Path], typer.Argument(metavar="OUT/ARM/seedK...", help="cells of runs, shown side by side")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="the text to continue; \\n stands for a newline")],
    stage: Annotated[str, typer.Option(help="the model after this stage: pretrain, sft or grpo")] = "pretrain",
    new_tokens: Annotated[int, typer.Option(min=1, help="at most so many")] = 40,
    temperature: Annotated[float | None, typer.Option(min=0.01, help="for sampling; greedy if left out")] = None,
    seed: Annotated[int, typer.Option(help="of the sampling")] = 0,
    top: Annotated[int, typer.Option(min=1, help="how many likely next tokens and answers to show")] = 5,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Show how trained models continue a text, side by side.

    Below it: the likely next tokens, and likely answers if the text asks about a fact.

    Example: tokentrial sample outputs/pilot/baseline/seed1 'User: What is 6 times 9?\\nAssistant: The answer is'
    """
    from tokentrial.inspection.sample import sample as ask
    from tokentrial.inspection.sample import sample_column

    if option := next((str(cell) for cell in cells if str(cell).startswith("-")), None):
        raise SettingsError(f"sample: there is no option {option}; expected cells such as OUT/ARM/seedK")
    answers = {
        str(cell): ask(cell, _typed(prompt), stage, new_tokens, temperature, seed, top) for cell in dict.fromkeys(cells)
    }
    _tell([*answers.values()], {cell: sample_column(answer) for cell, answer in answers.items()}, html, json)


def _typed(text: str) -> str:
    as_utf8 = os.fsencode(text).decode(errors="replace")  # an ASCII locale hands its bytes over one by one
    return as_utf8.replace("\\n", "\n")


def _tell(records: Sequence[Mapping[str, Any]], columns: "Mapping[str, Column]", html: Path | None, json: bool) -> None:
    """To a page, where one is asked for, and to a machine or a person."""
    from tokentrial.inspection.side_by_side import html_page, print_columns
    from tokentrial.store.files import write_bytes

    if html is not None:
        write_bytes(html, html_page("tokentrial", columns).encode())
    if json:
        print_json(records[0] if len(records) == 1 else records)
    else:
        print_columns(columns, console())


def doctor(
    measure: Annotated[bool, typer.Option(help="time training steps, to estimate the pilot's duration")] = True,
    json: JsonOption = False,
) -> None:
    """Check this machine and installation. Nothing is sent anywhere.

    Example: tokentrial doctor
    """
    from tokentrial.inspection.doctor import examine

    findings = []
    for finding in examine(measure):
        findings.append(finding._asdict())
        if not json:
            print(f"{finding.name:11} {finding.found}" + (f"\n{'->':>11} {finding.advice}" if finding.advice else ""))
    if json:
        print_json(findings)


VERBS = (inspect, sample, doctor)
