"""The verbs that do one stage of a trial alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokentrial.cli.words import ArmOption, Overrides, SeedOption, TrialArgument, counted, print_json
from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    from tokentrial.steps.cell import Cell
    from tokentrial.trial.trial import Trial


def corpus(
    trial: TrialArgument,
    overrides: Overrides = None,
    materialize: Annotated[str | None, typer.Option(help="write this arm's mixed stream in full shards")] = None,
    seed: Annotated[int | None, typer.Option(help="of the stream; the trial's first if left out")] = None,
    target_tokens: Annotated[
        int | None, typer.Option(help="tokens to materialize; the trial's budget if left out")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="tokens a materialized shard")] = 100_000_000,
    out_dir: Annotated[Path | None, typer.Option(help="where to; OUT/materialized/ARM/seedK if left out")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="derive sampled documents again and compare")] = False,
    full: Annotated[bool, typer.Option("--full", help="with --verify: every file's checksum too")] = False,
    allow_short: Annotated[bool, typer.Option("--allow-short", help="accept a source that ends early")] = False,
) -> None:
    """Prepare text, drills and patches of every arm, count and audit.

    Example: tokentrial corpus pilot --verify --full
    """
    from tokentrial.run import run as runs
    from tokentrial.trial.load import load

    loaded = load(trial, [*(overrides or ()), *(["corpus.allow_short=true"] if allow_short else [])])
    if verify:
        found = runs.verify(loaded, full)
        seen = [counted(found["documents"], "document"), counted(found["tasks"], "task")]
        checked = "every checksum, " if full else ""
        print(f"verified: {checked}{' of '.join(seen)} in {counted(len(found['arms']), 'arm')}")
        return
    if materialize is None:
        runs.run(loaded, ("corpus",))
        print(f"corpus: {loaded.folder / 'corpus'}")
    else:
        chosen = loaded.seeds[0] if seed is None else seed
        folder, counts = runs.materialize(loaded, materialize, chosen, target_tokens, shard_size, out_dir)
        made = f"{counted(counts['train_tokens'], 'token')} in {counted(counts['shards'], 'shard')}"
        print(f"{materialize}, seed {chosen}: {made}: {folder}")


def pretrain(trial: TrialArgument, overrides: Overrides = None, arm: ArmOption = None, seed: SeedOption = None) -> None:
    """Pretrain the cells of a trial whose corpus is ready.

    Example: tokentrial pretrain pilot --arm baseline --seed 1
    """
    _alone("pretrain", trial, overrides, arm, seed)


def export(trial: TrialArgument, overrides: Overrides = None, arm: ArmOption = None, seed: SeedOption = None) -> None:
    """Export pretrained cells for transformers, if the logits agree.

    Example: tokentrial export pilot --arm baseline
    """
    _alone("export", trial, overrides, arm, seed)


def sft(trial: TrialArgument, overrides: Overrides = None, arm: ArmOption = None, seed: SeedOption = None) -> None:
    """Fine-tune exported cells on word problems.

    Example: tokentrial sft pilot --seed 1
    """
    _alone("sft", trial, overrides, arm, seed)


def grpo(trial: TrialArgument, overrides: Overrides = None, arm: ArmOption = None, seed: SeedOption = None) -> None:
    """Train fine-tuned cells by GRPO.

    Example: tokentrial grpo pilot --seed 1
    """
    _alone("grpo", trial, overrides, arm, seed)


def evaluate(
    trial: Annotated[str | None, typer.Argument(metavar="TRIAL", help="a trial; left out with --model")] = None,
    overrides: Overrides = None,
    arm: ArmOption = None,
    seed: SeedOption = None,
    model: Annotated[
        Path | None, typer.Option(help="a folder with any causal model, instead of a trial's cells")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="with --model: arithmetic, gsm8k, path:FILE.json, by commas")
    ] = "arithmetic",
    gsm8k: Annotated[str, typer.Option(help="with --model: hub, or path:FOLDER")] = "hub",
    limit: Annotated[int | None, typer.Option(help="with --model: at most so many items of each task or probe")] = None,
    harness: Annotated[str | None, typer.Option(help="with --model: tasks of lm-eval instead, by commas")] = None,
    out: Annotated[Path | None, typer.Option(help="with --model: where to; MODEL/evaluation if left out")] = None,
) -> None:
    """Evaluate a trial's cells after each stage, or any causal model.

    Example: tokentrial evaluate pilot --seed 1
    """
    if model is None:
        if trial is None:
            raise SettingsError("evaluate: give a trial, or --model FOLDER")
        from tokentrial.run.run import evaluations
        from tokentrial.run.selection import select_cells
        from tokentrial.trial.load import load

        loaded = load(trial, overrides or ())
        chosen = select_cells(loaded, arm, seed)
        _do(evaluations(loaded, chosen), loaded, chosen)
        return
    from tokentrial.evaluate.evaluate import evaluate_model, run_harness

    folder = out or model / "evaluation"
    if harness:
        scores = run_harness(folder, model, harness.split(","), limit)
    else:
        scores = evaluate_model(folder, model, arm or "baseline", tasks.split(","), gsm8k, limit)
    print_json(scores)


def _alone(stage: str, trial: str, overrides: Sequence[str] | None, arm: str | None, seed: str | None) -> None:
    from tokentrial.run.selection import select_cells
    from tokentrial.trial.load import load

    loaded = load(trial, overrides or ())
    _do((stage,), loaded, select_cells(loaded, arm, seed))


def _do(wanted: Sequence[str], trial: "Trial", cells: "Sequence[Cell]") -> None:
    """Do stages of cells and say where the results are."""
    from tokentrial.run.run import run
    from tokentrial.steps.stage import stage_names

    if not set(wanted) <= set(stage_names(trial)):
        raise SettingsError(f"{trial.name}: it has no {wanted[0]}; its stages are {', '.join(stage_names(trial))}")
    run(trial, wanted, cells)
    for cell in cells:
        print(f"{cell.name}: {', '.join(str(cell.folder(trial, stage)) for stage in wanted)}")


VERBS = (corpus, pretrain, export, sft, grpo, evaluate)
