"""The stage `grpo`: reinforcement learning on word problems, where there is a reward to learn from."""

import sys
from typing import Any

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.posttrain.prompts import split_inputs
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.costs import Work, forward_flops, lengths, trainer_checkpoint_bytes, training_bytes, weights_bytes
from tokentrial.steps.evaluate import EvaluateStage, measured_before_grpo
from tokentrial.steps.stage import Job, Stage
from tokentrial.store.files import read_json, sealed, write_json
from tokentrial.tasks.contents import source_hashes
from tokentrial.tasks.training_examples import stage_sources
from tokentrial.trial.declaration import DECLARED
from tokentrial.trial.trial import Trial

DECISION = "grpo_decision.json"


class GRPOStage(Stage):
    name = "grpo"
    version = 3
    decided_once = True
    imports = ("tokentrial.posttrain.grpo", "trl.trainer.grpo_trainer")

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        assert trial.grpo is not None
        self.settings = trial.grpo
        self.before = EvaluateStage(trial, measured_before_grpo(trial))
        self.reads = self.before.reads  # it trains the very model whose reward was measured

    def inputs(self, corpus: CorpusPlan, cell: Cell) -> dict[str, Any]:
        content = source_hashes(self.trial, self.rows)
        return {"settings": self.trial.experiment("grpo", "tasks"), "content": content} | split_inputs(self.trial)

    @property
    def rows(self) -> list[str]:
        return stage_sources(self.trial, "grpo")

    @property
    def is_decided(self) -> bool:
        return (self.trial.folder / DECISION).exists()

    @property
    def is_declined(self) -> bool:
        if not self.is_decided or self.settings.on_zero != "skip":
            return False
        paths = [c.folder(self.trial, self.before.name) / "pass_at_k.json" for c in self._deciding()]
        # evaluations that were made again since have the last word: a run then decides anew
        is_contradicted = any(read_json(path)["pass_at_k"] for path in paths if path.exists())
        return not is_contradicted and not read_json(self.trial.folder / DECISION, "go_on")["go_on"]

    def goes_on(self, corpus: CorpusPlan) -> bool:
        """GRPO is skipped only where pass@k is zero in every cell and the trial says `skip`. The decision is written to
        `grpo_decision.json`, for the report."""
        trial, settings = self.trial, self.settings
        stage = self.before.name
        deciding = self._deciding()
        evaluated = [cell for cell in deciding if stage not in cell.pending(corpus)]
        measured = {c.name: read_json(c.folder(trial, stage) / "pass_at_k.json")["pass_at_k"] for c in evaluated}
        absent = [cell.name for cell in deciding if cell not in evaluated]
        nothing = not any(measured.values())
        if nothing and absent and settings.on_zero == "skip":
            raise TrialError(
                f"grpo: pass@k is not measured yet in {', '.join(absent)}, and whether GRPO goes on is decided once "
                "for all cells; run `tokentrial evaluate` with the same trial first"
            )
        if nothing and absent:
            print(
                f"grpo: pass@k is not measured in {', '.join(absent)}; GRPO goes on, as grpo.on_zero is 'go on'",
                file=sys.stderr,
            )
        elif nothing:
            print(
                f"grpo: no sample of any cell is right (pass@{settings.num_generations} is 0): RL has nothing to learn "
                f"from; grpo.on_zero is {settings.on_zero!r}",
                file=sys.stderr,
            )
        go_on = not nothing or settings.on_zero == "go on"
        write_json(trial.folder / DECISION, sealed({"pass_at_k": measured, "go_on": go_on}))
        return go_on

    def _deciding(self) -> list[Cell]:
        """The cells that decide once for all: those of the declared arms and seeds, of which those of the first look.
        An arm or seed that is added later changes no decision."""
        trial, path = self.trial, self.trial.folder / DECLARED
        declared = read_json(path) if path.exists() else {}
        declared = declared.get("declaration", declared)
        for field in ("arms", "seeds"):
            current = getattr(trial, field)
            known = [value for value in current if value in declared.get(field, current)]
            trial = trial.model_copy(update={field: known or current})
        return [cell for cell in cells(trial) if cell.seed in trial.first_look]

    def make(self, job: Job) -> None:
        from tokentrial.posttrain.grpo import grpo

        grpo(job.post_training(), self.settings)

    def work(self) -> Work:
        """One pass over the prompts: generation, the reference model's forward and, where completions are used more
        than once, the old policy's; training on them so often."""
        trial, settings = self.trial, self.settings
        known = lengths(trial, settings.task, "train")
        steps = min(settings.prompts, known.rows) // settings.batch
        tokens = steps * settings.batch * settings.num_generations * (known.prompt + settings.max_new_tokens)
        used = settings.num_iterations
        passes = 1 + (settings.kl_coef > 0) + (used > 1) + 3 * used
        return Work(tokens, passes * forward_flops(trial) * tokens, steps * settings.max_new_tokens)

    def memory_bytes(self, gpus: int, width: int) -> float:
        trial, settings = self.trial, self.settings
        rollouts, new = settings.batch * settings.num_generations, settings.max_new_tokens
        whole = lengths(trial, settings.task, "train").prompt + new
        reference = weights_bytes(trial) if settings.kl_coef else 0
        return training_bytes(trial, width, rollouts, whole, rollouts * new) + reference

    def checkpoint_bytes(self) -> int:
        return trainer_checkpoint_bytes(self.trial)


def build(trial: Trial) -> list[Stage]:
    return [GRPOStage(trial), EvaluateStage(trial, "grpo")] if trial.grpo else []
