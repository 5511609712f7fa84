"""No tokens, another tokenizer: digits in groups of three from the left, `12345` is `123` and `45`, as in GPT-4's
tokenizer (Singh & Strouse 2024)."""

from tokentrial.arms.arm import Arm


class DigitsLeft(Arm):
    summary = "text stays as it is, its digits encoded in groups of three from the left"
    trigger_bytes = b"0123456789"
    split_pattern = " ?[0-9]{1,3}"  # with the space that GPT-2 puts to a number; blank lines before one are cut off


ARM = DigitsLeft()
