"""The verbs of what is declared and found: declaration, outcomes to choose from, more seeds, the table of results."""

from pathlib import Path
from typing import Annotated

import typer

from tokentrial.cli.words import (
    FolderArgument,
    JsonOption,
    Overrides,
    TrialArgument,
    print_bytes,
    print_json,
    show_report,
)
from tokentrial.errors import SettingsError


def declare(trial: TrialArgument, overrides: Overrides = None) -> None:
    """Print what a trial declares, and its sha256.

    To be published before the run, which writes the same into declared.json; every result and the report carry the
    sha256. Nothing is written here.

    Example: tokentrial declare pilot > pilot-declared.json
    """
    from tokentrial.run.check import check
    from tokentrial.run.declaration import declaration
    from tokentrial.trial.declaration import declaration_hash
    from tokentrial.trial.load import load

    loaded = load(trial, overrides or ())
    check(loaded)
    declared = declaration(loaded)
    print_json({"sha256": declaration_hash(declared), "declaration": declared})


def outcomes(trial: TrialArgument, overrides: Overrides = None, json: JsonOption = False) -> None:
    """List the outcomes that a trial may declare.

    Example: tokentrial outcomes pilot
    """
    from tokentrial.report.outcomes import known_outcomes, outcome_label
    from tokentrial.run.check import measured_stages
    from tokentrial.trial.load import load

    loaded = load(trial, overrides or ())
    names = known_outcomes(loaded, measured_stages(loaded))
    if json:
        print_json(names)
        return
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {outcome_label(name)}")


def extend(
    out: FolderArgument,
    seeds: Annotated[int | None, typer.Argument(min=1, help="how many seeds to add")] = None,
) -> None:
    """Continue to the next declared look, or add seeds.

    Seeds that were not declared do not enter the verdict: they are exploratory. Where an interrupted `extend` has left
    some unfinished, these are finished, and no others are added.

    Example: tokentrial extend outputs/pilot 6
    """
    from tokentrial.run import run as runs
    from tokentrial.run.run_folder import open_run, unfinished_added_seeds

    trial = open_run(out)
    unfinished = unfinished_added_seeds(trial)
    if seeds is None and trial.verdict.looks is None and not unfinished:
        raise SettingsError(f"{out}: its trial declares no looks; say how many seeds to add, such as 6")
    if unfinished and seeds:
        print(f"the seeds {unfinished}, which were added before, are finished; the same command then adds more")
    more = [] if unfinished else [trial.unused_seed + number for number in range(seeds or 0)]
    # looks are of the declared seeds: those added lie beyond the last one
    trial = trial.model_copy(update={"seeds": [*trial.seeds, *more]})
    if report := runs.run(trial):
        show_report(report, out)


def verdict(out: FolderArgument, json: JsonOption = False) -> None:
    """Print the verdict of a run, and exit with its code.

    0 helps, 10 hurts, 11 no difference shown, 12 equivalent, 13 the control has not learnt, 14 no verdict: not whole
    yet, or not as declared. Errors are 1 and 2.

    Example: tokentrial verdict outputs/pilot --json
    """
    from tokentrial.report.narrative import verdict_sentence
    from tokentrial.run.run import rebuild
    from tokentrial.statistics.decision import EXIT_CODES, NO_VERDICT

    report = rebuild(out)  # at once where nothing changed
    primary = report["contrasts"][0]
    if json:
        keys = ("outcome", "treatment", "control", "verdict", "difference", "interval", "p", "seeds", "note")
        print_json({key: primary[key] for key in keys} | {"declaration": report["declaration"]})
    else:
        print(verdict_sentence(report))
    text = primary["verdict"] or ""
    raise typer.Exit(next((code for words, code in EXIT_CODES.items() if text.startswith(words)), NO_VERDICT))


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown instead")] = False,
) -> None:
    """Print the JSON schema of a trial, with every setting explained.

    Editors read it: the shipped trials name it in their first line.

    Example: tokentrial schema > schema.json
    """
    from tokentrial.trial.trial import Trial

    described = Trial.model_json_schema()
    if markdown:
        from tokentrial.trial.reference import settings_page

        print(settings_page(described), end="")
    else:
        print_json({"$schema": "https://json-schema.org/draft/2020-12/schema"} | described)


def results(
    out: FolderArgument,
    items: Annotated[bool, typer.Option("--items", help="include every fact and every answer")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="write a .parquet or .csv file instead of printing")] = None,
) -> None:
    """Print or export the table of all results.

    Its columns are arm, seed, stage, task, subset, metric and value; with --items also item and fact.

    Example: tokentrial results outputs/pilot --items --to results.csv
    """
    from tokentrial.report.results import export_results

    if to is None:
        print_bytes(export_results(out, items, "csv"))
        return
    if to.suffix not in (".csv", ".parquet"):
        raise SettingsError(f"--to {to}: expected a name that ends in .csv or .parquet")
    from tokentrial.store.files import write_bytes

    write_bytes(to, export_results(out, items, to.suffix[1:]))
    print(to)


VERBS = (declare, outcomes, extend, verdict, results, schema)
