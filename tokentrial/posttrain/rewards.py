"""Rewards of plain text, the same function in every arm; the answer travels with the row (defects R7 and R10)."""

from tokentrial.arms.arm import Arm
from tokentrial.tasks.gsm8k import extract_marked
from tokentrial.trial.settings import GRPO

PASS_PROMPTS = 32  # of which pass@k is measured before GRPO


def reward(completion: str, answer: str, arm: Arm, settings: GRPO) -> float:
    """1 for the exact answer after the marker, else 0; plus `format_bonus` where any number follows the marker, plus
    `fact_token_bonus` where the completion holds a fact token, which only some arms can earn."""
    read = extract_marked(arm.untokenize(completion))
    score = float(read == answer)
    score += settings.format_bonus * (read is not None)
    score += settings.fact_token_bonus * any(token in completion for token in arm.tokens)
    return score
