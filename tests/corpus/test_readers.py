"""Reading: patience with a network that fails, none with what is not there, and the same documents in the end."""

import gzip
import io
import json
import random
from typing import ClassVar

import pyarrow
import pyarrow.parquet
import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import documents
from tests.corpus.conftest import jsonl_lines
from tokentrial.corpus import readers
from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches, text_ratio
from tokentrial.corpus.sources import Source
from tokentrial.errors import TrialError
from tokentrial.store import network

pytestmark = pytest.mark.usefixtures("slept")

MOST = 50_000_000  # bytes of a document
TEXTS = [f"document {i}, é{'.' * (i % 7)}" for i in range(3500)]

# so long, and of so many different characters, that a parquet file's row groups are fetched one by one
LONG = [f"{i} " + random.Random(i).randbytes(150).hex() for i in range(3500)]


class Store(AbstractFileSystem):
    """A remote store. `trouble(path, start, size)` is asked before every read and may raise; `opening(path)` before
    every opening."""

    protocol = "store"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    opening = trouble = None

    def _open(self, path, mode="rb", **kwargs):
        path = self._strip_protocol(path)
        if Store.opening:
            Store.opening(path)
        if path not in Store.files:
            raise FileNotFoundError(f"store has no {path}")
        return Remote(path, Store.files[path])

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path).rstrip("/")
        found = [
            {"name": name, "size": len(data), "type": "file", "ETag": str(hash(data))}
            for name, data in Store.files.items()
            if name == path or name.startswith(path + "/")
        ]
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [entry["name"] for entry in found]


class Remote(io.BytesIO):
    """Bytes that are fetched from the store."""

    def __init__(self, path, data):
        super().__init__(data)
        self.path = path

    def fetch(self, start, size):
        if Store.trouble:
            Store.trouble(self.path, start, size if size not in (-1, None) else len(self.getbuffer()) - start)

    def read(self, size=-1):
        self.fetch(self.tell(), size)
        return super().read(size)

    def readline(self, size=-1):
        start, line = self.tell(), super().readline(size)
        self.fetch(start, len(line))
        return line

    def readinto(self, buffer):
        self.fetch(self.tell(), len(buffer))
        return super().readinto(buffer)


class Failing:
    """Raises on every read that touches a place, as often as it is told to."""

    def __init__(self, place, times, error=None):
        self.place, self.times, self.error = place, times, error or OSError("connection reset by peer")

    def __call__(self, path, start=0, size=1):
        if self.times and start <= self.place < start + size:
            self.times -= 1
            raise self.error


@pytest.fixture
def store(monkeypatch):
    """An empty remote store at store://."""
    monkeypatch.setitem(_registry, "store", Store)
    monkeypatch.setattr(Store, "files", {})
    monkeypatch.setattr(Store, "opening", None)
    monkeypatch.setattr(Store, "trouble", None)
    return Store


LINES = jsonl_lines(TEXTS)


def line_at(number, texts=TEXTS):
    """Where line `number` begins, from 0."""
    return len(jsonl_lines(texts[:number]))


def table_file(texts=TEXTS, group=1500, **more):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=group, **more)
    return file.getvalue()


def texts_of(kind, path, skip=False, groups=None):
    source = InputSplit(kind, (path,), groups, 0)
    return [
        document if isinstance(document, BadDocument) else document.decode()
        for b in read_batches(source, "text", skip, MOST)
        for document in b
    ]


def in_group(data, group, row=0.5):
    """A byte of the text's pages of a row group."""
    column = pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(group).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    return start + int(row * column.total_compressed_size)


TABLE = table_file(LONG)


# a network that fails and comes back


@pytest.mark.parametrize(("kind", "data"), [("jsonl", LINES), ("parquet", table_file())])
def test_an_opening_that_fails_twice_is_waited_for(store, slept, capsys, kind, data):
    store.files[f"a.{kind}"] = data
    store.opening = Failing(0, 2)
    assert texts_of(kind, f"store://a.{kind}") == TEXTS
    assert slept == [1, 2]
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"store://a.{kind}: connection reset by peer; trying again in {n} s" for n in (1, 2)]


@pytest.mark.parametrize(("group", "where"), [(0, 0.01), (1, 0.5), (2, 0.99)])
def test_a_parquet_file_that_breaks_off_twice_goes_on_where_it_was(store, slept, group, where):
    store.files["a.parquet"] = data = table_file(LONG)
    store.trouble = Failing(in_group(data, group, where), 2)
    assert texts_of("parquet", "store://a.parquet") == LONG
    assert slept == [1, 2]


@settings(max_examples=30)
@given(failures=st.lists(st.floats(0, 1, exclude_max=True), max_size=5), pack=st.sampled_from(["", ".gz"]))
@example(failures=[0.0, 0.0], pack="")
@example(failures=[0.999, 0.999], pack=".gz")
def test_wherever_and_however_often_it_breaks_off_no_document_is_lost_or_doubled(failures, pack):
    data = gzip.compress(LINES) if pack else LINES
    troubles = [Failing(int(where * len(data)), 1) for where in failures]

    def trouble(*read_of):
        for trouble_at in troubles:
            trouble_at(*read_of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry, "store", Store)
        patch.setattr(Store, "files", {f"a.jsonl{pack}": data})
        patch.setattr(Store, "trouble", staticmethod(trouble))
        patch.setattr(network.time, "sleep", lambda wait: None)
        assert texts_of("jsonl", f"store://a.jsonl{pack}") == TEXTS


def test_the_waits_begin_anew_where_documents_came_between(store, slept):
    store.files["a.jsonl"] = LINES
    first, second = Failing(line_at(500), 2), Failing(line_at(2500), 3)

    def trouble(*read_of):
        first(*read_of)
        second(*read_of)

    store.trouble = trouble
    assert texts_of("jsonl", "store://a.jsonl") == TEXTS
    assert slept == [1, 2, 1, 2, 4]


# a network that stays away


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("kind", "data", "place", "reached"),
    [
        ("jsonl", LINES, line_at(2100), ": broke off after 2000 documents: connection reset"),
        ("parquet", TABLE, in_group(TABLE, 2, 0.1), "(.*after 3000 documents|, row group 2)"),
    ],
)
def test_after_five_waits_a_file_is_given_up_with_how_far_it_got(store, slept, kind, data, place, reached, skip):
    """With on_bad=skip too: a network that stays away is no property of the data."""
    store.files[f"a.{kind}"] = data
    store.trouble = Failing(place, 99)
    with pytest.raises(TrialError, match=rf"^store://a\.{kind}{reached}.*corpus\.source"):
        texts_of(kind, f"store://a.{kind}", skip)
    assert slept == [1, 2, 4, 8, 16]


def test_damaged_pages_of_a_remote_file_are_bad_data_and_no_network(store, slept):
    """What the store holds does not change by waiting; with on_bad=skip the row group is left out."""
    damaged = bytearray(table_file(compression="zstd", use_dictionary=False))
    where = in_group(damaged, 1, 0.1)
    damaged[where : where + 400] = bytes(400)
    store.files["a.parquet"] = bytes(damaged)
    read_back = texts_of("parquet", "store://a.parquet", skip=True)
    assert [document.where for document in read_back if isinstance(document, BadDocument)] == [
        "store://a.parquet, row group 1"
    ]
    assert {"document 0, é", TEXTS[3499]} <= {
        document for document in read_back if not isinstance(document, BadDocument)
    }
    assert slept == []


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (OSError("connection reset by peer"), [1, 2, 4, 8, 16]),
        (FileNotFoundError("gone"), []),
        (PermissionError("not yours"), []),
        (IsADirectoryError("no file"), []),
    ],
)
def test_a_file_that_does_not_open_is_given_up_after_five_waits_or_at_once(store, slept, kind, error, waits):
    store.files[f"a.{kind}"] = table_file() if kind == "parquet" else LINES
    store.opening = Failing(0, 99, error)
    with pytest.raises(TrialError, match=rf"store://a\.{kind}: cannot be read: {error}.*corpus\.source"):
        texts_of(kind, f"store://a.{kind}")
    assert slept == waits


def test_a_listing_is_waited_for_too(store, slept, monkeypatch):
    store.files["d/a.jsonl"] = jsonl_lines(["x"])
    trouble, find = Failing(0, 2), Store.find

    def patched(self, path, **kwargs):
        trouble(path)
        return find(self, path, **kwargs)

    monkeypatch.setattr(Store, "find", patched)
    assert list(documents(Source("jsonl:store://d", "text"))) == ["x"]
    assert slept == [1, 2]


# local files


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_local_file_that_cannot_be_read_is_an_error_at_once(tmp_path, slept, kind):
    path = tmp_path / f"a.{kind}"
    with pytest.raises(TrialError, match=rf"{path}: cannot be read"):
        texts_of(kind, str(path))
    path.mkdir()
    with pytest.raises(TrialError, match=rf"{path}"):
        texts_of(kind, str(path))
    assert slept == []


def test_a_local_disk_that_fails_is_an_error_at_once_and_says_how_far_it_got(tmp_path, slept, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    monkeypatch.setattr(Store, "trouble", Failing(line_at(1200), 99, OSError(5, "Input/output error")))
    monkeypatch.setattr(readers, "_open", lambda name: Remote(name, path.read_bytes()))
    for skip in (False, True):
        with pytest.raises(TrialError, match=rf"{path}: broke off after 1000 documents: .*Input/output error"):
            texts_of("jsonl", str(path), skip)
    assert slept == []


# batches


def test_batches_hold_at_most_a_thousand_documents_and_about_eight_megabytes(tmp_path):
    def batches(name, data):
        (tmp_path / name).write_bytes(data)
        source = InputSplit(name.partition(".")[2], (str(tmp_path / name),), None, 0)
        return list(read_batches(source, "text", False, MOST))

    assert [len(batch) for batch in batches("a.jsonl", LINES)] == [1000, 1000, 1000, 500]
    assert max(map(len, batches("a.parquet", table_file(group=3500)))) <= 1000
    sizes = [sum(map(len, batch)) for batch in batches("a.jsonl", jsonl_lines(["x" * 3_000_000] * 7))]
    assert sum(sizes) == 21_000_000
    assert max(sizes) <= 11_000_000


def test_a_line_too_long_to_be_a_document_is_one_bad_document(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    inner = json.dumps({"text": "never a document"}).encode()  # cut after its hundredth byte, what follows is a line
    path.write_bytes(jsonl_lines(["one"]) + b"#" * 100 + inner + b"\n" + jsonl_lines(["x" * 950, "two", "y" * 40]))
    found = texts_of("jsonl", str(path), skip=True)
    assert [text for text in found if not isinstance(text, BadDocument)] == ["one", "two", "y" * 40]
    assert [bad.where for bad in found if isinstance(bad, BadDocument)] == [f"{path}, line 2", f"{path}, line 3"]


# parquet's kinds of text


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()),
    ],
    ids=str,
)
def test_text_is_text_however_arrow_keeps_it(tmp_path, kind):
    texts = ["one", None, "é", "", "one", "\x00", "😀"]
    column = pyarrow.array(texts).cast(kind)  # pyarrow 21 makes not every kind from a list
    pyarrow.parquet.write_table(pyarrow.table({"id": range(7), "text": column}), tmp_path / "a.parquet")
    assert texts_of("parquet", str(tmp_path / "a.parquet")) == [text or "" for text in texts]


@pytest.mark.parametrize(("groups", "stretch"), [((0, 1), (0, 1500)), ((1, 3), (1500, 3500)), (None, (0, 3500))])
def test_an_input_split_reads_its_row_groups_alone(tmp_path, groups, stretch):
    path = tmp_path / "a.parquet"
    path.write_bytes(table_file())
    assert texts_of("parquet", str(path), groups=groups) == TEXTS[slice(*stretch)]


# how much text there is in a file, for the estimate


def test_the_estimate_of_text_in_a_file_is_of_the_right_size(tmp_path):
    texts = [f"{i} " * 50 for i in range(2000)]
    table = pyarrow.table({"text": texts, "other": [str(i) * 300 for i in range(2000)]})
    (tmp_path / "a.jsonl").write_bytes(jsonl_lines(texts))
    for compression in ("none", "zstd"):
        path = tmp_path / f"{compression}.parquet"
        pyarrow.parquet.write_table(table, path, compression=compression, use_dictionary=False)
    for path in tmp_path.iterdir():
        source = InputSplit(path.suffix[1:], (str(path),), None, 0)
        assert 0.8 < path.stat().st_size * text_ratio(source, "text") / sum(map(len, texts)) < 1.3
    assert text_ratio(InputSplit("jsonl", ("a.jsonl.gz",), None, 0), "text") > 1


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \t\n", b"\n\n", b"  "])
def test_blank_lines_hold_no_document_wherever_they_stand_and_are_counted(tmp_path, blank):
    first, last = jsonl_lines(["first"]), jsonl_lines(["last"])
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + first + blank.strip(b" ") + last + blank)
    split = InputSplit("jsonl", (str(tmp_path / "a.jsonl"),), None, 1)
    assert [text for batch in read_batches(split, "text", False) for text in batch] == [b"first", b"last"]
    (tmp_path / "a.jsonl").write_bytes(blank + b"\n{\n" + last)
    with pytest.raises(TrialError, match=rf"line {(blank + b'x').count(10) + 2}: expected a JSON object"):
        list(read_batches(split, "text", False))
