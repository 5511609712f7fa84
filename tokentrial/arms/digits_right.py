"""No tokens, another tokenizer: digits in groups of three from the right, as thousands are, `12345` is `12` and `345`
(Singh & Strouse 2024)."""

import re
from collections.abc import Iterator

from tokentrial.arms.arm import Arm


class DigitsRight(Arm):
    summary = "text stays as it is, its digits encoded in groups of three from the right"
    trigger_bytes = b"0123456789"
    split_pattern = "(?<=[0-9])(?=(?:[0-9]{3})+(?![0-9]))"

    def splits(self, text: str) -> Iterator[int]:
        """As the pattern says, which looks to the end of a number from each of its digits: hours for a text of pi."""
        for number in re.finditer("[0-9]{4,}", text):
            first = number.start() + (len(number[0]) - 1) % 3 + 1
            yield from range(first, number.end(), 3)


ARM = DigitsRight()
