"""How much text and how many drills a trial's corpus holds, from its settings alone."""

from tokentrial.trial import Trial

# drill tokens made for each that the budget takes: arms with shorter text read more of them
_MORE_DRILLS = 1.5
_VAL_DRILLS = 0.05
# text beyond the control's budget, for arms that read further in the same tokens: with each token of drills, as drills
# are what most arms shorten
_MORE_TEXT = 0.02
_MORE_TEXT_A_DRILL = 0.3


def text_wanted(trial: Trial) -> int | None:
    """Train tokens of text to prepare; None: all there are."""
    tokens = trial.corpus.tokens
    if tokens == "budget":
        return text_of_budget(trial)
    return None if tokens == "all" else tokens


def text_of_budget(trial: Trial) -> int:
    """Train tokens of text that the steps of any arm take."""
    corpus = trial.corpus
    more = 1 + _MORE_TEXT + _MORE_TEXT_A_DRILL * corpus.drills.share
    return int(more * (1 - corpus.drills.share) * trial.pretrain.tokens / corpus.epochs)


def drills_wanted(trial: Trial) -> dict[str, int]:
    """Tokens of one fold's drills by split; none where the trial has no drills."""
    wanted = int(_MORE_DRILLS * trial.corpus.drills.share * trial.pretrain.tokens)
    if not wanted:
        return {}
    return {"train": wanted, "val": max(2000, int(_VAL_DRILLS * wanted))}
