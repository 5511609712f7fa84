"""What is refused of a trial before anything is written: names that stand for nothing, files that cannot be read."""

import sys

from tokentrial.arms.arm import get_arm
from tokentrial.errors import SettingsError, TrialError
from tokentrial.report.outcomes import check_outcomes
from tokentrial.steps.stage import stages
from tokentrial.tasks.training_examples import check_task_names, get_task, stage_sources
from tokentrial.trial.sweep import refuse_without_effect, to_run
from tokentrial.trial.trial import Trial


def check(trial: Trial) -> None:
    """Raises SettingsError that names the setting, of the trial or of one of its variants."""
    check_outcomes(trial, measured_stages(trial))
    folds, seeds = trial.corpus.drills.holdout_folds, trial.seeds
    if folds and (taken := len({seed % folds for seed in seeds})) < min(folds, len(seeds)):
        print(
            f"seeds: {seeds} hold out {taken} of the {folds} folds of facts, those of seed mod {folds}: facts of the "
            "others are asked in training with every seed; consecutive seeds hold out all in turn",
            file=sys.stderr,
        )
    refuse_without_effect(trial)
    read = set()  # variants share most of their files
    for of in (trial, *(variant.trial for variant in to_run(trial))):
        for name in of.arms:
            get_arm(name)
        stages(of)
        check_task_names(of.evaluate.tasks)
        sources = [("evaluate.tasks", "test", task) for task in of.evaluate.tasks]
        sources += [("sft.stages", "train", source) for source in stage_sources(of, "sft")]
        sources += [("grpo.task", "train", source) for source in stage_sources(of, "grpo")]
        for setting, split, source in sources:
            if (setting, source, of.tasks.gsm8k) not in read:
                read.add((setting, source, of.tasks.gsm8k))
                try:
                    get_task(source, of, frozenset()).check(split)
                except TrialError as error:
                    raise SettingsError(f"{setting}: {source}: {error}") from None


def measured_stages(trial: Trial) -> list[str]:
    """The stages after which a trial's cells are evaluated, in order."""
    return [stage.measures for stage in stages(trial) if stage.measures]
