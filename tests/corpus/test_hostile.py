"""Hostile input: whatever a source holds and whatever happens to it, the corpus stage ends with a clear error or with a
counted, recorded skip, and never with a corpus that looks whole and is not."""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokentrial.corpus import prepare, read
from tokentrial.corpus.prepare import CorpusPlan, prepare_text
from tokentrial.corpus.read import Bad, Unit, documents
from tokentrial.corpus.shards import open_shard, shard_paths, text_of
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError
from tokentrial.run.run import run
from tokentrial.store import disk as store_disk
from tokentrial.store.files import read_json

PLAIN = ("corpus.piece_characters=null", "corpus.drills.never_asked_folds=0")
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}
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
    shards = [
        open_shard(p, plan.vocabulary.eos) for s in ("train", "val") for p in shard_paths(plan.folder, "fineweb", s)
    ]
    return Counter(text_of(shard.document(i), plan.vocabulary) for shard in shards for i in range(len(shard)))


def jsonl(path, texts):
    path.write_bytes(lines(texts))


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(path, texts, **more):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=GROUP, **more)


WRITE = {"jsonl": jsonl, "parquet": parquet}


def raw_parquet(path, texts):
    """A string column made of any bytes at all."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(offsets.tobytes()), pyarrow.py_buffer(b"".join(texts))]
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(texts), buffers)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path, row_group_size=GROUP)


@pytest.fixture
def folder(tmp_path, good):
    """`folder(kind)`: a folder a, b, c of good files; a test then spoils b."""

    def make(kind):
        here = tmp_path / "source"
        here.mkdir()
        for name, texts in zip("abc", good, strict=True):
            WRITE[kind](here / f"{name}.{kind}", texts)
        return here

    return make


def skipped(plan, good, kept_of_b, bad):
    """Assert that the rest is all there and that what is bad is counted and told."""
    assert texts_in(plan) == Counter([*good[0], *kept_of_b, *good[2]])
    record = read_json(plan.folder / "text.json")
    assert record["bad_documents"] == len(bad) == len(record["bad"])
    for told, (where, why) in zip(record["bad"], bad, strict=True):
        assert told["where"].endswith(where)
        assert re.search(why, told["why"]), told["why"]
    assert record["documents_read"] == len(good[0]) + len(kept_of_b) + len(good[2]) + len(bad)


# documents


@SETTINGS
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_empty_and_nul_filled_documents_are_counted_and_left_out(folder, good, prepared, kind, on_bad):
    here = folder(kind)
    empty = ["", "\x00" * 5000, " \n\t\r", "\x00 \x01\n", "\x7f", "\x00", " " * 100_000]
    WRITE[kind](here / f"b.{kind}", [*empty, *good[1], *empty])
    plan = prepared(f"{kind}:{here}", f"corpus.on_bad={on_bad}")
    record = read_json(plan.folder / "text.json")
    assert (record["empty_documents"], record["bad_documents"], record["bad"]) == (14, 0, [])
    assert texts_in(plan) == Counter([*good[0], *good[1], *good[2]])


def test_a_nul_within_a_text_stays(folder, good, prepared):
    here = folder("jsonl")
    jsonl(here / "b.jsonl", ["a\x00b", *good[1]])
    plan = prepared(f"jsonl:{here}")
    assert texts_in(plan)["a\x00b"] == 1
    assert read_json(plan.folder / "text.json")["empty_documents"] == 0


@pytest.mark.parametrize("kind", WRITE)
def test_a_document_above_the_limit_is_an_error_that_names_the_setting(folder, good, refused, kind):
    here = folder(kind)
    WRITE[kind](here / f"a.{kind}", [good[0][0], "x" * 10_001, *good[0][1:]])
    message = refused(f"{kind}:{here}", "corpus.max_document_bytes=10000")
    assert message.startswith(f"{here / f'a.{kind}'}, ")
    assert re.search("10,?001 bytes, more than corpus.max_document_bytes", message)
    assert "corpus.on_bad=skip" in message


@pytest.mark.parametrize("kind", WRITE)
def test_a_document_above_the_limit_is_skipped_and_one_at_the_limit_kept(folder, good, prepared, kind):
    here = folder(kind)
    WRITE[kind](here / f"b.{kind}", [good[1][0], "é" * 5001, *good[1][1:], "x" * 10_000])
    plan = prepared(f"{kind}:{here}", "corpus.max_document_bytes=10000", "corpus.on_bad=skip")
    skipped(plan, good, [*good[1], "x" * 10_000], [("", "^10,?002 bytes, more than corpus.max_document_bytes")])


@pytest.mark.parametrize("kind", WRITE)
def test_a_document_above_the_limit_is_told_with_its_own_file(folder, good, prepared, refused, kind):
    """And not with the first of its task."""
    here = folder(kind)
    WRITE[kind](here / f"b.{kind}", [good[1][0], "é" * 5001, *good[1][1:]])
    assert str(here / f"b.{kind}") in refused(f"{kind}:{here}", "corpus.max_document_bytes=10000")
    plan = prepared(f"{kind}:{here}", "corpus.max_document_bytes=10000", "corpus.on_bad=skip")
    [bad] = read_json(plan.folder / "text.json")["bad"]
    assert str(here / f"b.{kind}") in bad["where"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("first", [True, False])
def test_a_document_of_200_mb_is_skipped_within_bounded_memory(folder, good, tiny, tmp_path, kind, first):
    here = folder(kind)
    huge = "All work and no play makes Jack a dull boy. " * 4_600_000
    assert len(huge) > 200_000_000
    name, texts = ("a", good[0]) if first else ("b", good[1])
    WRITE[kind](here / f"{name}.{kind}", [texts[0], huge, *texts[1:]])
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
    trial = tiny(tmp_path / "run", *PLAIN, f"corpus.source={kind}:{here}", "corpus.on_bad=skip")
    (tmp_path / "trial.yaml").write_text(json.dumps(trial.model_dump(mode="json")))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "trial.yaml")], capture_output=True, text=True, check=True
    )
    plan = CorpusPlan(trial)
    record = read_json(plan.folder / "text.json")
    assert texts_in(plan) == Counter([*good[0], *good[1], *good[2]])
    assert record["bad_documents"] == 1
    assert str(here / f"{name}.{kind}") in record["bad"][0]["where"]
    assert int(done.stdout) < 1300  # MB: pyarrow alone takes 800 to hand over such a row


# text that is no text

INVALID = {
    1: b"\xff\xfe bad",
    7: b"cut off \xc3",
    23: b"\xed\xa0\x80 a surrogate",
    41: b"\xf4\x90\x80\x80",
    42: b"\xc0\x80",
}


def with_invalid_rows(good):
    """45 rows, of which five are not UTF-8; GROUP rows a group."""
    rest = iter([*good[1], *(f"more {i}" for i in range(10))])
    return [INVALID[i] if i in INVALID else next(rest).encode() for i in range(45)]


def test_invalid_utf_8_is_named_with_its_row(folder, good, refused):
    here = folder("parquet")
    raw_parquet(here / "b.parquet", with_invalid_rows(good))
    message = refused(f"parquet:{here}")
    assert f"{here / 'b.parquet'}, row group 0, row 1: not valid UTF-8" in message
    assert "at byte 0" in message
    assert "corpus.on_bad=skip" in message


def test_invalid_utf_8_is_skipped_row_by_row(folder, good, prepared):
    here = folder("parquet")
    rows = with_invalid_rows(good)
    raw_parquet(here / "b.parquet", rows)
    plan = prepared(f"parquet:{here}", "corpus.on_bad=skip")
    places = [f"b.parquet, row group {i // GROUP}, row {i % GROUP}" for i in INVALID]
    kept = [row.decode() for i, row in enumerate(rows) if i not in INVALID]
    skipped(plan, good, kept, [(place, "not valid UTF-8") for place in places])


def test_an_invalid_row_far_into_a_row_group_is_named_by_its_number_there(tmp_path):
    texts = [b"row %d" % i for i in range(3000)]
    texts[2100] = b"\x80"
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(offsets.tobytes()), pyarrow.py_buffer(b"".join(texts))]
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3000, buffers)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    unit = Unit("parquet", (str(tmp_path / "a.parquet"),), None, 0)
    found = [each for batch in documents(unit, "text", True, 10**9) for each in batch]
    assert [i for i, each in enumerate(found) if isinstance(each, Bad)] == [2100]
    assert found[2100].where.endswith("a.parquet, row group 0, row 2100")


@SETTINGS
def test_lone_surrogates_in_json_become_replacement_characters(folder, good, prepared, on_bad):
    here = folder("jsonl")
    with (here / "b.jsonl").open("ab") as file:
        file.write(b'{"text": "high \\ud800 low \\udc00 end"}\n{"text": "\\ud83d\\ude00 is whole"}\n')
        file.write(b'{"text": "raw \xed\xa0\x80 bytes"}\n' if on_bad == "skip" else b"")
    plan = prepared(f"jsonl:{here}", f"corpus.on_bad={on_bad}")
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
    "blank": b"",
    "white space": b"  \t ",
    "NULs": b"\x00" * 100,
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "two objects": b'{"text": "a"} {"text": "b"}',
    "a huge number": b'{"text": ' + b"9" * 10_000 + b"}",
    "deep": b"[" * 200_000,
    "deep and whole": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a lone CR": b'{"text": "x"}\r{"text": "y"}',
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_with_its_number(folder, good, refused, name):
    here = folder("jsonl")
    data = lines(good[1]).split(b"\n")
    (here / "b.jsonl").write_bytes(b"\n".join([*data[:4], BAD_LINES[name], *data[4:]]))
    message = refused(f"jsonl:{here}")
    assert message.startswith(f"{here / 'b.jsonl'}, line 5: ")
    assert "corpus.on_bad=skip" in message
    assert len(message) < 2000


def test_bad_lines_are_skipped_counted_and_told(folder, good, prepared):
    here = folder("jsonl")
    data = lines(good[1]).split(b"\n")
    (here / "b.jsonl").write_bytes(b"\n".join([*data[:4], *BAD_LINES.values(), *data[4:]]))
    plan = prepared(f"jsonl:{here}", "corpus.on_bad=skip")
    bad = [(f"b.jsonl, line {5 + i}", "text") for i in range(len(BAD_LINES))]
    skipped(plan, good, good[1], bad)


def test_a_byte_order_mark_and_a_missing_last_newline_are_no_harm(folder, good, prepared):
    here = folder("jsonl")
    (here / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(good[1]).rstrip(b"\n"))
    skipped(prepared(f"jsonl:{here}"), good, good[1], [])


def test_of_many_bad_documents_the_first_hundred_are_told_and_all_counted(folder, good, prepared):
    here = folder("jsonl")
    (here / "b.jsonl").write_bytes(b"no\n" * 250 + lines(good[1]))
    plan = prepared(f"jsonl:{here}", "corpus.on_bad=skip", "corpus.task_bytes=1")
    record = read_json(plan.folder / "text.json")
    assert record["bad_documents"] == 250
    assert [bad["where"] for bad in record["bad"]] == [f"{here / 'b.jsonl'}, line {i}" for i in range(1, 101)]
    assert texts_in(plan) == Counter([*good[0], *good[1], *good[2]])


# files that are not whole


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_a_truncated_parquet_file_is_an_error_or_a_skip_of_the_file(folder, good, refused, prepared, kept, task_bytes):
    here = folder("parquet")
    whole = (here / "b.parquet").read_bytes()
    (here / "b.parquet").write_bytes(whole[: int(kept * len(whole))])
    setting = f"parquet:{here}", f"corpus.task_bytes={task_bytes}"
    message = refused(*setting)
    assert f"{here / 'b.parquet'}: not a whole parquet file" in message
    assert "corpus.on_bad=skip" in message
    skipped(prepared(*setting, "corpus.on_bad=skip"), good, [], [("b.parquet", "not a whole parquet file")])


@pytest.mark.parametrize("part", ["footer", "length", "magic"])
@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_a_parquet_file_with_a_damaged_footer_is_an_error_or_a_skip_of_the_file(
    folder, good, refused, prepared, part, task_bytes
):
    here = folder("parquet")
    data = bytearray((here / "b.parquet").read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    where = {"footer": slice(-8 - length, -8), "length": slice(-8, -4), "magic": slice(-4, None)}[part]
    data[where] = b"\xff" * len(data[where])
    (here / "b.parquet").write_bytes(data)
    setting = f"parquet:{here}", f"corpus.task_bytes={task_bytes}"
    assert str(here / "b.parquet") in refused(*setting)
    skipped(prepared(*setting, "corpus.on_bad=skip"), good, [], [("b.parquet", "")])


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "brotli", "lz4", "none"])
@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_damaged_pages_are_an_error_or_a_skip_of_their_row_group(
    folder, good, refused, prepared, compression, task_bytes
):
    here = folder("parquet")
    texts = [*good[1], *(f"{text} again" for text in good[1])]
    parquet(here / "b.parquet", texts, compression=compression, use_dictionary=False)
    metadata = pyarrow.parquet.read_metadata(here / "b.parquet")
    assert metadata.num_row_groups == 3
    column = metadata.row_group(1).column(0)
    data = bytearray((here / "b.parquet").read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (here / "b.parquet").write_bytes(data)
    setting = f"parquet:{here}", f"corpus.task_bytes={task_bytes}"
    message = refused(*setting)
    assert f"{here / 'b.parquet'}, row group 1" in message
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


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
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
        for unit in Source(f"parquet:{path}", "text").units(task_bytes):
            found += [each for batch in documents(unit, "text", True, 10**9) for each in batch]
    except TrialError as error:
        message = str(error)
    assert "spoilt.parquet" in message
    for each in found:
        assert "spoilt.parquet" in each.where if isinstance(each, Bad) else each.decode() is not None


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_compressed_file_is_an_error_or_a_skip_of_its_rest(folder, good, refused, prepared, ending, kept):
    here = folder("jsonl")
    (here / "b.jsonl").unlink()
    whole = PACK[ending](lines(good[1] * 20))
    path = here / f"b.jsonl.{ending}"
    path.write_bytes(whole[: int(kept * len(whole))])
    message = refused(f"jsonl:{here}")
    assert re.match(rf"{path}, after line [0-9]+: broken off, the rest is lost", message)
    assert "corpus.on_bad=skip" in message
    plan = prepared(f"jsonl:{here}", "corpus.on_bad=skip")
    record = read_json(plan.folder / "text.json")
    of_b = record["documents_read"] - len(good[0]) - len(good[2]) - 1
    assert record["bad_documents"] == 1
    assert [bad["where"] for bad in record["bad"]] == [f"{path}, after line {of_b}"]
    assert texts_in(plan) == Counter([*good[0], *(good[1] * 20)[:of_b], *good[2]])


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.9])
def test_a_damaged_compressed_file_is_an_error_or_a_skip_of_its_rest(folder, good, refused, prepared, ending, where):
    here = folder("jsonl")
    (here / "b.jsonl").unlink()
    data = bytearray(PACK[ending](lines(good[1] * 20)))
    start = int(where * len(data))
    data[start : start + 200] = bytes(byte ^ 0x55 for byte in data[start : start + 200])
    path = here / f"b.jsonl.{ending}"
    path.write_bytes(data)
    message = refused(f"jsonl:{here}")
    assert message.startswith(str(path))
    assert "corpus.on_bad=skip" in message
    plan = prepared(f"jsonl:{here}", "corpus.on_bad=skip")
    record = read_json(plan.folder / "text.json")
    assert record["bad_documents"] >= 1
    assert all(bad["where"].startswith(str(path)) for bad in record["bad"])
    found = texts_in(plan)
    for text, times in Counter([*good[0], *good[2]]).items():
        assert found[text] >= times


@pytest.mark.parametrize("ending", PACK)
def test_rubbish_behind_the_last_stream_is_no_silent_end(folder, good, prepared, refused, ending):
    here = folder("jsonl")
    (here / "b.jsonl").unlink()
    path = here / f"b.jsonl.{ending}"
    path.write_bytes(PACK[ending](lines(good[1])) + b"\x01rubbish" * 10)
    if ending in ("bz2", "xz"):  # as bzip2 itself, Python passes over what follows a whole stream of these
        skipped(prepared(f"jsonl:{here}"), good, good[1], [])
        return
    assert refused(f"jsonl:{here}").startswith(f"{path}, after line ")


def test_skippable_frames_of_zstandard_are_skipped(folder, good, prepared):
    here = folder("jsonl")
    (here / "b.jsonl").unlink()
    frame = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"pzst"
    middle = lines(good[1][:10])
    packed = [PACK["zst"](middle), PACK["zst"](lines(good[1][10:]))]
    (here / "b.jsonl.zst").write_bytes(frame + packed[0] + frame + packed[1] + frame)
    skipped(prepared(f"jsonl:{here}"), good, good[1], [])


@SETTINGS
@pytest.mark.parametrize("task_bytes", [1, 10**9])
def test_a_missing_column_is_an_error_always(folder, good, refused, on_bad, task_bytes):
    here = folder("parquet")
    pyarrow.parquet.write_table(pyarrow.table({"body": good[1]}), here / "b.parquet")
    message = refused(
        f"parquet:{here}", f"corpus.on_bad={on_bad}", f"corpus.task_bytes={task_bytes}", kind=SettingsError
    )
    assert message == f"corpus.text_column: {here / 'b.parquet'} has no column 'text'; there are body"


@SETTINGS
def test_a_column_that_no_line_has_is_an_error_always(folder, refused, on_bad):
    here = folder("jsonl")
    message = refused(f"jsonl:{here}", "corpus.text_column=body", f"corpus.on_bad={on_bad}")
    assert "body" in message or "no document" in message


# files that vanish


@SETTINGS
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("task_bytes", [1, 10**9])
@pytest.mark.parametrize("when", ["before it is hashed", "after it was hashed", "midway"])
def test_a_file_that_vanishes_is_an_error_always(folder, tiny, tmp_path, monkeypatch, kind, on_bad, task_bytes, when):
    here = folder(kind)
    trial = tiny(
        *(tmp_path / "run", *PLAIN, f"corpus.source={kind}:{here}", f"corpus.on_bad={on_bad}"),
        f"corpus.task_bytes={task_bytes}",
    )
    plan = CorpusPlan(trial)
    gone = here / f"b.{kind}"
    if when != "before it is hashed":
        assert plan.text
    if when == "midway":
        name = {"jsonl": "_open", "parquet": "_parquet_file"}[kind]
        opened = getattr(read, name)

        def vanishing(path):
            file = opened(path)
            if path == str(here / f"a.{kind}") and os.environ.get("UNITS_ARE_MADE"):
                gone.unlink(missing_ok=True)
            return file

        monkeypatch.setattr(read, name, vanishing)
        units = plan.source.units(trial.corpus.task_bytes)
        monkeypatch.setattr(plan.source, "units", lambda *_, **__: units)
        monkeypatch.setenv("UNITS_ARE_MADE", "1")
    else:
        gone.unlink()
    with pytest.raises(TrialError, match=re.escape(str(gone))):
        prepare_text(plan)
    assert not gone.exists()
    nothing_looks_whole(trial)


# a full disk


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB of its own; `disk.grow()` makes it a larger one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode().strip()}")

    class Disk:
        folder = path / "run"

        def leave(self, kilobytes):
            """Fill the disk but for so much."""
            free = shutil.disk_usage(path).free
            (path / "ballast").write_bytes(bytes(max(0, free - kilobytes * 1024)))

        def grow(self):
            (path / "ballast").unlink(missing_ok=True)
            subprocess.run(["mount", "-o", "remount,size=64m", path], check=True)

    yield Disk()
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def long(tmp_path, prose):
    """About 3 MB of text: more shards than the small disk holds."""
    jsonl(tmp_path / "long.jsonl", [f"{i}. {text}" for i in range(20) for text in prose])
    return f"corpus.source=jsonl:{tmp_path / 'long.jsonl'}"


@pytest.mark.parametrize("executor", ["in-process", "local"])
@pytest.mark.parametrize("left", [2048, 600, 100, 4, 0])
def test_a_full_disk_is_a_clear_error_and_with_space_the_same_call_succeeds(
    disk, long, tiny, tmp_path, monkeypatch, left, executor
):
    monkeypatch.setattr(prepare, "need_disk", lambda *_: None)
    trial = tiny(disk.folder, *PLAIN, long, "disk_reserve_gb=0", f"corpus.executor={executor}")
    if left < 2048:
        disk.leave(left)
    with pytest.raises(TrialError, match=r"No space left on device.*(again|free|output=)"):
        prepare_text(CorpusPlan(trial))
    nothing_looks_whole(trial)
    disk.grow()
    prepare_text(CorpusPlan(trial))
    elsewhere = tiny(tmp_path / "elsewhere", *PLAIN, long)
    prepare_text(CorpusPlan(elsewhere))
    names = [path.name for path in shard_paths(elsewhere.folder / "corpus", "fineweb", "train")]
    assert len(names) > 10
    for name in names:
        written = (disk.folder / "corpus" / name).read_bytes()
        assert written == (elsewhere.folder / "corpus" / name).read_bytes()


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    "share",
    [0.05, 0.35, 0.6, 0.9, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.2, 0.5, 0.7, 0.8, 0.97))],
)
def test_wherever_in_the_corpus_stage_the_disk_is_full_the_error_is_clear(
    disk, plan, tiny, tmp_path, monkeypatch, share
):
    """Text, drills, patches, records: with less and less space each of them is the first that does not fit."""
    monkeypatch.setattr(prepare, "need_disk", lambda *_: None)
    monkeypatch.setattr("tokentrial.run.run.need_disk", lambda *_: None)
    trial = tiny(disk.folder, "arms=[baseline,mul_tokens,mul_append]", "seeds=[1,2,3]", "disk_reserve_gb=0")
    files = [path for path in plan.trial.folder.rglob("*") if path.is_file()]  # of the same corpus, finished
    disk.leave(int(share * sum(-(-path.stat().st_size // 4096) * 4 for path in files)))
    with pytest.raises(TrialError, match=r"No space left on device.*(again|free|output=)"):
        run(trial, ("corpus",))
    assert not (trial.folder / "corpus" / "audit.json").exists()
    disk.grow()
    run(trial, ("corpus",))
    assert CorpusPlan(trial).done


def test_what_cannot_fit_is_refused_before_anything_is_written(long, tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    plan = CorpusPlan(tiny(tmp_path / "run", *PLAIN, long, "disk_reserve_gb=0.5"))
    plan.text  # noqa: B018 - the hash of the source is remembered in the run folder

    def free(size):
        monkeypatch.setattr(store_disk.shutil, "disk_usage", lambda _: usage._replace(free=int(size)))

    free(0.5e9)  # the reserve and nothing for the corpus
    with pytest.raises(
        TrialError, match=r"the corpus needs 0\.0[0-9]+ GB and a reserve of 0\.5 GB \(disk_reserve_gb\)"
    ):
        prepare_text(plan)
    nothing_looks_whole(plan.trial)
    assert not list(tmp_path.rglob("*.npy"))

    plan = CorpusPlan(tiny(tmp_path / "run", *PLAIN, long, "disk_reserve_gb=0.4"))
    prepare_text(plan)
    written = sum(path.stat().st_size for path in plan.folder.glob("*.npy"))

    for factor, fits in ((0.7, False), (1.4, True)):  # the estimate is about right
        free(factor * written)
        plan = CorpusPlan(tiny(tmp_path / f"run{factor}", *PLAIN, long, "disk_reserve_gb=0"))
        if fits:
            prepare_text(plan)
        else:
            with pytest.raises(TrialError, match=r"free some space or give output=OTHER_FOLDER"):
                prepare_text(plan)
            nothing_looks_whole(plan.trial)


def test_where_only_some_tokens_are_wanted_only_they_must_fit(long, tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store_disk.shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    few = "corpus.tokens=50000", "disk_reserve_gb=0"
    prepare_text(CorpusPlan(tiny(tmp_path / "few", *PLAIN, long, *few, "corpus.task_bytes=1")))
    with pytest.raises(TrialError, match="free some space"):
        prepare_text(CorpusPlan(tiny(tmp_path / "all", *PLAIN, long, "disk_reserve_gb=0")))
