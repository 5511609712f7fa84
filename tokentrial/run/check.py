"""What is refused of a trial before anything is written: names that stand for nothing, files that are not there."""

from pathlib import Path

from tokentrial.arms.arm import get_arm
from tokentrial.errors import SettingsError
from tokentrial.report.outcomes import check_outcomes
from tokentrial.steps.stage import stages
from tokentrial.tasks.arithmetic import PROBES
from tokentrial.tasks.training_examples import get_task, stage_sources
from tokentrial.trial.sweep import refuse_without_effect, to_run
from tokentrial.trial.trial import Trial


def check(trial: Trial) -> None:
    """Raises SettingsError that names the setting, of the trial or of one of its variants."""
    check_outcomes(trial, measured_stages(trial))
    refuse_without_effect(trial)
    for of in (trial, *(variant.trial for variant in to_run(trial))):
        for name in of.arms:
            get_arm(name)
        stages(of)
        sources = [("evaluate.tasks", task) for task in of.evaluate.tasks]
        sources += [("sft.stages", source) for source in stage_sources(of, "sft")]
        sources += [("grpo.task", source) for source in stage_sources(of, "grpo")]
        for setting, source in sources:
            _check_source(of, setting, source)


def measured_stages(trial: Trial) -> list[str]:
    """The stages after which a trial's cells are evaluated, in order."""
    return [stage.measures for stage in stages(trial) if stage.measures]


def _check_source(trial: Trial, setting: str, source: str) -> None:
    kind, _, path = source.partition(":")
    if kind == "jsonl" and setting == "sft.stages":
        _need(Path(path), f"{setting}: {source}", "a file of lines with prompt and completion")
        return
    try:
        get_task(source, trial, frozenset())
    except SettingsError as error:
        raise SettingsError(f"{setting}: {error}") from None
    if kind == "path":
        if setting != "evaluate.tasks":
            raise SettingsError(f"{setting}: {source} is for evaluation only; train on gsm8k, word_problems or jsonl:")
        stem = Path(path).stem.lower()
        stems = [Path(task.partition(":")[2]).stem.lower() for task in trial.evaluate.tasks if ":" in task]
        if (
            stem.endswith("_table")
            or stem in (*PROBES, "gsm8k", "word_problems", "heldout_text")
            or stems.count(stem) > 1
        ):
            raise SettingsError(f"{setting}: {source}: its outcomes would be called {stem!r}, as others are; rename it")
        _need(Path(path), f"{setting}: {source}", "a JSON file of SVAMP or MultiArith")
    where, _, folder = trial.tasks.gsm8k.partition(":")
    if source == "gsm8k" and where != "hub":
        if where != "path" or not folder:
            raise SettingsError(f"tasks.gsm8k is {trial.tasks.gsm8k!r}, expected hub, or path:FOLDER with its files")
        for split in ("train", "test"):
            _need(Path(folder) / f"{split}.jsonl", f"tasks.gsm8k: {trial.tasks.gsm8k}", "train.jsonl and test.jsonl")


def _need(path: Path, setting: str, expected: str) -> None:
    if not path.expanduser().is_file():
        raise SettingsError(f"{setting}: {path} is not there, expected {expected}")
