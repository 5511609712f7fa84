"""The verbs that do one stage of a trial alone."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokentrial.cli.words import ArmOption, Overrides, OverwriteOption, SeedOption, TrialArgument, counted, print_json
from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    from tokentrial.steps.cell import Cell
    from tokentrial.trial.trial import Trial


def corpus(
    trial: TrialArgument,
    overrides: Overrides = None,
    materialize: Annotated[str | None, typer.Option(help="write this arm's training stream as shards")] = None,
    seed: Annotated[int | None, typer.Option(help="the stream's seed; the trial's first if left out")] = None,
    target_tokens: Annotated[
        int | None, typer.Option(help="tokens to materialize; the trial's budget if left out")
    ] = None,
    shard_size: Annotated[int | None, typer.Option(help="tokens per shard; 100,000,000 if left out")] = None,
    out_dir: Annotated[Path | None, typer.Option(help="folder; OUT/materialized/ARM/seedK if left out")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="encode sampled documents again and compare")] = False,
    full: Annotated[bool, typer.Option("--full", help="with --verify: every file's checksum too")] = False,
    allow_short: Annotated[bool, typer.Option("--allow-short", help="accept a source that ends early")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Prepare text, drills and patches of every arm, count and audit.

    Example: tokentrial corpus pilot --verify --full
    """
    from tokentrial.run import run as runs
    from tokentrial.trial.load import load

    of_stream = {"seed": seed, "target_tokens": target_tokens, "shard_size": shard_size, "out_dir": out_dir}
    if verify:
        _require_unused("not with --verify", materialize=materialize, **of_stream, overwrite=overwrite)
    elif materialize is not None:
        _require_unused("not with --materialize", full=full, overwrite=overwrite)
    else:
        _require_unused("only with --materialize ARM", **of_stream)
        _require_unused("only with --verify", full=full)
    loaded = load(trial, [*(overrides or ()), *(["corpus.allow_short=true"] if allow_short else [])])
    if verify:
        verified = runs.verify(loaded, full)
        seen = [counted(verified["documents"], "document"), counted(verified["tasks"], "task")]
        checked = "every checksum, " if full else ""
        print(f"verified: {checked}{' of '.join(seen)} in {counted(len(verified['arms']), 'arm')}")
        return
    if materialize is None:
        runs.run(loaded, ("corpus",), overwrite=overwrite)
        print(f"corpus: {loaded.folder / 'corpus'}")
    else:
        chosen = loaded.seeds[0] if seed is None else seed
        per_shard = 100_000_000 if shard_size is None else shard_size
        folder, counts = runs.materialize(loaded, materialize, chosen, target_tokens, per_shard, out_dir)
        size = f"{counted(counts['train_tokens'], 'token')} in {counted(counts['shards'], 'shard')}"
        print(f"{materialize}, seed {chosen}: {size}: {folder}")


def _require_unused(why: str, **options: object) -> None:
    """Refuse options that a command with these other ones would not read."""
    if given := [
        f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None and value is not False
    ]:
        raise SettingsError(f"{', '.join(given)}: {why}; leave one or the other out")


def _stage_verb(name: str, summary: str, options: str) -> Callable[..., None]:
    """The verb of a stage that every cell goes through."""

    def verb(
        trial: TrialArgument,
        overrides: Overrides = None,
        arm: ArmOption = None,
        seed: SeedOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        from tokentrial.run.selection import select_cells
        from tokentrial.trial.load import load

        loaded = load(trial, overrides or ())
        _do((name,), loaded, select_cells(loaded, arm, seed), overwrite)

    verb.__name__ = name
    verb.__doc__ = f"{summary}\n\nExample: tokentrial {name} pilot {options}"
    return verb


def evaluate(
    trial: Annotated[str | None, typer.Argument(metavar="TRIAL", help="a trial; left out with --model")] = None,
    overrides: Overrides = None,
    arm: Annotated[
        str | None,
        typer.Option("--arm", "--arms", help="only these arms, as A,B; with --model one, as whose answers it is read"),
    ] = None,
    seed: SeedOption = None,
    model: Annotated[
        Path | None, typer.Option(help="a folder with any causal model, instead of a trial's cells")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="with --model: arithmetic (if left out), gsm8k, path:FILE.json, by commas")
    ] = None,
    gsm8k: Annotated[str | None, typer.Option(help="with --model: hub (if left out), or path:FOLDER")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="with --model: at most this many items per task")] = None,
    harness: Annotated[str | None, typer.Option(help="with --model: lm-eval tasks instead, as A,B")] = None,
    out: Annotated[Path | None, typer.Option(help="with --model: folder; MODEL/evaluation if left out")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Evaluate a trial's cells after each stage, or any causal model.

    Example: tokentrial evaluate pilot --seed 1
    """
    if model is None:
        if trial is None:
            raise SettingsError("evaluate: give a trial, or --model FOLDER")
        why = "only with --model FOLDER, a trial has settings for it"
        _require_unused(why, tasks=tasks, gsm8k=gsm8k, limit=limit, harness=harness, out=out)
        from tokentrial.run.run import evaluations
        from tokentrial.run.selection import select_cells
        from tokentrial.trial.load import load

        loaded = load(trial, overrides or ())
        chosen = select_cells(loaded, arm, seed)
        _do(evaluations(loaded, chosen, overwrite), loaded, chosen, overwrite)
        return
    if trial is not None:
        raise SettingsError(f"{trial}: --model evaluates a folder without a trial; leave one or the other out")
    _require_unused("not with --model", seed=seed, overwrite=overwrite)
    from tokentrial.evaluate.evaluate import evaluate_model, run_harness

    folder, asked = out or model / "evaluation", (tasks or "arithmetic").split(",")
    if harness:
        _require_unused("not with --harness, whose tasks are lm-eval's", arm=arm, tasks=tasks, gsm8k=gsm8k)
    if gsm8k and "gsm8k" not in asked:
        raise SettingsError("--gsm8k: given, but --tasks does not name gsm8k; add it there, or leave this out")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):  # before anything is computed
        raise SettingsError(f"{folder}: cannot be written; give --out FOLDER")
    if harness:
        scores = run_harness(folder, model, harness.split(","), limit)
    else:
        scores = evaluate_model(folder, model, arm, asked, gsm8k or "hub", limit)
    print_json(scores)


def _do(wanted: Sequence[str], trial: "Trial", cells: "Sequence[Cell]", overwrite: bool) -> None:
    """Do stages of cells and say where the results are."""
    from tokentrial.run.run import run
    from tokentrial.steps.stage import stage_names
    from tokentrial.store.folders import MANIFEST

    if not set(wanted) <= set(stage_names(trial)):
        raise SettingsError(f"{trial.name}: no stage {wanted[0]}; its stages are {', '.join(stage_names(trial))}")
    run(trial, wanted, cells, overwrite)
    for cell in cells:
        folders = [cell.folder(trial, stage) for stage in wanted]
        print(f"{cell.name}: {', '.join(str(f) for f in folders if (f / MANIFEST).exists()) or 'no result'}")


VERBS = (
    corpus,
    _stage_verb("pretrain", "Pretrain the cells of a trial whose corpus is ready.", "--arm baseline --seed 1"),
    _stage_verb("export", "Export pretrained cells for transformers, if the logits agree.", "--arm baseline"),
    _stage_verb("sft", "Fine-tune exported cells on word problems.", "--seed 1"),
    _stage_verb("grpo", "Train fine-tuned cells by GRPO.", "--seed 1"),
    evaluate,
)
