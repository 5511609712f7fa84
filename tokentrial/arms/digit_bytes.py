"""No tokens, another tokenizer: every digit is the token of its byte wherever it stands, the space before a number a
token of its own."""

from tokentrial.arms.arm import Arm


class DigitBytes(Arm):
    summary = "text stays as it is, its digits encoded as bytes, apart from a space before them"
    trigger_bytes = b"0123456789"
    split_pattern = "(?=[0-9])"


ARM = DigitBytes()
