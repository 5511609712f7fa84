"""The corpus of a trial, which all cells share: whether it is ready, its making side by side, and what it takes."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tokentrial.corpus import accounting, prepare
from tokentrial.corpus import audit as audits
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import drill_sets, drills_wanted, text_of_budget, text_wanted
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.ray import RayExecutor
from tokentrial.executors.worker import Call, cores
from tokentrial.steps.costs import characters_a_token
from tokentrial.trial.trial import Trial

if TYPE_CHECKING:
    from tokentrial.executors.progress import Progress

# tokens a second: the preparation of the original report, 50M tokens in a minute as they come from the Hub
RATE = 50e6 / 60
_ALL = 10_000  # tasks handed to Ray, which runs as many of them as it has room for
_OVERHEAD = 0.1  # of the disk: surveys, offsets of documents, patches of the text
_HELD = {"sotu": 2.39e6, "fineweb-edu": 9.97e9}  # GPT-2 tokens of the sources that are known


def is_ready(corpus: CorpusPlan) -> bool:
    """Whether every arm's corpus is there, counted and audited."""
    return corpus.done and audits.audited(corpus)


def make(corpus: CorpusPlan, progress: "Progress") -> None:
    """Text, drills, surveys and what each arm changes in every shard, then exposure and audit."""
    # workers may stand elsewhere
    corpus = CorpusPlan(corpus.trial.model_copy(update={"output": str(corpus.trial.folder.absolute())}))
    with _executor(corpus.trial) as executor:

        def phase(name: str) -> prepare.Map:
            def map_calls(function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Any]:
                progress.start(name, {call: [1.0] for call in calls})
                return executor.run([Call(call, function, arguments) for call, arguments in calls.items()], progress)

            return map_calls

        prepare.prepare_text(corpus, phase("text"))
        prepare.prepare_drills(corpus, phase("drills"))
        prepare.prepare_patches(corpus, phase("patches"))
        accounting.account(corpus)
        accounting.write_meta(corpus)
        phase("audit")(audits.audit, {"audit": (corpus,)})


def _executor(trial: Trial) -> LocalExecutor | RayExecutor:
    """Where the tasks of the corpus run, a core each: where the cells do, as many at a time as the trial says."""
    if trial.executor == "ray":
        return RayExecutor(trial.workers or _ALL, trial.ray.address)
    return LocalExecutor(trial.workers or cores())


def held_tokens(trial: Trial) -> float | None:
    """Tokens that the trial's source holds, where that is known without reading it."""
    known = _HELD.get(trial.corpus.source)
    if known is None:
        return None
    return known * characters_a_token(50_000) / characters_a_token(trial.tokenizer.merges)


def tokens(trial: Trial) -> float:
    """Tokens that are encoded, once for all arms: text, and each fold's drills."""
    return _text_tokens(trial) + _drill_tokens(trial)


def hours(trial: Trial) -> float:
    """Hours at the pace of a stream from the Hub, which no GPU quickens."""
    return tokens(trial) / RATE / 3600


def disk_bytes(trial: Trial) -> int:
    """Two bytes a token of text and of drills, and, as arms change drills most of all, a patch of the drills an arm."""
    return int(2 * (_text_tokens(trial) * (1 + _OVERHEAD) + _drill_tokens(trial) * len(trial.arms)))


def _text_tokens(trial: Trial) -> float:
    """Tokens of text that are written: what is wanted, at most what the source is known to hold; of an unknown source
    wanted whole, what the steps read."""
    wanted, held = text_wanted(trial), held_tokens(trial)
    if wanted is None:
        return held or text_of_budget(trial) / (1 - trial.corpus.val_share)
    needed = wanted / (1 - trial.corpus.val_share)
    return min(needed, held or needed)


def _drill_tokens(trial: Trial) -> float:
    return len(drill_sets(trial)) * sum(drills_wanted(trial).values())
