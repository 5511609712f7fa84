"""The reward: one function of plain text, so that no arm is paid for how it writes (defects R6 and R10)."""

import pytest

from tokentrial.arms import arm as arms
from tokentrial.posttrain.rewards import reward
from tokentrial.trial.settings import GRPO

ARMS = ("baseline", "mul_tokens", "mul_append", "append_slot")
PLAIN = (
    (" 6*9=54\n#### 54", "54", 1),
    (" 6*9=54\n#### 55", "54", 0),
    (" 6*9=54", "54", 0),  # no marker: the flexible reader would find it, the reward does not
    ("#### 1,234", "1234", 1),
    ("#### $54", "54", 0),
    ("#### 54.", "54", 1),
    ("####54", "54", 0),
    ("#### .", "54", 0),
    ("#### 54\n#### 55", "54", 1),
    ("#### 55\n#### 54", "54", 0),
    ("User: #### 54", "54", 0),
    ("#### 54 User: #### 55", "54", 1),
    ("#### 6*9=54", "6", 1),  # a token after the marker is read as the text it stands for
    ("", "54", 0),
)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("text", "answer", "worth"), PLAIN)
def test_the_same_plain_content_is_worth_the_same_in_every_arm(arm, text, answer, worth):
    """And the format bonus is paid for any marked number."""
    treatment = arms.get_arm(arm)
    marked = text.split("User:")[0].replace(",", "").partition("#### ")[2][:1].isdigit()
    for completion in (text, treatment.rewrite(text)):
        assert reward(completion, answer, treatment, GRPO()) == worth
        assert reward(completion, answer, treatment, GRPO(format_bonus=0.25)) == worth + 0.25 * marked


@pytest.mark.parametrize("text", ["#### <MUL_6_9_54>", "<MUL_6_9_54>", " <MUL_6_9_54> so\n#### 6"])
def test_an_answer_is_never_read_out_of_a_token_s_name(text):
    """Defect R6. A token stands for `6*9=54`, and the first number of that is 6."""
    treatment = arms.get_arm("mul_tokens")
    assert treatment.untokenize(text) != text
    assert reward(text, "54", treatment, GRPO()) == 0


def test_only_the_named_bonus_is_for_tokens_and_only_arms_with_tokens_earn_it():
    settings = GRPO(fact_token_bonus=0.5)
    text = " 6*9=54\n#### 54"
    paid = {arm: reward(arms.get_arm(arm).rewrite(text), "54", arms.get_arm(arm), settings) for arm in ARMS}
    assert paid == {"baseline": 1, "mul_tokens": 1.5, "mul_append": 1.5, "append_slot": 1.5}
    # a baseline that spells a token's name has no such token
    assert reward("<MUL_6_9_54> #### 54", "54", arms.get_arm("baseline"), settings) == 1
    assert reward(text, "54", arms.get_arm("mul_tokens"), settings) == 1
