"""The run folder: a step is whole or absent, done only for its very settings, and one process writes at a time."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.errors import TrialError
from tokentrial.store import disk, files, folders

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "arm" / "seed1" / "pretrain"


@pytest.fixture
def done(folder):
    """A step that is done, of fingerprint `old`."""
    with folders.step(folder, "old", stage="pretrain", seed=1) as partial:
        (partial / "results.json").write_text("{}")
        (partial / "deep").mkdir()
        (partial / "deep" / "weights.bin").write_bytes(b"weights")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail(folder, error):
    """A step that fails in the middle."""
    with folders.step(folder, "new") as partial:
        (partial / "half.bin").write_bytes(b"half")
        raise error


# a step is whole or absent


@pytest.mark.parametrize(("begun", "seconds"), [(None, 3.5), (90.0, 13.5)])
def test_a_manifest_says_how_long_its_step_took(folder, monkeypatch, begun, seconds):
    times = iter([100.0, 103.5] if begun is None else [103.5])
    monkeypatch.setattr(folders.time, "monotonic", lambda: next(times))
    with folders.step(folder, "print", begun):
        pass
    assert files.read_json(folder / "manifest.json")["seconds"] == seconds


def test_a_step_that_fails_leaves_nothing_and_the_next_starts_empty(folder):
    with pytest.raises(ZeroDivisionError):
        fail(folder, ZeroDivisionError)
    assert not folder.exists()
    with folders.step(folder, "print") as partial:
        assert contents(partial) == {}
        (partial / "whole.bin").write_bytes(b"whole")
        assert not folder.exists()
    assert folders.is_done(folder, "print")
    assert sorted(contents(folder)) == ["manifest.json", "whole.bin"]


def test_a_step_replaces_the_one_of_other_settings_whole_or_not_at_all(done):
    before = contents(done)
    with pytest.raises(KeyboardInterrupt):
        fail(done, KeyboardInterrupt)
    assert contents(done) == before
    with folders.step(done, "new") as partial:
        (partial / "other.bin").write_bytes(b"")
        assert folders.is_done(done, "old")
    assert sorted(contents(done)) == ["manifest.json", "other.bin"]
    assert folders.is_done(done, "new")
    assert not folders.is_done(done, "old")
    assert [path.name for path in done.parent.iterdir()] == ["pretrain"]


def test_the_manifest_is_written_last(folder, monkeypatch):
    """A process killed before the manifest leaves a folder that nobody takes for a result."""

    def killed(path, value):
        assert path.name == "manifest.json"
        assert sorted(contents(path.parent)) == ["results.json"]
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write_json", killed)
    with pytest.raises(KeyboardInterrupt), folders.step(folder, "print") as partial:
        (partial / "results.json").write_text("{}")
    assert not folder.exists()


def test_the_manifest_says_what_made_the_step_and_what_it_holds(done):
    manifest = files.read_json(done / "manifest.json")
    assert (manifest["fingerprint"], manifest["stage"], manifest["seed"]) == ("old", "pretrain", 1)
    assert manifest["files"]["deep/weights.bin"] == {
        "bytes": 7,
        # printf weights | sha256sum
        "sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    }
    assert set(manifest["files"]) == {"results.json", "deep/weights.bin"}
    assert manifest["provenance"]["versions"]["numpy"] == np.__version__


# done


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"{"), replaced_by_a_folder])
@pytest.mark.parametrize("name", ["results.json", "deep/weights.bin"])
def test_a_step_that_lost_a_file_or_a_byte_is_not_done(done, damage, name):
    assert folders.is_done(done, "old")
    damage(done / name)
    assert not folders.is_done(done, "old")
    assert folders.damaged_files(done) == [name]


def test_a_step_without_a_manifest_is_not_done(done, tmp_path):
    (done / "manifest.json").unlink()
    assert not folders.is_done(done, "old")
    assert not folders.is_done(tmp_path / "nowhere", "old")


def test_verify_finds_a_flipped_byte_that_the_size_does_not_show(done):
    assert folders.damaged_files(done) == []
    (done / "deep" / "weights.bin").write_bytes(b"Weights")
    assert folders.is_done(done, "old")
    assert folders.damaged_files(done) == ["deep/weights.bin"]


UNSAFE = ("../escaped", "/tmp/escaped", "a/../../escaped", "..\\escaped", "", ".", "a\0b")


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("where", ["files", "pruned"])
@pytest.mark.parametrize(
    "read",
    [
        folders.damaged_files,
        folders.is_whole,
        folders.require_intact,
        lambda folder: folders.prune(folder, ()),
    ],
)
def test_a_manifest_names_no_file_outside_of_its_folder(done, name, where, read):
    manifest = files.read_json(done / "manifest.json")
    more = {name: manifest["files"]["results.json"]} if where == "files" else [name]
    before = manifest.get(where, [])
    files.write_json(done / "manifest.json", manifest | {where: before | more if where == "files" else more})
    with pytest.raises(TrialError, match="outside of its folder"):
        read(done)


@given(st.text(alphabet="a./\\\0 ", max_size=8))
def test_a_name_that_is_inside_stays_there(name):
    if folders.is_inside(name):
        assert Path("/run/step", os.path.normpath(f"/run/step/{name}")).is_relative_to("/run/step")


# fingerprints


def reordered(value):
    """The same value with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value):
    assert files.fingerprint("step", 1, a=value, b=1) == files.fingerprint("step", 1, b=1, a=reordered(value))


@given(values, values)
def test_other_inputs_have_another_fingerprint(one, other):
    same = files.canonical(one) == files.canonical(other)
    assert (files.fingerprint("step", 1, a=one) == files.fingerprint("step", 1, a=other)) is same


def test_a_fingerprint_differs_by_step_version_name_and_value():
    inputs = [{"seed": 1}, {"seed": 2}, {"seed": "1"}, {"seed": True}, {"arm": 1}, {"seed": 1, "arm": None}, {}]
    inputs += [{"step": 1}, {"version": 1}]  # these may be names of inputs too
    prints = {files.fingerprint("pretrain", 1, **given) for given in inputs}
    prints |= {files.fingerprint("export", 1, seed=1), files.fingerprint("pretrain", 2, seed=1)}
    assert len(prints) == len(inputs) + 2


# files


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, old):
    path = tmp_path / "deep" / "file.bin"
    if old is not None:
        files.write_bytes(path, old)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes(path, b"new")
    assert (path.read_bytes() if path.exists() else None) == old


def write_often(path, letter):
    for number in range(30):
        files.write_bytes(path, letter.encode() * (1000 + number))
        whole = path.read_bytes()
        assert len(whole) >= 1000
        assert len(set(whole)) == 1


def take(call, folders_wanted, letter):
    """Those of these names that a writer took, each with a folder of one file."""
    taken = []
    for folder in folders_wanted:
        own = folder.with_name(f"{folder.name}.{letter}")
        own.mkdir(exist_ok=True)
        (own / letter).write_text(letter)
        taken += [folder] if call(own, folder) else []
    return taken


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, partial(ProcessPoolExecutor, mp_context=get_context("spawn"))])
def test_of_many_writers_of_one_path_a_reader_sees_one_whole(tmp_path, pool):
    """Also of one folder: of those that want a free name one alone gets it, and whoever replaces is not disturbed."""
    names = [tmp_path / f"step{number}" for number in range(20)]
    with pool(4) as writers:
        list(writers.map(write_often, [tmp_path / "one.json"] * 4, "abcd"))
        taken = writers.map(take, [folders.place] * 4, [names] * 4, "abcd")
        assert sorted(name for by_writer in taken for name in by_writer) == sorted(names)
        list(writers.map(take, [folders.replace] * 4, [names] * 4, "abcd"))
    assert {len([*path.iterdir()]) for path in names} == {1}
    assert not [*tmp_path.rglob("*.partial")]


def test_what_a_killed_writer_left_goes_after_an_hour_and_what_is_being_written_stays(tmp_path):
    old, new = (tmp_path / f"trial.yaml.{name}.partial" for name in "ab")
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    files.remove_stale_partials(tmp_path)
    assert [*tmp_path.iterdir()] == [new]


def test_a_replaced_folder_that_cannot_be_deleted_is_in_nobodys_way(done, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", lambda path, ignore_errors: None)
        for wanted in ("new", "newer"):
            with folders.step(done, wanted) as partial:
                (partial / wanted).write_text("")
    assert folders.is_done(done, "newer")
    assert len([*done.parent.iterdir()]) > 1
    files.remove_stale_partials(done.parent)
    assert [*done.parent.iterdir()] == [done]


def test_json_reads_back_and_what_is_no_number_is_null(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"loss": float("nan"), "most": float("inf"), "mean": np.float64(0.5), "all": np.arange(2)})
    assert files.read_json(path) == {"loss": None, "most": None, "mean": 0.5, "all": [0, 1]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_json_that_is_absent_or_broken_is_named(tmp_path):
    with pytest.raises(TrialError, match=r"results\.json: not found"):
        files.read_json(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"loss": 1')
    with pytest.raises(TrialError, match=r"results\.json: not valid JSON .*delete it and run again"):
        files.read_json(tmp_path / "results.json")


# one writer, and room to write

_SECOND = """
import sys
from pathlib import Path
from tokentrial.errors import TrialError
from tokentrial.store.folders import lock
try:
    with lock(Path(sys.argv[1])):
        print("locked")
except TrialError as error:
    print(error)
"""


def second_writer(folder):
    words = [sys.executable, "-c", _SECOND, str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_second_writer_is_refused_until_the_first_is_done_or_fails(tmp_path):
    with suppress(ZeroDivisionError), folders.lock(tmp_path):
        refusal = f"{tmp_path}: in use by another tokentrial; wait for it, or give output=OTHER_FOLDER"
        assert second_writer(tmp_path) == refusal
        raise ZeroDivisionError
    assert second_writer(tmp_path) == "locked"


def test_who_has_patience_waits_for_the_first(tmp_path):
    first = folders.lock(tmp_path, ".cell.lock")
    first.__enter__()
    with folders.lock(tmp_path), pytest.raises(TrialError, match="another"), folders.lock(tmp_path, ".cell.lock", 0.1):
        pass
    ending = threading.Timer(0.3, first.__exit__, (None, None, None))
    ending.start()
    with folders.lock(tmp_path, ".cell.lock", 60.0):
        assert ending.finished.is_set()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_can_be_looked_at(tmp_path, monkeypatch, number):
    def unknown(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.fcntl, "flock", unknown)
    with pytest.raises(TrialError, match=f"{tmp_path}: its file system has no locks"), folders.lock(tmp_path):
        pass
    assert not folders.is_held(tmp_path)


def test_whoever_looks_whether_a_folder_is_held_keeps_no_writer_out(tmp_path):
    with folders.lock(tmp_path):
        assert folders.is_held(tmp_path)
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.1, file.close).start()
        with folders.lock(tmp_path):
            pass


def test_a_step_that_does_not_fit_is_refused_before_it_starts(tmp_path):
    free = disk.shutil.disk_usage(tmp_path).free
    disk.need_disk(tmp_path / "new", 0, "the trial", 0)
    with pytest.raises(TrialError, match=r"the trial needs .* GB and a reserve of 0\.2 GB.*GB are free; free some"):
        disk.need_disk(tmp_path, free + 10**9, "the trial", 0.2)
    with pytest.raises(TrialError, match="reserve"):
        disk.need_disk(tmp_path, 0, "the trial", free / 1e9 + 1)
