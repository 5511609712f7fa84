"""Synthetic results of a trial, written as its cells would write them: a test chooses which facts each arm knows."""

import math
from copy import deepcopy

import orjson
import pytest

from tests.conftest import shared
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.report.comparison import build
from tokentrial.run.declaration import declare
from tokentrial.run.standing import standing
from tokentrial.store.files import file_hash, read_json, write_bytes, write_json
from tokentrial.store.storage import Storage
from tokentrial.tasks.arithmetic import Arithmetic

# of the 12 never-asked facts, how many each arm knows, by seed
KNOWS = {
    "baseline": (5, 6, 7, 5, 6, 8),
    "mul_tokens": (1, 0, 2, 1, 1, 0),
    "mul_append": (10, 12, 11, 11, 12, 12),
}
# a completion that must be shown and not run
HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">{{ 7 * 7 }}\x00 &lt;"
OVERRIDES = (
    "arms=[baseline,mul_tokens,mul_append]",
    "seeds=[1,2,3,4,5,6]",
    "verdict.gate={asked: 0.6, never_asked: 0.4}",
    "verdict.alpha=0.05",
    "verdict.smallest_effect=0.1",
    "verdict.primary={outcome: pretrain/mul_table/never_asked/accuracy, contrast: mul_tokens - baseline}",
    "verdict.secondary=[{outcome: pretrain/mul_table/never_asked/accuracy, contrast: mul_append - baseline},"
    " {outcome: pretrain/heldout_text/untouched/bits_per_byte, contrast: mul_tokens - baseline}]",
)


def known_facts(seed, never_known):
    """The facts a synthetic model knows: all that are asked, and the first so many of its never-asked ones."""
    never = sorted(TIMES_TABLE.never_asked(seed, 3))
    return (set(TIMES_TABLE) - set(never)) | set(never[:never_known])


def table_rows(seed, known, completion):
    """Answers to the probes of a model that knows these facts; of the other tasks every fourth item is right."""
    never = TIMES_TABLE.never_asked(seed, 3)
    for number, example in enumerate(Arithmetic(5).examples()):
        fact, row = example.fact, {"completion": completion, "plain": completion, "read": "54", "fact_tokens": 0}
        row |= {"task": example.task, "question": example.question, "operands": example.operands}
        row |= {"answer": example.answer, "correct": fact in known if fact else number % 4 == 0}
        row["fact"] = fact.equation if fact else None
        row["asked"] = fact not in never if fact and fact.operands[0] >= 2 else None
        yield row | ({"choice_logprob": -0.1 if fact in known else -math.log(36)} if fact else {})


def solved_rows(completion):
    """Ten word problems, of which the model solves half; one solution in ten is cut off, one in two states a fact."""
    for i in range(10):
        row = {"task": "word_problems", "question": f"{i} and 5?", "answer": str(i + 5), "completion": completion}
        row |= {"plain": completion, "read": None, "correct": i % 2 == 0, "correct_flexible": True, "fact": None}
        yield row | {"stopped": i > 0, "site": i % 2 == 0, "fact_tokens": 1, "gold_nats_per_byte": 1.0 + i % 2}


def write_evaluation(folder, arm, seed, rows):
    """A cell's `eval_<stage>`: answers, and three documents of text, the second rewritten by arms with tokens, and one
    of drills."""
    write_bytes(folder / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    rewritten = arm != "baseline"
    documents = [
        {"set": "text", "name": "v:0", "bytes": 100, "bits": 200.0 + seed, "rewritten": False},
        {"set": "text", "name": "v:1", "bytes": 50, "bits": 150.0, "rewritten": rewritten},
        {"set": "text", "name": "v:2", "bytes": 300, "bits": 500.0 + rewritten, "rewritten": False},
        {"set": "drills", "name": "d:0", "bytes": 40, "bits": 30.0, "rewritten": rewritten},
    ]
    write_json(folder / "heldout_text.json", {"keeps_content": True, "documents": documents})
    write_json(folder / "arithmetic_results.json", {"metrics": {"eval_time_seconds": 2.5}})
    write_manifest(folder, seed, f"{arm} {seed} {[row['correct'] for row in rows]}")


def write_manifest(folder, seed, fingerprint, *names, machine="Linux, 2 cores"):
    """A step's manifest, by this machine, of these of its files."""
    provenance = {"time": f"2026-01-0{seed}T00:00:00+00:00", "python": "3.11.7", "machine": machine}
    provenance |= {"processor": "made up", "versions": {"torch": "2.13.0"}, "commit": "abc"}
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in names}
    write_json(folder / "manifest.json", {"fingerprint": fingerprint, "files": files, "provenance": provenance})


def write_cell(trial, arm, seed, known, completion=" 54.", stages=("pretrain",)):
    """The result files of one cell that knows these facts."""
    folder, table = trial.folder / arm / f"seed{seed}", list(table_rows(seed, known, completion))
    for stage in stages:
        rows = table if stage == "pretrain" else [*table, *solved_rows(completion)]
        write_evaluation(folder / f"eval_{stage}", arm, seed, rows)
        write_json(folder / stage / f"{stage}_results.json", {"seconds": 60.0})
    write_json(folder / "eval_pretrain" / "mechanism.json", mechanism(arm, seed))
    points = ((10, 40960, 0.5, 0.0), (20, 81920, 0.6, 0.59))
    curve = [dict(zip(("step", "tokens", "asked", "never_asked"), point, strict=True)) for point in points]
    trained = {"curve": curve, "seconds": 10.0 * seed, "num_params": 12345, "vocab_size": 1000, "total_steps": 20}
    trained |= {"device": "cpu", "dtype": "fp32", "ranks": 1, "config": trial.pretrain.model_dump(mode="json")}
    write_json(folder / "pretrain" / "results.json", trained)
    write_manifest(folder / "pretrain", seed, f"{arm} {seed}", "results.json")


def mechanism(arm, seed):
    """What a cell's mechanism.json would hold."""
    probe = {
        target: {"r2": r2 + seed / 100, "shuffled_r2": 0.1}
        for target, r2 in {"a": 0.5, "b": 0.4, "product": 0.8, "log_product": 0.7, "beyond": -3.0}.items()
    }
    return {"probes": {"tokens": probe if arm != "baseline" else None, "state": probe}}


def write_exposure(trial):
    forms = {"equation": 5, "question": 2, "statement": 1, "boxes": 1}
    record = {"tokens": 1000, "bytes": 5000, "documents": {"text": 3, "drills": 4}, "drill_share": 0.6}
    record |= {"fact_tokens": 7, "questions": 135, "facts": {fact.equation: dict(forms) for fact in TIMES_TABLE}}
    record["facts"][TIMES_TABLE.of(1, 7).equation]["question"] = 50  # the drills' most frequent answer is 7
    served = {arm: {str(seed): record for seed in trial.seeds} for arm in trial.arms}
    after = {"rows": 100, "stated": {"6*9=54": 3}, "asked": {}}
    exposure = {"forms": [*forms], "served": served}
    exposure["after_pretraining"] = {str(seed): {"sft": after, "grpo": None} for seed in trial.seeds}
    write_json(trial.folder / "corpus" / "exposure.json", exposure)
    by_arm = {"fact_tokens": 7, "changed_documents": 4, "num_documents": 9, "sites_in_context": ["so 6*9=54"]}
    meta = {"text": {"literal_token_names": 2}, "arms": dict.fromkeys(trial.arms, by_arm)}
    write_json(trial.folder / "corpus" / "meta.json", meta)
    audit = {"passed": True, "checks": ["nothing leaks"], "overlap_of_probes_and_drills": {"mul_table": 1.0}}
    write_json(trial.folder / "corpus" / "audit.json", audit)


class SyntheticRun:
    """`synthetic_run(*overrides)`: a declared trial with its results, in files as its cells write them."""

    def __init__(self, tiny, folder):
        self.tiny, self.folder = tiny, folder

    def trial(self, *overrides):
        return self.tiny(self.folder, *OVERRIDES, *overrides)

    def __call__(self, *overrides, knows=KNOWS, completion=" 54.", stages=("pretrain",)):
        trial = self.trial(*overrides)
        declare(trial, [], Storage(trial))
        self.write(trial, knows, completion, stages)
        return trial

    def write(self, trial, knows=KNOWS, completion=" 54.", stages=("pretrain",)):
        write_exposure(trial)
        for arm in trial.arms:
            for number, seed in enumerate(trial.seeds):
                facts = known_facts(seed, knows[arm][number])
                write_cell(trial, arm, seed, facts, completion, stages)


@pytest.fixture
def synthetic_run(tiny, tmp_path):
    return SyntheticRun(tiny, tmp_path / "run")


def build_report(trial):
    """A trial's report, built from its files."""
    evaluations = {(arm, seed): {} for arm in trial.arms for seed in trial.seeds}
    for arm, seed in evaluations:
        for stage in ("pretrain", "sft"):
            if (folder := trial.folder / arm / f"seed{seed}" / f"eval_{stage}").exists():
                evaluations[arm, seed][stage] = folder
    return build(trial, evaluations, standing(trial))


@pytest.fixture
def build_undrawn(undrawn):
    """`build_undrawn(trial)`: its report, without figures, which take seconds."""
    return build_report


@pytest.fixture(scope="session")
def published(tiny, tmp_path_factory):
    """Folder of the synthetic run, after pretraining and SFT, with its page and figures; its completions are hostile.
    Not to be changed."""
    with shared("published", tmp_path_factory) as folder:
        if not (folder / "run" / "report.html").exists():
            build_report(SyntheticRun(tiny, folder / "run")(completion=HOSTILE, stages=("pretrain", "sft")))
    return folder / "run"


@pytest.fixture(scope="session")
def published_report(published):
    return read_json(published / "comparison_report.json")


@pytest.fixture
def report(published_report):
    """The report of the published run, a copy that a test may change."""
    return deepcopy(published_report)
