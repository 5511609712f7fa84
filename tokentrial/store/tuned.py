"""`tuned.json`: what a trial's tuning chose for each arm. Written once, before any cell of the verdict is trained, and
read by all that asks what an arm is trained with."""

from tokentrial.store.files import SEAL, read_json
from tokentrial.trial.load import validated
from tokentrial.trial.trial import Trial
from tokentrial.trial.tuning import Tuned

TUNED = "tuned.json"


def read_tuned(trial: Trial) -> Tuned | None:
    """The record of a trial's tuning; None where it has none, or not yet."""
    path = trial.folder / TUNED
    if trial.tune is None or not path.exists():
        return None
    record = read_json(path, "chosen", SEAL)
    return validated(Tuned, {name: value for name, value in record.items() if name != SEAL}, str(path))


def arm_trial(trial: Trial, arm: str) -> Trial:
    """The trial as an arm's cells are trained: with the values that its tuning chose."""
    if (tuned := read_tuned(trial)) is None:
        return trial
    values = {name.removeprefix("pretrain."): value for name, value in tuned.chosen.get(arm, {}).items()}
    return trial.model_copy(update={"pretrain": trial.pretrain.model_copy(update=values)})
