"""No tokens, another tokenizer: the digits of a number are always single, `54` is `5` and `4`."""

from tokentrial.arms.arm import Arm


class DigitSplit(Arm):
    summary = "text stays as it is, its digits encoded one by one"
    trigger_bytes = b"0123456789"
    split_pattern = "(?<=[0-9])(?=[0-9])"


ARM = DigitSplit()
