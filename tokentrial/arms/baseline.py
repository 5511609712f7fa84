"""The control: every text stays as it is."""

import random
from collections.abc import Iterator

from tokentrial.arms.arm import Arm, Piece


class Baseline(Arm):
    summary = "text stays as it is"
    needles = b""

    def pieces(self, text: str, rng: random.Random | None = None) -> Iterator[Piece]:
        if text:
            yield Piece(text, None, 0, len(text))

    def plain(self, text: str) -> str:
        return text


ARM = Baseline()
