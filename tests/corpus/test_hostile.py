"""Hostile input: whatever a source holds and whatever happens to it, the corpus stage ends with a clear error or with a
counted, recorded skip, and never with a corpus that looks whole and is not."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.conftest import PACK, jsonl_lines, shard_texts
from tokentrial.corpus import prepare
from tokentrial.corpus.prepare import CorpusPlan, prepare_text
from tokentrial.corpus.readers import BadDocument, InputSplit, read_batches
from tokentrial.corpus.shards import shard_paths
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError
from tokentrial.store import disk as store_disk
from tokentrial.store.files import read_json

PLAIN = ("corpus.piece_characters=null", "corpus.drills.holdout_folds=0")
SETTINGS = pytest.mark.parametrize("on_bad", ["error", "skip"])
GROUP = 20


@pytest.fixture
def good(prose):
    """Three times 30 different documents; every file of a hostile folder is made of one of them."""
    return [prose[:30], prose[30:60], prose[60:80] + [text[:500] for text in prose[:10]]]


@pytest.fixture
def prepared(tiny, tmp_path):
    """`prepared(setting, *overrides)`: the plan whose text has been prepared."""

    def make(setting, *overrides):
        plan = CorpusPlan(tiny(tmp_path / "run", *PLAIN, f"corpus.source={setting}", *overrides))
        prepare_text(plan)
        return plan

    return make


@pytest.fixture
def refused(tiny, tmp_path):
    """`refused(setting, *overrides)`: the message of the error; nothing that looks whole is left."""

    def make(setting, *overrides, kind=TrialError):
        trial = tiny(tmp_path / "run", *PLAIN, f"corpus.source={setting}", *overrides)
        with pytest.raises(kind) as error:
            prepare_text(CorpusPlan(trial))
        nothing_looks_whole(trial)
        return str(error.value)

    return make


def nothing_looks_whole(trial):
    assert not (trial.folder / "corpus").exists()
    assert not list(trial.folder.rglob("manifest.json"))


def texts_in(plan):
    """The texts of the shards, however often each."""
    return Counter(text for split in ("train", "val") for text in shard_texts(plan, "text", split))


def jsonl(path, texts):
    path.write_bytes(jsonl_lines(texts))


def parquet(path, texts, **more):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=GROUP, **more)


WRITE = {"jsonl": jsonl, "parquet": parquet}


def raw_parquet(path, texts, group=GROUP):
    """A string column made of any bytes at all."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(offsets.tobytes()), pyarrow.py_buffer(b"".join(texts))]
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(texts), buffers)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path, row_group_size=group)


@pytest.fixture
def folder(tmp_path, good):
    """`folder(kind)`: a folder a, b, c of good files; a test then spoils b."""

    def make(kind):
        source = tmp_path / "source"
        source.mkdir()
        for name, texts in zip("abc", good, strict=True):
            WRITE[kind](source / f"{name}.{kind}", texts)
        return source

    return make


def skipped(plan, good, kept_of_b, bad):
    """Assert that the rest is all there and that what is bad is counted and told."""
    assert texts_in(plan) == Counter([*good[0], *kept_of_b, *good[2]])
    record = read_json(plan.folder / "text.json")
    assert record["bad_documents"] == len(bad) == len(record["bad"])
    for recorded, (where, why) in zip(record["bad"], bad, strict=True):
        assert recorded["where"].endswith(where)
        assert re.search(why, recorded["why"]), recorded["why"]
    assert record["documents_read"] == len(good[0]) + len(kept_of_b) + len(good[2]) + len(bad)


# documents


@pytest.mark.parametrize(("kind", "on_bad"), [("jsonl", "error"), ("parquet", "skip")])
def test_empty_and_nul_filled_documents_are_counted_and_left_out(folder, good, prepared, kind, on_bad):
    source = folder(kind)
    empty = ["", "\x00" * 5000, " \n\t\r", "\x00 \x01\n", "\x7f", "\x00", " " * 100_000]
    WRITE[kind](source / f"b.{kind}", [*empty, *good[1], "a\x00b", *empty])
    plan = prepared(f"{kind}:{source}", f"corpus.on_bad={on_bad}")
    record = read_json(plan.folder / "text.json")
    assert (record["empty_documents"], record["bad_documents"], record["bad"]) == (14, 0, [])
    assert texts_in(plan) == Counter([*good[0], *good[1], "a\x00b", *good[2]])  # a NUL within a text stays


@pytest.mark.parametrize("kind", WRITE)
def test_a_document_above_the_limit_is_an_error_or_a_skip_and_one_at_the_limit_is_kept(
    folder, good, refused, prepared, kind
):
    source = folder(kind)
    WRITE[kind](source / f"b.{kind}", [good[1][0], "é" * 5001, *good[1][1:], "x" * 10_000])
    place = {"jsonl": "line 2", "parquet": "row group 0, row 1"}[kind]
    where, why = f"{source / f'b.{kind}'}, {place}", "10,002 bytes, more than corpus.max_document_bytes, 10,000"
    message = refused(f"{kind}:{source}", "corpus.max_document_bytes=10000")
    assert message == f"{where}: {why}; correct it, or give corpus.on_bad=skip"
    plan = prepared(f"{kind}:{source}", "corpus.max_document_bytes=10000", "corpus.on_bad=skip")
    skipped(plan, good, [*good[1], "x" * 10_000], [(where, why)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("first", [True, False])
def test_a_document_of_200_mb_is_skipped_within_bounded_memory(folder, good, tiny, tmp_path, kind, first):
    source = folder(kind)
    huge = "All work and no play makes Jack a dull boy. " * 4_600_000
    assert len(huge) > 200_000_000
    name, texts = ("a", good[0]) if first else ("b", good[1])
    WRITE[kind](source / f"{name}.{kind}", [texts[0], huge, *texts[1:]])
    del huge
    script = """if True:
        import sys
        from pathlib import Path
        from tokentrial.corpus.prepare import CorpusPlan, prepare_text
        from tokentrial.trial.load import load
        prepare_text(CorpusPlan(load(sys.argv[1], sys.argv[2:])))
        [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().split("\\n") if "VmHWM" in line]
        print(int(peak) // 1024)
    """
    trial = tiny(tmp_path / "run", *PLAIN, f"corpus.source={kind}:{source}", "corpus.on_bad=skip")
    (tmp_path / "trial.yaml").write_text(json.dumps(trial.model_dump(mode="json")))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "trial.yaml")], capture_output=True, text=True, check=True
    )
    plan = CorpusPlan(trial)
    record = read_json(plan.folder / "text.json")
    assert texts_in(plan) == Counter([*good[0], *good[1], *good[2]])
    assert record["bad_documents"] == 1
    assert str(source / f"{name}.{kind}") in record["bad"][0]["where"]
    assert int(done.stdout) < 1300  # MB: pyarrow alone takes 800 to hand over such a row


# text that is no text

INVALID = {
    1: b"\xff\xfe bad",
    7: b"cut off \xc3",
    23: b"\xed\xa0\x80 a surrogate",
    41: b"\xf4\x90\x80\x80",
    42: b"\xc0\x80",
}


def test_invalid_utf_8_is_named_with_its_row_or_skipped_row_by_row(folder, good, refused, prepared):
    source = folder("parquet")
    rest = iter([*good[1], *(f"more {i}" for i in range(10))])
    rows = [INVALID[i] if i in INVALID else next(rest).encode() for i in range(45)]
    raw_parquet(source / "b.parquet", rows)
    message = refused(f"parquet:{source}")
    assert f"{source / 'b.parquet'}, row group 0, row 1: not valid UTF-8" in message
    assert "at byte 0" in message
    assert "corpus.on_bad=skip" in message
    plan = prepared(f"parquet:{source}", "corpus.on_bad=skip")
    places = [f"b.parquet, row group {i // GROUP}, row {i % GROUP}" for i in INVALID]
    kept = [row.decode() for i, row in enumerate(rows) if i not in INVALID]
    skipped(plan, good, kept, [(place, "not valid UTF-8") for place in places])


def read_all(path, kind, skip_bad=True):
    """What a file holds, read by itself."""
    source = InputSplit(kind, (str(path),), None, 0)
    return [document for batch in read_batches(source, "text", skip_bad, 10**9) for document in batch]


def test_an_invalid_row_far_into_a_row_group_is_named_by_its_number_there(tmp_path):
    rows = [b"row %d" % i for i in range(3000)]
    rows[2100] = b"\x80"
    raw_parquet(tmp_path / "a.parquet", rows, group=3000)
    found = read_all(tmp_path / "a.parquet", "parquet")
    assert [i for i, document in enumerate(found) if isinstance(document, BadDocument)] == [2100]
    assert found[2100].where.endswith("a.parquet, row group 0, row 2100")


@SETTINGS
def test_lone_surrogates_in_json_become_replacement_characters(folder, good, prepared, on_bad):
    source = folder("jsonl")
    with (source / "b.jsonl").open("ab") as file:
        file.write(b'{"text": "high \\ud800 low \\udc00 end"}\n{"text": "\\ud83d\\ude00 is whole"}\n')
        file.write(b'{"text": "raw \xed\xa0\x80 bytes"}\n' if on_bad == "skip" else b"")
    plan = prepared(f"jsonl:{source}", f"corpus.on_bad={on_bad}")
    found = texts_in(plan)
    assert found["high \ufffd low \ufffd end"] == found["😀 is whole"] == 1
    assert sum(found.values()) - sum(map(len, good)) in (2, 3)


BAD_LINES = {
    "not JSON": b'{"text": "cut of',
    "no object": b'["text"]',
    "a number": b"5",
    "a string": b'"text"',
    "null": b"null",
    "without the column": b'{"body": "x"}',
    "the column null": b'{"text": null}',
    "the column a number": b'{"text": 5.5}',
    "the column a list": b'{"text": ["a", "b"]}',
    "the column an object": b'{"text": {"text": "x"}}',
    "NULs": b"\x00" * 100,
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "two objects": b'{"text": "a"} {"text": "b"}',
    "a huge number": b'{"text": ' + b"9" * 10_000 + b"}",
    "deep": b"[" * 200_000,
    "deep and whole": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a lone CR": b'{"text": "x"}\r{"text": "y"}',
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_with_its_number(tmp_path, good, name):
    data = jsonl_lines(good[1]).split(b"\n")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join([*data[:4], BAD_LINES[name], *data[4:]]))
    with pytest.raises(TrialError, match=rf"^{tmp_path / 'b.jsonl'}, line 5: .*corpus\.on_bad=skip$") as error:
        read_all(tmp_path / "b.jsonl", "jsonl", skip_bad=False)
    assert len(str(error.value)) < 2000


def test_bad_lines_are_skipped_and_counted_and_the_first_hundred_told(folder, good, prepared):
    source = folder("jsonl")
    # no newline at the end, and a byte order mark at the beginning, are no harm
    data = jsonl_lines(good[1]).rstrip(b"\n")
    data = b"\xef\xbb\xbf" + b"\n".join([*data.split(b"\n")[:4], *BAD_LINES.values(), *data.split(b"\n")[4:]])
    (source / "b.jsonl").write_bytes(data)
    plan = prepared(f"jsonl:{source}", "corpus.on_bad=skip")
    skipped(plan, good, good[1], [(f"b.jsonl, line {5 + i}", "text") for i in range(len(BAD_LINES))])
    (source / "b.jsonl").write_bytes(b"no\n" * 250)
    record = read_json(prepared(f"jsonl:{source}", "corpus.on_bad=skip", "corpus.task_bytes=1").folder / "text.json")
    assert record["bad_documents"] == 250
    assert [bad["where"] for bad in record["bad"]] == [f"{source / 'b.jsonl'}, line {i}" for i in range(1, 101)]


# files that are not whole


def damaged(data, part):
    """A parquet file cut off, or with a part of its footer overwritten."""
    if isinstance(part, float):
        return data[: int(part * len(data))]
    length = int.from_bytes(data[-8:-4], "little")
    where = {"footer": slice(-8 - length, -8), "length": slice(-8, -4), "magic": slice(-4, None)}[part]
    data[where] = b"\xff" * len(data[where])
    return data


@pytest.mark.parametrize(
    ("part", "task_bytes"), [(0.0, 1), (0.01, 10**9), (0.99, 1), ("footer", 10**9), ("length", 1), ("magic", 10**9)]
)
def test_a_truncated_parquet_file_is_an_error_or_a_skip_of_the_file(folder, good, refused, prepared, part, task_bytes):
    source = folder("parquet")
    (source / "b.parquet").write_bytes(damaged(bytearray((source / "b.parquet").read_bytes()), part))
    setting = f"parquet:{source}", f"corpus.task_bytes={task_bytes}"
    message = refused(*setting)
    assert f"{source / 'b.parquet'}: not a valid parquet file" in message
    assert "corpus.on_bad=skip" in message
    skipped(prepared(*setting, "corpus.on_bad=skip"), good, [], [("b.parquet", "not a valid parquet file")])


@pytest.mark.parametrize(("compression", "task_bytes"), [("snappy", 1), ("zstd", 10**9), ("none", 1)])
def test_damaged_pages_are_an_error_or_a_skip_of_their_row_group(
    folder, good, refused, prepared, compression, task_bytes
):
    source = folder("parquet")
    texts = [*good[1], *(f"{text} again" for text in good[1])]
    parquet(source / "b.parquet", texts, compression=compression, use_dictionary=False)
    metadata = pyarrow.parquet.read_metadata(source / "b.parquet")
    assert metadata.num_row_groups == 3
    column = metadata.row_group(1).column(0)
    data = bytearray((source / "b.parquet").read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (source / "b.parquet").write_bytes(data)
    setting = f"parquet:{source}", f"corpus.task_bytes={task_bytes}"
    message = refused(*setting)
    assert f"{source / 'b.parquet'}, row group 1" in message
    assert "corpus.on_bad=skip" in message
    plan = prepared(*setting, "corpus.on_bad=skip")
    skipped(plan, good, [*texts[:GROUP], *texts[2 * GROUP :]], [("b.parquet, row group 1", "cannot be read")])


@pytest.fixture(scope="module")
def sound(tmp_path_factory, prose):
    path = tmp_path_factory.mktemp("fuzz") / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"id": range(30), "text": prose[:30]}), path, row_group_size=10, use_dictionary=False
    )
    return path


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    where=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=200),
    task_bytes=st.sampled_from([1, 10**9]),
)
def test_whatever_is_written_over_a_parquet_file_the_error_is_clear(sound, where, junk, task_bytes):
    """Read, skipped or refused with the file's name: anything but another kind of error."""
    data = bytearray(sound.read_bytes())
    start = int(where * len(data))
    data[start : start + len(junk)] = junk[: len(data) - start]
    path = sound.with_name("spoilt.parquet")
    path.write_bytes(data)
    found, message = [], "spoilt.parquet"
    try:
        for source in Source(f"parquet:{path}", "text").input_splits(task_bytes):
            found += [document for batch in read_batches(source, "text", True, 10**9) for document in batch]
    except TrialError as error:
        message = str(error)
    assert "spoilt.parquet" in message
    for document in found:
        assert (
            "spoilt.parquet" in document.where if isinstance(document, BadDocument) else document.decode() is not None
        )


def test_a_damaged_name_of_a_parquet_column_is_a_damaged_file(sound):
    """Each place of the footer that holds the name, as bytes that are no UTF-8; some of them are read by nobody."""
    data = sound.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = [match.start() for match in re.finditer(b"text", data) if match.start() > footer]
    path, damaged = sound.with_name("damaged.parquet"), []
    for place in places:
        path.write_bytes(data[:place] + b"\x80" + data[place + 1 :])
        [source] = Source(f"parquet:{path}", "text").input_splits(10**9)
        found = [document for batch in read_batches(source, "text", True, 10**9) for document in batch]
        damaged += [document.where for document in found if isinstance(document, BadDocument)]
        assert len(found) in (1, 30)
    assert set(damaged) == {str(path)}


@pytest.fixture
def packed(folder):
    """`packed(ending, data)`: the folder with b compressed so."""

    def make(ending, data):
        source = folder("jsonl")
        (source / "b.jsonl").unlink()
        (source / f"b.jsonl.{ending}").write_bytes(data)
        return source, source / f"b.jsonl.{ending}"

    return make


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_compressed_file_is_an_error_or_a_skip_of_its_rest(packed, good, refused, prepared, ending, kept):
    whole = PACK[ending](jsonl_lines(good[1]))
    source, path = packed(ending, whole[: int(kept * len(whole))])
    message = refused(f"jsonl:{source}")
    assert re.match(rf"{path}, after line [0-9]+: broken off, the rest is lost: .*corpus\.on_bad=skip", message)
    plan = prepared(f"jsonl:{source}", "corpus.on_bad=skip")
    left = read_json(plan.folder / "text.json")["documents_read"] - len(good[0]) - len(good[2]) - 1
    skipped(plan, good, good[1][:left], [(f"{path}, after line {left}", "broken off, the rest is lost")])


@pytest.mark.parametrize("ending", PACK)
def test_a_damaged_compressed_file_is_an_error_or_a_skip_of_its_rest(packed, good, refused, prepared, ending):
    data = bytearray(PACK[ending](jsonl_lines(good[1])))
    start = len(data) // 2
    data[start : start + 200] = bytes(byte ^ 0x55 for byte in data[start : start + 200])
    source, path = packed(ending, data)
    assert re.match(rf"{path}, .*corpus\.on_bad=skip", refused(f"jsonl:{source}"))
    plan = prepared(f"jsonl:{source}", "corpus.on_bad=skip")
    bad = read_json(plan.folder / "text.json")["bad"]
    assert bad
    assert all(document["where"].startswith(str(path)) for document in bad)
    assert Counter([*good[0], *good[2]]) <= texts_in(plan)


@pytest.mark.parametrize("ending", PACK)
def test_rubbish_behind_the_last_stream_is_no_silent_end(packed, good, prepared, refused, ending):
    source, path = packed(ending, PACK[ending](jsonl_lines(good[1])) + b"\x01rubbish" * 10)
    if ending in ("bz2", "xz"):  # as bzip2 itself, Python passes over what follows a whole stream of these
        skipped(prepared(f"jsonl:{source}"), good, good[1], [])
    else:
        assert refused(f"jsonl:{source}").startswith(f"{path}, after line ")


@SETTINGS
def test_a_missing_column_is_an_error_always(folder, good, refused, on_bad):
    source = folder("parquet")
    pyarrow.parquet.write_table(pyarrow.table({"body": good[1]}), source / "b.parquet")
    message = refused(f"parquet:{source}", f"corpus.on_bad={on_bad}", kind=SettingsError)
    assert message == f"corpus.text_column: {source / 'b.parquet'} has no column 'text'; there are body"
    jsonl(source / "a.jsonl", good[0])  # of lines each may have other columns: none has this one
    message = refused(f"jsonl:{source}", "corpus.text_column=body", f"corpus.on_bad={on_bad}")
    assert "body" in message or "no document" in message


@pytest.mark.parametrize(("kind", "on_bad"), [("jsonl", "skip"), ("parquet", "error")])
@pytest.mark.parametrize("when", ["before it is hashed", "after it was hashed"])
def test_a_file_that_vanishes_is_an_error_always(folder, tiny, tmp_path, kind, on_bad, when):
    source = folder(kind)
    plan = CorpusPlan(tiny(tmp_path / "run", *PLAIN, f"corpus.source={kind}:{source}", f"corpus.on_bad={on_bad}"))
    if when == "after it was hashed":
        assert plan.text_fingerprint
    (source / f"b.{kind}").unlink()
    with pytest.raises(TrialError, match=re.escape(str(source / f"b.{kind}"))):
        prepare_text(plan)
    nothing_looks_whole(plan.trial)


# a full disk


@pytest.fixture
def disk(tmp_path):
    """`disk(size)`: a folder on a disk of its own of this size; called again, it has another."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(size):
        options = f"remount,size={size}" if path.is_mount() else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
        return path / "run"

    yield mount
    subprocess.run(["umount", "-l", path], capture_output=True, check=False)


@pytest.fixture
def long(tmp_path, prose):
    """About 3 MB of text: more shards than the small disk holds."""
    jsonl(tmp_path / "long.jsonl", [f"{i}. {text}" for i in range(20) for text in prose])
    return f"corpus.source=jsonl:{tmp_path / 'long.jsonl'}"


@pytest.mark.parametrize("size", ["8k", "200k"])
def test_a_full_disk_is_a_clear_error_and_with_space_the_same_call_succeeds(
    disk, long, tiny, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(prepare, "need_disk", lambda *_: None)
    trial = tiny(disk(size), *PLAIN, long, "disk_reserve_gb=0")
    with pytest.raises(TrialError, match=r"No space left on device.*(again|free|output=)"):
        prepare_text(CorpusPlan(trial))
    nothing_looks_whole(trial)
    disk("64m")
    elsewhere = tiny(tmp_path / "elsewhere", *PLAIN, long)
    shards = []
    for prepared in (trial, elsewhere):
        prepare_text(CorpusPlan(prepared))
        paths = shard_paths(prepared.folder / "corpus", "text", "train")
        shards.append({path.name: path.read_bytes() for path in paths})
    assert shards[0] == shards[1]
    assert len(shards[0]) > 10


def test_what_cannot_fit_is_refused_before_anything_is_written(long, tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)

    def planned(name, free, *settings):
        monkeypatch.setattr(store_disk.shutil, "disk_usage", lambda _: usage._replace(free=int(free)))
        return CorpusPlan(tiny(tmp_path / name, *PLAIN, long, *settings))

    plan = planned("whole", 0.5e9, "disk_reserve_gb=0.4")
    prepare_text(plan)
    written = sum(path.stat().st_size for path in plan.folder.glob("*.npy"))
    few = "corpus.tokens=50000", "corpus.task_bytes=1"  # where only some tokens are wanted, only they must fit
    for name, free, more in (("about", 1.4 * written, []), ("few", 200_000, few)):
        prepare_text(planned(name, free, "disk_reserve_gb=0", *more))
    for name, free, reserve in (("small", 0.7 * written, 0), ("reserved", 0.5e9, 0.5)):
        plan = planned(name, free, f"disk_reserve_gb={reserve}")
        refused = rf"the corpus needs 0\.0[0-9]+ GB and a reserve of {reserve} GB \(disk_reserve_gb\).*free some space"
        with pytest.raises(TrialError, match=refused):
            prepare_text(plan)
        nothing_looks_whole(plan.trial)
        assert not list(plan.trial.folder.rglob("*.npy"))
