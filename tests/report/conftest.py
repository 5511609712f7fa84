"""Made-up results of a trial, written as its cells would write them: which facts each arm knows is chosen by a test."""

import math

import orjson
import pytest

from tests.conftest import shared
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.report.comparison import build
from tokentrial.run.run_folder import declare
from tokentrial.store.files import write_bytes, write_json
from tokentrial.tasks.arithmetic import Arithmetic
from tokentrial.trial.declaration import DECLARED, declaration

# of the 12 never-asked facts, how many each arm knows, by seed
KNOWS = {
    "baseline": (5, 6, 7, 5, 6, 8),
    "mul_tokens": (1, 0, 2, 1, 1, 0),
    "mul_append": (10, 12, 11, 11, 12, 12),
}
# what a model may say, to be shown and not to be run
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


def known(arm, seed, never_known):
    """The facts a made-up model knows: all that are asked, and the first so many of its never-asked ones."""
    never = sorted(TIMES_TABLE.never_asked(seed, 3))
    return (set(TIMES_TABLE) - set(never)) | set(never[:never_known])


def write_cell(trial, arm, seed, knows, completion=" 54."):
    """The result files of one cell that knows these facts."""
    folder, never = trial.folder / arm / f"seed{seed}", TIMES_TABLE.never_asked(seed, 3)
    rows = []
    for number, example in enumerate(Arithmetic(5).examples()):
        row = {
            "task": example.task,
            "question": example.question,
            "operands": example.operands,
            "answer": example.answer,
            "completion": completion,
            "plain": completion,
            "read": "54",
            "correct": example.fact in knows if example.fact else number % 4 == 0,
            "fact": example.fact.equation if example.fact else None,
            "asked": example.fact not in never if example.fact and example.fact.operands[0] >= 2 else None,
            "fact_tokens": 0,
        }
        if example.fact:
            row["choice_logprob"] = -0.1 if example.fact in knows else -math.log(36)
        rows.append(row)
    write_bytes(folder / "eval_pretrain" / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    # three documents of text, of which the second is rewritten by the arms with tokens, and one of drills
    rewritten = arm != "baseline"
    documents = [
        {"set": "text", "name": "v:0", "bytes": 100, "bits": 200.0 + seed, "rewritten": False, "lossy": False},
        {"set": "text", "name": "v:1", "bytes": 50, "bits": 150.0, "rewritten": rewritten, "lossy": False},
        {"set": "text", "name": "v:2", "bytes": 300, "bits": 500.0 + rewritten, "rewritten": False, "lossy": False},
        {"set": "drills", "name": "d:0", "bytes": 40, "bits": 30.0, "rewritten": rewritten, "lossy": rewritten},
    ]
    keeps = arm not in ("one_slot", "append_slot")
    write_json(folder / "eval_pretrain" / "heldout_text.json", {"keeps_content": keeps, "documents": documents})
    write_json(folder / "eval_pretrain" / "mechanism.json", inside(arm, seed))
    write_json(folder / "eval_pretrain" / "arithmetic_results.json", {"metrics": {"eval_time_seconds": 2.5}})
    provenance = {"time": f"2026-01-0{seed}T00:00:00+00:00", "python": "3.11.7", "machine": "Linux, 2 cores"}
    provenance |= {"processor": "made up", "versions": {"torch": "2.13.0"}, "commit": "abc"}
    made = {"fingerprint": f"{arm} {seed} {sorted(knows)}", "provenance": provenance}
    write_json(folder / "eval_pretrain" / "manifest.json", made)
    curve = [
        {"step": 10, "tokens": 40960, "asked": 0.5, "never_asked": 0.0},
        {"step": 20, "tokens": 81920, "asked": 0.6, "never_asked": 0.59},
    ]
    trained = {
        "curve": curve,
        "seconds": 10.0 * seed,
        "num_params": 12345,
        "vocab_size": 1000,
        "total_steps": 20,
        "device": "cpu",
    }
    trained |= {"dtype": "fp32", "ranks": 1, "config": {"batch_tokens": trial.pretrain.batch_tokens}}
    write_json(folder / "pretrain" / "results.json", trained)


def inside(arm, seed):
    """What a cell's mechanism.json would hold: of 45 tokens the first was never served and looks hardly trained."""
    probe = {
        target: {"r2": r2 + seed / 100, "shuffled_r2": 0.1}
        for target, r2 in {"a": 0.5, "b": 0.4, "product": 0.8, "log_product": 0.7, "beyond": -3.0}.items()
    }
    tokens = {
        fact.token: {"seen": 10.0 * i, "length": 0.5, "to_unused": 0.2 if i else 0.99, "hardly_trained": i == 0}
        for i, fact in enumerate(TIMES_TABLE if arm != "baseline" else ())
    }
    return {
        "probes": {"tokens": probe if tokens else None, "state": probe},
        "lens": {"asked": [-9.0, -4.0, -seed / 10], "never_asked": [-9.0, -5.0, -1 - seed / 10]},
        "rows": {"unused_rows": 15, "hardly_from": 0.89, "tokens": tokens},
    }


def write_exposure(trial):
    forms = {"equation": 5, "question": 2, "statement": 1, "boxes": 1}
    record = {
        "tokens": 1000,
        "documents": {"text": 3, "drills": 4},
        "drill_share": 0.6,
        "fact_tokens": 7,
        "bytes": 5000,
        "questions": 135,
        "facts": {fact.equation: dict(forms) for fact in TIMES_TABLE},
    }
    record["facts"][TIMES_TABLE.of(1, 7).equation]["question"] = 50  # the drills' favourite answer is 7
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
    manifest = {"fingerprint": "of the text", "files": {"text.json": {"bytes": 3, "sha256": "1234"}}}
    write_json(trial.folder / "corpus" / "manifest.json", manifest)


class MadeUp:
    """`made_up(*overrides)`: a trial whose results are written and declared. Files are as its cells write them."""

    knows = KNOWS

    def __init__(self, tiny, folder):
        self.tiny, self.folder = tiny, folder

    def trial(self, *overrides):
        return self.tiny(self.folder, *OVERRIDES, *overrides)

    def __call__(self, *overrides, knows=KNOWS, leave_out=(), completion=" 54.", learnt=True):
        trial = self.trial(*overrides)
        declare(trial)
        self.write(trial, knows, leave_out, completion, learnt)
        return trial

    def write(self, trial, knows=KNOWS, leave_out=(), completion=" 54.", learnt=True):
        write_exposure(trial)
        for arm in trial.arms:
            counts = knows.get(arm, KNOWS["baseline"])
            for number, seed in enumerate(trial.seeds):
                if (arm, seed) not in leave_out:
                    facts = known(arm, seed, counts[number % len(counts)]) if learnt else set()
                    write_cell(trial, arm, seed, facts, completion)


@pytest.fixture
def made_up(tiny, tmp_path):
    return MadeUp(tiny, tmp_path / "run")


def compare(trial):
    """A trial's report, built from its files."""
    evaluated = {(arm, seed): {} for arm in trial.arms for seed in trial.seeds}
    for arm, seed in evaluated:
        folder = trial.folder / arm / f"seed{seed}" / "eval_pretrain"
        if folder.exists():
            evaluated[arm, seed]["pretrain"] = folder
    return build(trial, evaluated, declaration(trial), trial.folder / DECLARED)


@pytest.fixture
def compared(undrawn):
    """`compared(trial)`: its report, without figures."""
    return compare


@pytest.fixture(scope="session")
def published(tiny, tmp_path_factory):
    """Folder of the made-up run with its page and figures; its completions are hostile. Not to be changed."""
    with shared("published", tmp_path_factory) as folder:
        if not (folder / "run" / "report.html").exists():
            compare(MadeUp(tiny, folder / "run")(completion=HOSTILE))
    return folder / "run"
