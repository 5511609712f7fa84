"""No tokens, another tokenizer: digits in groups of three from the right, as thousands are, `12345` is `12` and `345`
(Singh & Strouse 2024)."""

from tokentrial.arms.arm import Arm


class DigitsRight(Arm):
    summary = "text stays as it is, its digits encoded in groups of three from the right"
    trigger_bytes = b"0123456789"
    split_pattern = "(?<=[0-9])(?=(?:[0-9]{3})+(?![0-9]))"


ARM = DigitsRight()
