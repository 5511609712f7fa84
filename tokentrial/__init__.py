"""tokentrial: controlled trials of domain tokens, from text to verdict.

From Python, what the command line does (docs/python.md):

    trial = tokentrial.load_trial("pilot", {"seeds": [1, 2, 3]}, output="outputs/mine")
    report = tokentrial.run_trial(trial)
    frame = tokentrial.read_results(trial.folder)

Imports of weight wait until a function is called, so that `import tokentrial` costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from tokentrial.trial.trial import Trial

__version__ = "0.2.0.dev0"
__all__ = ["build_report", "compare_results", "load_trial", "read_results", "run_trial"]


def load_trial(
    trial: str | PathLike[str], settings: Mapping[str, Any] | None = None, output: str | PathLike[str] | None = None
) -> Trial:
    """A trial by the name of a shipped one, or by its YAML file, with dotted settings on top.

    `settings` are those of the command line, `{"pretrain.steps": 200, "seeds": [1, 2]}`; `output` is the run folder.
    Raises `tokentrial.errors.SettingsError`, which names the setting, what was found and what was expected.
    """
    from tokentrial.trial.load import load

    return load(str(trial), settings or {}, None if output is None else Path(output))


def run_trial(trial: Trial, *, overwrite: bool = False) -> dict[str, Any]:
    """Bring a trial up to date, to its verdict, and return the report (`comparison_report.json`).

    What is done is skipped, also after a kill. Finished results of other settings are replaced only with `overwrite`,
    else `tokentrial.errors.TrialError` lists them. Call it from the main thread: while it runs, it takes SIGTERM and
    Ctrl-C to save what is at work.
    """
    from tokentrial.run.run import run

    report = run(trial, overwrite=overwrite)
    assert report is not None  # None comes of a part of a trial alone
    return report


def build_report(folder: str | PathLike[str]) -> dict[str, Any]:
    """Build the report of a run folder from what is there (page, figures, tables), and return its JSON."""
    from tokentrial.run.run import rebuild

    return rebuild(Path(folder))


def read_results(folder: str | PathLike[str], *, items: bool = False) -> pandas.DataFrame:
    """A run folder's results as a long table: a row for each arm, seed, stage, task, subset and metric.

    With `items` also a row for each fact and each answer, with columns `item` and `fact`.
    """
    from tokentrial.report.results import read_table

    return read_table(Path(folder), items).to_pandas()


def compare_results(*paths: str | PathLike[str], outcomes: Sequence[str] = ()) -> pandas.DataFrame:
    """Compare run folders, bundles, cells or files of results, as `tokentrial compare` does: a row for each contrast.

    `outcomes` are the only ones looked at, all where none is given. What could not be compared, and why, is a list of
    texts in `attrs["notes"]` of the table.
    """
    from dataclasses import asdict

    import pandas

    from tokentrial.compare import bundles, contrasts, read

    with bundles.unpacked([Path(path) for path in paths]) as folders:
        comparison = contrasts.compare_systems(read.read_systems(folders), outcomes)
    table = pandas.DataFrame([asdict(contrast) for contrast in comparison.contrasts])
    table.attrs["notes"] = list(comparison.notes)
    return table
