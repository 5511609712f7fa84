"""The stages `eval_*`: what the model says after pretraining, SFT and GRPO."""

from typing import Any

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.facts.families import build_facts
from tokentrial.posttrain.prompts import split_inputs
from tokentrial.posttrain.rewards import PASS_PROMPTS
from tokentrial.pretrain.device import later_device, precision
from tokentrial.steps.cell import Cell
from tokentrial.steps.costs import Work, batches, characters_a_token, forward_flops, lengths, questions
from tokentrial.steps.stage import Job, Stage
from tokentrial.tasks.contents import source_hashes
from tokentrial.trial.settings import GRPO
from tokentrial.trial.trial import Trial

# the settings of GRPO that pass@k before it depends on
_PASS = {"task", "prompts", "num_generations", "max_new_tokens", "temperature"}
_PROBES = 5  # beside the table
_SPELLED = 2.2  # ids of an answer of the table in the tree of all spellings, 77 of the 36 products
_OVERLAP = 4 / 3  # of the windows over held-out text
_ITEM = 600  # bytes of a probe's record, in results and samples
_SOLUTION = 1000, 5  # bytes of a solution's question and figures, and how often what a model said is written
_SOLUTIONS = 1_319  # GSM8K's test problems: no task of ours has more


def measured_before_grpo(trial: Trial) -> str:
    """The stage after which GRPO begins: SFT, or pretraining where the trial has none."""
    return "sft" if trial.sft else "pretrain"


class EvaluateStage(Stage):
    """The model after the stage `measured`; before GRPO, pass@k as well."""

    version = 5  # 4 took the 54 of 54.9 for an answer
    leaves_model = False
    imports = ("tokentrial.evaluate.evaluate", "transformers.models.gpt2.modeling_gpt2")

    def __init__(self, trial: Trial, measured: str) -> None:
        self.name, self.measures = f"eval_{measured}", measured
        super().__init__(trial)
        self.reads = "export" if measured == "pretrain" else measured
        self.grpo = trial.grpo if measured == measured_before_grpo(trial) else None  # that pass@k is measured for

    def inputs(self, corpus: CorpusPlan, cell: Cell) -> dict[str, Any]:
        trial = self.trial
        settings = trial.experiment("evaluate", "tasks")
        if self.grpo:
            settings |= {"pass_at_k": self.grpo.model_dump(mode="json", include=_PASS) | split_inputs(trial)}
        return {"settings": settings, "content": source_hashes(trial, self.rows)}

    @property
    def rows(self) -> list[str]:
        return [*self.trial.evaluate.tasks, *([self.grpo.task] if self.grpo else [])]

    def make(self, job: Job) -> None:
        from tokentrial.evaluate.evaluate import evaluate, load, write_mechanism

        trial, corpus, seed = self.trial, job.corpus, job.cell.seed
        job.progress(0, self.name)
        device, how = later_device(trial.pretrain), (trial, corpus.folder, corpus.vocabulary, job.arm, seed)
        with precision(tf32=False):
            for checkpoint in sorted(job.model.glob("step_*")) if self.measures == "pretrain" else ():
                (job.folder / checkpoint.name).mkdir()
                evaluate(job.folder / checkpoint.name, *how, *load(checkpoint, device))
            model, tokenizer = load(job.model, device)
            evaluate(job.folder, *how, model, tokenizer)
            if self.measures == "pretrain":  # later stages wipe out the table, and the report looks at this one alone
                write_mechanism(job.folder, job.arm, seed, model, tokenizer)
            if self.grpo:
                from tokentrial.posttrain.grpo import measure_pass_at_k

                measure_pass_at_k(job.folder, trial, self.grpo, job.arm, seed, model, tokenizer)

    def work(self) -> Work:
        """Probes, the answers of the table, held-out text, problems solved and their gold solutions."""
        trial, settings = self.trial, self.trial.evaluate
        table, answers = questions(trial), len(build_facts(trial.facts).answers)
        probes = self._probes
        text = 2 * _OVERLAP * settings.heldout_bytes / characters_a_token(trial.tokenizer.merges)
        tokens = probes * 2 * settings.max_new_tokens + table * answers * _SPELLED + text
        decoded = batches(probes, trial) * settings.max_new_tokens + batches(table, trial)
        for task in settings.tasks:
            known = lengths(trial, task, "test")
            rows = min(settings.limit or known.rows, known.rows)
            tokens += rows * (known.prompt + settings.solution_tokens + known.row)
            decoded += batches(rows, trial) * settings.solution_tokens
        done = Work().plus(Work(tokens, forward_flops(trial) * tokens, decoded), self._checkpoints)
        return done.plus(self._pass_at_k(self.grpo)) if self.grpo else done

    @property
    def _checkpoints(self) -> int:
        return self.trial.evaluate.checkpoints if self.measures == "pretrain" else 1

    @property
    def _probes(self) -> int:
        return questions(self.trial) + _PROBES * self.trial.evaluate.probes_each

    def _pass_at_k(self, settings: GRPO) -> Work:
        trial, known = self.trial, lengths(self.trial, settings.task, "train")
        samples = min(PASS_PROMPTS, known.rows) * settings.num_generations
        tokens = samples * (known.prompt + settings.max_new_tokens)
        return Work(tokens, forward_flops(trial) * tokens, batches(samples, trial) * settings.max_new_tokens)

    def disk_bytes(self) -> int:
        settings = self.trial.evaluate
        solution_characters = settings.solution_tokens * characters_a_token(self.trial.tokenizer.merges)
        solutions = len(settings.tasks) * min(settings.limit or _SOLUTIONS, _SOLUTIONS)
        items = self._probes * _ITEM
        return int(self._checkpoints * (items + solutions * (_SOLUTION[0] + _SOLUTION[1] * solution_characters)))
