"""What a trial declares before a look: seeds, outcomes, contrasts, test, gate."""

from typing import Any

from tokentrial.trial.trial import Trial

DECLARED = "declared.json"


def declaration(trial: Trial) -> dict[str, Any]:
    """The declaration, as it is written down."""
    variants = {key: value for key, value in (("sweep", trial.sweep), ("also", trial.robustness_reruns)) if value}
    return {"seeds": trial.seeds, "control": trial.control, **trial.verdict.model_dump(mode="json"), **variants}
