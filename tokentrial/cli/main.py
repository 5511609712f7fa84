"""The command line: one verb a command. Imports stay inside the verbs, so that `--help` answers at once."""

import io
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokentrial import __version__
from tokentrial.cli import declaration, inspection, publish, stages
from tokentrial.cli.help import GroupedCommands
from tokentrial.cli.words import (
    ArmOption,
    FolderArgument,
    JsonOption,
    Overrides,
    OverwriteOption,
    SeedOption,
    TrialArgument,
    console,
    counted,
    gigabytes,
    print_json,
    show_report,
)
from tokentrial.errors import SettingsError, TrialError
from tokentrial.executors.worker import leave_group
from tokentrial.store.disk import translate_os_errors

app = typer.Typer(
    name="tokentrial",
    cls=GroupedCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tokentrial {__version__}")
        raise typer.Exit


@app.callback()
def tokentrial(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """Controlled trials of domain tokens: does one token per fact help a small language model?

    Example: tokentrial run pilot
    """


@app.command()
def run(
    trial: TrialArgument,
    overrides: Overrides = None,
    stages: Annotated[str | None, typer.Option(help="only these stages now, as A,B")] = None,
    arm: ArmOption = None,
    seed: SeedOption = None,
    also: Annotated[
        list[str] | None, typer.Option(help="rerun the primary contrast with KEY=VALUE, such as budget.match=bytes")
    ] = None,
    disk_limit: Annotated[
        str | None, typer.Option(help="largest size of the run folder, such as 20GB (disk_limit_gb)")
    ] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(help="run the whole seeds of all arms that fit; the rest stays pending")
    ] = None,
    overwrite: OverwriteOption = False,
    placebo: Annotated[
        bool,
        typer.Option("--placebo", help="instead, the control against itself on other seeds, to show the noise"),
    ] = False,
) -> None:
    """Run a whole trial: every arm on every seed, to the verdict. What is done is skipped.

    --stages, --arm and --seed choose which part is run now; the trial stays the same.

    Example: tokentrial run pilot pretrain.steps=200 'seeds=[1,2]'
    """
    from tokentrial.run import run as runs
    from tokentrial.run.selection import select
    from tokentrial.trial.load import load, parse

    limits = [f"disk_limit_gb={gigabytes(disk_limit)}"] if disk_limit else []
    loaded = load(trial, [*(overrides or ()), *limits])
    if placebo:
        from tokentrial.run.placebo import print_placebo, run_placebo

        options = {"--also": also, "--stages": stages, "--arm": arm, "--seed": seed, "--budget-minutes": budget_minutes}
        if given := [option for option, value in options.items() if value is not None]:
            raise SettingsError(f"--placebo and {given[0]}: the placebo is the control on all seeds; leave one out")
        print_placebo(run_placebo(loaded, overwrite), console())
        return
    if also:
        reruns = list(dict.fromkeys([*loaded.robustness_reruns, *also]))
        loaded = parse(loaded.model_dump(mode="json") | {"robustness_reruns": reruns}, "--also")
    chosen = select(loaded, stages, arm, seed)
    report = runs.run(loaded, chosen.stages, chosen.cells, overwrite, budget_minutes)
    if report:
        show_report(report, loaded.folder)
    elif budget_minutes is not None:
        print(f"{loaded.folder}: what fits the budget is done; run the same command for the rest")
    else:
        print(f"{loaded.folder}: {chosen.words} done; the same command without --stages, --arm, --seed does the rest")


@app.command()
def plan(
    trial: TrialArgument,
    overrides: Overrides = None,
    device: Annotated[
        list[str] | None, typer.Option(help="only this one: A40, 2xA40, ..., 'this machine'; repeatable")
    ] = None,
    price: Annotated[list[str] | None, typer.Option(help="dollars per hour, such as A40=0.35; repeatable")] = None,
    budget: Annotated[float | None, typer.Option(help="dollars: shows which sizes and how many seeds they buy")] = None,
    noise: Annotated[float | None, typer.Option(help="sd over seeds of the paired difference")] = None,
    pilot: Annotated[Path | None, typer.Option(help="a run folder to take the noise from")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="first time 20 training steps on this machine")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a trial takes: tokens, hours, dollars, memory, disk.

    It writes nothing and uses no network.

    Example: tokentrial plan gpt2_50m --device A40 --budget 300
    """
    from tokentrial.devices import parse_prices
    from tokentrial.plan import plan as plans
    from tokentrial.plan.power import noise_of
    from tokentrial.trial.load import load

    loaded = load(trial, overrides or ())
    if noise is not None and pilot is not None:
        raise SettingsError("plan: found --noise and --pilot, expected one of them")
    if budget is not None and not budget > 0:
        raise SettingsError(f"--budget {budget:g}: expected dollars, more than 0")
    prices = parse_prices(price or ())
    groups = plans.chosen_groups(loaded, device or (), prices)
    asked = {group.name for group in groups} if device else set()
    assumed = noise_of(loaded, noise, pilot)
    if measure:
        groups = plans.measured(loaded, groups, prices)
    content = plans.plan(loaded, groups, assumed)
    if budget is not None:
        priced = [group for group in groups if group.device.price or group.name in asked]
        content |= {"budget": plans.budget(loaded, budget, priced, assumed), "floors": plans.budget_notes(loaded)}
        content |= {"bought": plans.bought(loaded, budget, priced)}
    if json:
        print_json(content)
        return
    from tokentrial.plan.table import print_budget, print_plan

    print_plan(content, console())
    if budget is not None:
        print_budget(content, budget, console())


@app.command()
def status(
    out: FolderArgument,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="keep watching until the run is complete")] = False,
) -> None:
    """Show what is done in a run folder, once or until all is done.

    Example: tokentrial status outputs/pilot --watch
    """
    if watch:
        if json:
            raise SettingsError("status: found --watch and --json, expected at most one of them")
        from rich.console import Console

        from tokentrial.inspection.watch import watch as go_on

        go_on(out, Console())
        return
    from tokentrial.inspection.watch import begun_stages
    from tokentrial.report.formats import one_line
    from tokentrial.run.run_folder import open_run
    from tokentrial.run.run_folder import status as read

    state = read(out)
    running = begun_stages(out, open_run(out), state["cells"])
    state["begun"] = [f"{cell} {stage}{logged}" for (cell, stage), (_, logged) in running.items()]
    if json:
        print_json(state)
        return
    done = sum(all(stages.values()) for stages in state["cells"].values())
    ready = "ready" if state["corpus"] else "not ready"
    print(f"{state['trial']}: corpus {ready}, {done} of {len(state['cells'])} cells done")
    if state["of_another_release"]:
        print("Another release of tokentrial made these results: `tokentrial run` would do them again.")
    for departure in state["departures"]:
        print(f"Not as declared: {one_line(departure)}")
    width = max(map(len, state["cells"]))
    for name, of_cell in state["cells"].items():
        left = ", ".join(stage for stage, is_done in of_cell.items() if not is_done)
        print(f"  {name:{width}}  {f'to do: {left}' if left else 'done'}")
    word = "begun" if state["working"] else "stopped midway; `tokentrial run` goes on with it"
    for stage in state["begun"]:
        print(f"  {word}: {stage}")
    if state["seconds"]:
        from tokentrial.report.text_report import stage_times, terminal_table

        console().print(terminal_table(*stage_times(state["seconds"])))


@app.command()
def report(out: FolderArgument, json: JsonOption = False) -> None:
    """Build the report from the results so far and print it.

    Example: tokentrial report outputs/pilot
    """
    from tokentrial.run.run import rebuild

    content = rebuild(out)
    if json:
        print_json(content)
    else:
        show_report(content, out)


@app.command()
def compare(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="A B", help="run folders, bundles, OUT/ARM, OUT/ARM/seedK, or files of results"),
    ] = None,
    counts: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="bare counts instead, such as 5/81 0/81")
    ] = None,
    task: Annotated[str | None, typer.Option(help="task of the counts; mul_table has known floors")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="only this outcome; repeatable")] = None,
    json: JsonOption = False,
) -> None:
    """Compare results: what differs, and what may be concluded.

    Reads ours, the original report's and lm-eval's.

    Example: tokentrial compare --counts 5/81 0/81 --task mul_table
    """
    from dataclasses import asdict

    from tokentrial.compare import bundles, contrasts, read

    if bool(paths) == bool(counts):
        raise SettingsError("compare: expected either paths of results or --counts 5/81 0/81")
    if task and not counts:
        raise SettingsError(f"--task {task}: is for --counts only; results name their own task")
    with bundles.unpacked(paths or ()) as folders:
        groups = read.parse_counts(counts, task) if counts else read.read_systems(folders)
        comparison = contrasts.compare_systems(groups, outcome or ())
    if json:
        print_json({"contrasts": [asdict(contrast) for contrast in comparison.contrasts], "notes": comparison.notes})
        return
    from tokentrial.compare.table import print_comparison

    print_comparison(comparison, console(), show_all=bool(outcome))


@app.command()
def power(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="OUT EFFECT", help="a run folder, and effects to plan for")
    ] = None,
    sd: Annotated[float | None, typer.Option(help="instead of OUT: sd of the paired differences over seeds")] = None,
    effect: Annotated[list[float] | None, typer.Option(help="an effect to plan for; repeatable")] = None,
    outcome: Annotated[str | None, typer.Option(help="the primary outcome if left out")] = None,
    contrast: Annotated[str | None, typer.Option(help="'a - b'; the primary contrast if left out")] = None,
    json: JsonOption = False,
) -> None:
    """Show how many seeds an effect needs, from a pilot's noise.

    Example: tokentrial power outputs/pilot --effect 0.1
    """
    from dataclasses import asdict

    from tokentrial.plan import power as planning

    folders, effects = [word for word in words or () if not _is_number(word)], list(effect or ())
    effects += [float(word) for word in words or () if _is_number(word)]
    if len(folders) + (sd is not None) != 1:
        raise SettingsError("power: give one run folder with a report, or --sd 0.25")
    if sd is None:
        planned = planning.from_run(Path(folders[0]), outcome, contrast, effects)
    elif outcome or contrast:
        raise SettingsError("power: --outcome and --contrast need a run folder, not --sd")
    else:
        planned = planning.plan_seeds("as given", sd, effects)
    if json:
        print_json(asdict(planned))
    else:
        from tokentrial.plan.table import print_seeds

        print_seeds(planned, console())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@app.command()
def arms(json: JsonOption = False) -> None:
    """List the available arms.

    Example: tokentrial arms
    """
    from tokentrial.arms.arm import arm_names, get_arm

    arms = [get_arm(name) for name in arm_names()]
    rows = [
        {"name": arm.name, "summary": arm.summary, "tokens": len(arm.tokens), "keeps_content": arm.keeps_content}
        for arm in arms
    ]
    if json:
        print_json(rows)
        return
    for arm in arms:
        lost = "" if arm.keeps_content else "  (drops the content)"
        print(f"{arm.name:18} {counted(len(arm.tokens), 'token'):>10}  {arm.summary}{lost}")


for verb in (*declaration.VERBS, *stages.VERBS, *publish.VERBS):
    app.command()(verb)
for look in inspection.VERBS:
    app.command(context_settings={"ignore_unknown_options": True})(look)  # a text may begin with a dash: -3*4=12


def main() -> None:
    """Entry point: errors a user can fix are one message and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what the terminal's encoding lacks
    leave_group()
    try:
        for word in sys.argv[1:]:
            if dashed := re.fullmatch(r"--([a-z_]+(?:\.[a-z_]+)+)(=.*)?", word, re.DOTALL):  # no option has a dot
                setting = dashed[1] + (dashed[2] or "=VALUE")
                raise SettingsError(f"{word}: settings have no dashes before them; give {setting}")
        with translate_os_errors(Path.cwd()):
            app()
    except TrialError as error:
        # names come from files of others: no control character of theirs reaches the terminal
        text = "".join(c if c.isprintable() or c == "\n" else " " for c in str(error))
        print(f"tokentrial: {text}", file=sys.stderr)
        sys.exit(error.code)
