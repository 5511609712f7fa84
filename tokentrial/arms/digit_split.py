"""No tokens, another tokenizer: the digits of a number are always single, `54` is `5` and `4`."""

import random
import re
from collections.abc import Iterator
from itertools import pairwise

from tokentrial.arms.arm import Arm, Piece


class DigitSplit(Arm):
    summary = "text stays as it is, its digits encoded one by one"
    needles = b"0123456789"
    cut = "(?<=[0-9])(?=[0-9])"

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        cuts = [0, *(match.start() for match in re.finditer(self.cut, text)), len(text)]
        for start, end in pairwise(cuts):
            if end > start:
                yield Piece(text[start:end], None, start, end)


ARM = DigitSplit()
