"""Patches and surveys of a written shard: what each arm changes in it, and what its documents weigh and state.

Both need the text that stands in the shard, and are made in one pass over it, for all arms: a document is decoded and
its sites are found once. Some thousand documents at a time are searched, encoded and written out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrial.arms import arm as arms
from tokentrial.corpus.arrays import ArrayFile, read_arrays, write_arrays
from tokentrial.corpus.round_trip import check_round_trips
from tokentrial.corpus.shards import TEXT, Ids, Patch, Shard, blocks, decode_documents, open_shard
from tokentrial.errors import TrialError
from tokentrial.facts import drills
from tokentrial.facts.facts import DRILL_FORMS, SLOT_TOKEN, Fact, Facts, Site
from tokentrial.tokenizer.encode import encode_documents
from tokentrial.tokenizer.vocabulary import Vocabulary

MAX_SHOWN = 50  # sites of a shard shown with their context, for a human eye
_CONTEXT = 60  # characters on either side
# held at a time, whatever a shard holds: pieces of so many documents in all arms take some 50 MB
_BATCH_DOCUMENTS = 2000
_BATCH_CHARACTERS = 4_000_000

FORMS = (*DRILL_FORMS, "text")  # "text": sites in the source's own documents

Ints = NDArray[np.int64]


class Survey(NamedTuple):
    """Of each document of a shard its tokens before a patch and the bytes of its original text; and what they state:
    `documents[j]` states fact x form `codes[j]`."""

    base_lengths: Ints  # (documents,)
    bytes: Ints  # (documents,)
    documents: Ints  # (statements,)
    codes: Ints  # (statements,)

    def __len__(self) -> int:
        return len(self.base_lengths)

    @classmethod
    def read(cls, path: Path) -> "Survey":
        """Read an .npz file of these arrays. Raises TrialError that names the file where it is not whole."""
        return cls(*read_arrays(path, "survey", cls._fields))


class SurveyStats(NamedTuple):
    """A shard before any patch, counted. `bytes` are those that its ids stand for."""

    documents: int
    tokens: int
    bytes: int
    literal_token_names: int


class PatchStats(NamedTuple):
    """A shard as an arm reads it, counted. Its tokens are an eos a document, those of facts and plain ones;
    `plain_bytes` are what the plain ones stand for, `replaced_bytes` the text in whose place fact tokens stand. Of
    `round_trips` changed documents, read back and decoded, `exact` came back to the byte."""

    documents: int
    changed: int
    sites: int
    tokens: int
    fact_tokens: int
    plain_tokens: int
    plain_bytes: int
    replaced_bytes: int
    round_trips: int
    exact: int
    sample: list[dict[str, str | None]]


class ShardStats(NamedTuple):
    """What is counted of a shard: None where it was surveyed before; by arm."""

    survey: SurveyStats | None
    patches: dict[str, PatchStats]


class Document(NamedTuple):
    """A document of a shard with the sites of its text."""

    number: int
    text: str
    sites: list[Site]


def survey_and_patch(
    shard_path: Path, survey_path: Path | None, patch_paths: Mapping[str, Path], vocabulary: Vocabulary, facts: Facts
) -> ShardStats:
    """Write what a shard's documents weigh and state to `survey_path`, and what each arm changes, encoded anew, to the
    arm's path in `patch_paths`; returns the counts. Raises TrialError where an arm's bytes do not add up.

    Of text only documents with an "=", which every site holds, or with what else is looked for are decoded: decoding
    and searching every document would take longer than encoding it did. Drills are read whole, by their lines.
    """
    shard = open_shard(shard_path, vocabulary.eos)
    of_text = shard_path.stem.startswith(TEXT)
    by_block = [np.add.reduceat(vocabulary.byte_sizes[ids], at, dtype=np.int64) for _, at, ids in blocks(shard)]
    sizes = np.concatenate(by_block)  # (documents,): bytes of each
    writers = {
        name: PatchWriter(arms.get_arm(name, facts), vocabulary, shard, sizes, path)
        for name, path in patch_paths.items()
    }
    rewriting = [writer for writer in writers.values() if writer.arm.trigger_bytes]
    survey = SurveyWriter(shard, sizes, survey_path, facts, of_text) if survey_path else None
    if survey or rewriting:
        trigger_bytes = {*b"=", *(byte for writer in rewriting for byte in writer.arm.trigger_bytes)}
        if survey:
            trigger_bytes |= {*b"<"}  # a token's name that stands there literally
        documents = decode_documents(shard, vocabulary, bytes(sorted(trigger_bytes)) if of_text else None)
        for batch in _batches(documents, facts):
            if survey:
                survey.add(batch)
            for writer in rewriting:
                writer.add(batch)
    return ShardStats(survey.write() if survey else None, {name: writer.write() for name, writer in writers.items()})


def _batches(documents: Iterable[tuple[int, str]], facts: Facts) -> Iterator[list[Document]]:
    """Some thousand documents at a time, fewer where they are long. Here their sites are found, and only here."""
    batch, characters = list[Document](), 0
    for number, text in documents:
        batch.append(Document(number, text, list(facts.sites(text))))
        characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def fact_form_code(facts: Facts, fact: Fact, form: str) -> int:
    """The number of fact x form: row by row of a table of facts by FORMS."""
    return facts.index_of[fact] * len(FORMS) + FORMS.index(form)


class SurveyWriter:
    """The survey of a shard, some documents at a time. `sizes` are the bytes of its documents."""

    def __init__(self, shard: Shard, sizes: Ints, path: Path, facts: Facts, of_text: bool) -> None:
        self.shard, self.sizes, self.path, self.facts, self.of_text = shard, sizes, path, facts, of_text
        self.documents, self.codes = (ArrayFile(path.parent, np.int64) for _ in range(2))
        self.token_name = re.compile("|".join(map(re.escape, (*facts.by_token, SLOT_TOKEN))))
        self.literal_token_names = 0

    def add(self, batch: Sequence[Document]) -> None:
        """Take down what these documents state: sites of text, and the lines of drills."""
        stated: list[tuple[int, int]] = []
        for number, text, sites in batch:
            forms = ((site.fact, "text") for site in sites) if self.of_text else drills.parse(self.facts, text)
            stated += [(number, fact_form_code(self.facts, fact, form)) for fact, form in forms]
            if self.of_text and "<" in text:
                self.literal_token_names += len(self.token_name.findall(text))
        documents, codes = np.array(stated, np.int64).reshape(-1, 2).T
        self.documents.append(documents)
        self.codes.append(codes)

    def write(self) -> SurveyStats:
        """Write the survey, and count it."""
        lengths = self.shard.base_lengths
        write_arrays(
            self.path, dict(zip(Survey._fields, (lengths, self.sizes, self.documents, self.codes), strict=True))
        )
        return SurveyStats(len(lengths), int(lengths.sum()), int(self.sizes.sum()), self.literal_token_names)


class PatchWriter:
    """The patch of one arm for one shard, some documents at a time. `sizes` are the bytes of its documents."""

    def __init__(self, arm: arms.Arm, vocabulary: Vocabulary, shard: Shard, sizes: Ints, path: Path) -> None:
        self.arm, self.vocabulary, self.shard, self.sizes, self.path = arm, vocabulary, shard, sizes, path
        self.token_ids = vocabulary.token_ids(arm)
        self.tokens, self.plain_bytes = int(shard.base_lengths.sum()), int(sizes.sum())
        self.sites = self.fact_tokens = self.replaced_bytes = 0
        self.sample: list[dict[str, str | None]] = []
        self.arrays = {name: ArrayFile(path.parent, np.uint16 if name == "ids" else np.int64) for name in Patch._fields}

    def add(self, batch: Sequence[Document]) -> None:
        """Take those of these documents into the patch that the arm changes."""
        rewritten: list[tuple[Document, list[arms.Segment]]] = []
        for document in batch:
            segments = list(self.arm.segments(document.text, document.sites))
            if len(segments) > 1 or any(segment.token for segment in segments):
                rewritten.append((document, segments))
        entries: list[tuple[int, int, int]] = []  # document, head, tail
        middles: list[Ids] = []
        for (document, segments), ids in zip(rewritten, self._encode([parts for _, parts in rewritten]), strict=True):
            base = self.shard.base_document(document.number)
            self._count(document, [segment for segment in segments if segment.token], ids)
            if np.array_equal(ids, base):
                continue  # digits cut one by one are what few merges make of them anyway
            head = common_prefix(base, ids)
            tail = common_prefix(base[head:][::-1], ids[head:][::-1])
            entries.append((document.number, head, tail))
            middles.append(ids[head : len(ids) - tail])
            self.tokens += len(ids) - len(base)
        for name, values in zip(
            ("documents", "heads", "tails"), np.array(entries, np.int64).reshape(-1, 3).T, strict=True
        ):
            self.arrays[name].append(values)
        if middles:
            self.arrays["starts"].append(self.arrays["ids"].length + np.cumsum([0, *map(len, middles[:-1])]))
            self.arrays["ids"].append(np.concatenate(middles))

    def _encode(self, documents: Sequence[Sequence[arms.Segment]]) -> list[Ids]:
        """Ids of documents, eos first: their plain segments each by itself, their tokens by their ids."""
        segments = [segment for document in documents for segment in (None, *document)]  # None: eos
        plain = [segment.text.encode() for segment in segments if segment and segment.token is None]
        plain_ids, plain_lengths = encode_documents(self.vocabulary, plain)
        of_token = dict[str | None, int](self.token_ids) | {None: -1}
        per_segment = np.array([of_token[s.token] if s else self.vocabulary.eos for s in segments], np.int64)
        lengths = np.ones(len(per_segment), np.int64)
        lengths[per_segment < 0] = plain_lengths
        ids = np.repeat(per_segment, lengths)
        ids[ids < 0] = plain_ids
        starts = np.flatnonzero(ids == self.vocabulary.eos)  # it stands before a document and nowhere else
        return np.split(ids.astype(np.uint16), starts[1:]) if len(starts) else []

    def _count(self, document: Document, sites: Sequence[arms.Segment], ids: Ids) -> None:
        """Count a rewritten document. Raises TrialError where its ids do not stand for all of its bytes."""
        self.sites += len(sites)
        if len(self.sample) < MAX_SHOWN:
            self.sample += [self._in_context(document, site) for site in sites]
        plain, replaced = int(self.vocabulary.byte_sizes[ids].sum()), sum(len(site.text.encode()) for site in sites)
        size = int(self.sizes[document.number])
        if plain + replaced != size:
            raise TrialError(
                f"{self.path.stem}:{document.number}: {self.arm.name} keeps {plain} bytes and replaces {replaced} of "
                f"{size}; the segments of an arm must cover the text: correct tokentrial/arms/{self.arm.name}.py"
            )
        self.plain_bytes += plain - size
        self.replaced_bytes += replaced
        self.fact_tokens += int((ids >= self.vocabulary.base).sum())

    def _in_context(self, document: Document, site: arms.Segment) -> dict[str, str | None]:
        text = document.text
        return {
            "document": f"{self.path.stem}:{document.number}",
            "before": text[max(0, site.start - _CONTEXT) : site.start],
            "site": site.text,
            "token": site.token,
            "after": text[site.end : site.end + _CONTEXT],
        }

    def write(self) -> PatchStats:
        """Write the patch, read some of it back, and count it; no file where nothing changes."""
        changed, round_trips, exact = self.arrays["documents"].length, 0, 0
        if changed:
            write_arrays(self.path, self.arrays)
            round_trips, exact = check_round_trips(self.path, self.shard, self.vocabulary, self.arm)
        documents = len(self.shard)
        return PatchStats(
            documents,
            changed,
            self.sites,
            self.tokens,
            self.fact_tokens,
            self.tokens - documents - self.fact_tokens,
            self.plain_bytes,
            self.replaced_bytes,
            round_trips,
            exact,
            self.sample[:MAX_SHOWN],
        )


def common_prefix(a: Ids, b: Ids) -> int:
    """How many ids the two have in common from their beginning."""
    shorter = min(len(a), len(b))
    differ = a[:shorter] != b[:shorter]
    return int(differ.argmax()) if differ.any() else shorter
