"""A bundle may come from anyone: what would leave its folder, is a link, a bomb or damaged is refused, by name."""

import hashlib
import json
import struct
import zipfile

import pytest

from tokentrial.compare import bundles
from tokentrial.errors import TrialError


def write_zip(path, files, hashes=None):
    """A zip of these files, (name or ZipInfo, bytes) each, with their hashes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        written = {}
        for name, data in files:
            archive.writestr(name, data)
            written[getattr(name, "filename", name)] = hashlib.sha256(data).hexdigest()
        archive.writestr("hashes.json", json.dumps({"bundle": written}) if hashes is None else hashes)
    return path


def entry(name, mode=0o100644):
    info = zipfile.ZipInfo("x")
    info.filename, info.create_system, info.external_attr = name, 3, mode << 16
    return info


def refusal(path):
    with pytest.raises(TrialError) as error, bundles.unpacked([path]):
        pass
    assert path.name in str(error.value)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.fixture(scope="session")
def files(two_arms):
    """The files of a run folder, as a bundle holds them."""
    paths = [path for name in ("trial.yaml", "samples.jsonl", "heldout_text.json") for path in two_arms.rglob(name)]
    return [(str(path.relative_to(two_arms)), path.read_bytes()) for path in sorted(paths)]


def test_a_bundle_is_compared_as_its_run_is(files, compared, two_arms, tmp_path):
    path = write_zip(tmp_path / "again.zip", files)
    of_bundle, of_run = compared(path), compared(two_arms)
    assert [c["difference"] for c in of_bundle] == [c["difference"] for c in of_run]
    assert {c["a"] for c in of_bundle} == {"again/mul_tokens"}
    assert {(c["a"], c["b"]) for c in compared(path, two_arms)} == {
        (f"again/{arm}", f"two_arms/{arm}") for arm in ("baseline", "mul_tokens")
    }


def test_files_that_a_comparison_does_not_read_are_not_unpacked(files, tmp_path):
    unread = ("report.html", "declared.json", "results.parquet", "results.csv", "baseline/seed1/hf/model.bin")
    path = write_zip(tmp_path / "b.zip", [*files, *((name, b"x") for name in unread)])
    with bundles.unpacked([path]) as [folder]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {name for name, _ in files}
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "C:/evil", "a\\..\\evil", "folder/", "a\x1b[0m"]
)
def test_a_name_that_leaves_the_folder_is_refused(files, refused, tmp_path, name):
    path = write_zip(tmp_path / "evil.zip", [*files, (entry(name), b"x")])
    before = set(tmp_path.rglob("*"))
    err = refused(path)
    assert "evil.zip" in err
    assert "expected plain files below the bundle's own folder" in err
    assert "\x1b" not in err
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_link_and_a_name_that_occurs_twice_are_refused(files, tmp_path):
    for extra in ((entry("link", mode=0o120777), b"/etc/passwd"), files[0]):
        assert "plain files" in refusal(write_zip(tmp_path / "x.zip", [*files, extra]))


def test_what_unpacks_to_more_than_results_is_refused(files, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "bomb.zip", [*files, ("figures/x.svg", bytes(1_000_000))])
    for limit in ("_MAX_BYTES", "_MAX_FILES"):
        with monkeypatch.context() as patch:
            patch.setattr(bundles, limit, 5)
            assert "expected at most" in refusal(path)


def test_a_member_that_lies_about_its_size_is_not_inflated(tmp_path):
    """Fifty megabytes that call themselves ten bytes: no more than that is read, and the checksum tells."""
    path = write_zip(tmp_path / "liar.zip", [("comparison_report.json", bytes(50_000_000))])
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack("<I", 10)  # the local header's size, and the central directory's
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    assert "cannot be read as a bundle" in refusal(path)


def test_a_changed_file_is_told_from_the_hashes(files, tmp_path):
    hashes = json.dumps({"bundle": {name: hashlib.sha256(data).hexdigest() for name, data in files}})
    changed = [(name, data.replace(b"true", b"null") if name.endswith(".jsonl") else data) for name, data in files]
    assert "samples.jsonl: its bytes differ from hashes.json" in refusal(write_zip(tmp_path / "x.zip", changed, hashes))


@pytest.mark.parametrize("hashes", ["null", "[1]", '{"bundle": 3}', "{", "{}"])
def test_hashes_that_are_none_are_refused(tmp_path, hashes):
    assert "hashes.json" in refusal(write_zip(tmp_path / "x.zip", [("trial.yaml", b"x")], hashes))


def test_a_zip_of_something_else_is_refused(tmp_path):
    assert "no trial.yaml in it" in refusal(write_zip(tmp_path / "other.zip", [("readme.txt", b"hello")]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"not a zip at all" * 100, "half"])
def test_a_file_that_is_no_whole_zip_is_refused(files, tmp_path, content):
    path = write_zip(tmp_path / "x.zip", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    assert "cannot be read as a bundle" in refusal(path)
