"""A bundle may come from anyone: what would leave its folder, is a link, a bomb or damaged is refused, by name."""

import hashlib
import json
import struct
import zipfile

import pytest

from tokentrial.compare import bundles

LOW, HIGH = (5, 6, 7, 5, 6, 8), (10, 12, 11, 11, 12, 12)


def pack(path, files, hashes=None):
    """A zip of these files; `files` are (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        made = {}
        for name, data in files:
            archive.writestr(name, data)
            made[name if isinstance(name, str) else name.filename] = hashlib.sha256(data).hexdigest()
        archive.writestr("hashes.json", json.dumps({"bundle": made if hashes is None else hashes}))
    return path


@pytest.fixture
def files(run_folder):
    """The files of a run folder, as a bundle holds them."""
    folder = run_folder("run", {"baseline": LOW, "mul_tokens": HIGH})
    return [(str(p.relative_to(folder)), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()]


@pytest.fixture
def refused(tokentrial, tmp_path):
    """`refused(path)`: the one line that says why; and nothing is written outside."""

    def run(path):
        before = set(tmp_path.rglob("*"))
        code, out, err = tokentrial("compare", path)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "Traceback" not in err
        assert path.name in err
        assert set(tmp_path.rglob("*")) == before
        return err

    return run


def test_a_bundle_is_read_as_its_run_is(files, compared, tmp_path):
    made, run = compared(pack(tmp_path / "again.zip", files)), compared(tmp_path / "run")
    assert [line["difference"] for line in made] == [line["difference"] for line in run]
    assert {line["a"] for line in made} == {"again/mul_tokens"}


def test_a_bundle_against_a_run(files, compared, tmp_path):
    pairs = {(line["a"], line["b"]) for line in compared(pack(tmp_path / "b.zip", files), tmp_path / "run")}
    assert pairs == {(f"b/{arm}", f"run/{arm}") for arm in ("baseline", "mul_tokens")}


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "C:/evil", "a\\..\\evil", "folder/", "a\x1b[0m"]
)
def test_a_name_that_leaves_the_folder_is_refused(files, refused, tmp_path, name):
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    err = refused(pack(tmp_path / "evil.zip", [*files, (entry, b"x")]))
    assert "a bundle holds plain files below its own folder; not opened" in err
    assert "\x1b" not in err


def test_a_link_is_refused(files, refused, tmp_path):
    link = zipfile.ZipInfo("declared.json")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    others = [file for file in files if file[0] != "declared.json"]
    assert "plain files" in refused(pack(tmp_path / "link.zip", [*others, (link, b"/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(files, refused, tmp_path):
    assert "each name stands once" in refused(pack(tmp_path / "twice.zip", [*files, files[0]]))


def test_what_unpacks_to_more_than_results_is_refused(files, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "_MOST_BYTES", 1_000_000)
    err = refused(pack(tmp_path / "bomb.zip", [*files, ("figures/x.svg", bytes(1_000_000))]))
    assert "expected at most 0; not opened" in err
    monkeypatch.setattr(bundles, "_MOST_FILES", 5)
    assert "expected at most 5" in refused(pack(tmp_path / "many.zip", files))


def test_a_member_that_lies_about_its_size_is_not_inflated(files, refused, tmp_path):
    """Fifty megabytes that call themselves ten bytes: reading stops at what was said, and the checksum tells."""
    path = pack(tmp_path / "liar.zip", [("declared.json", bytes(50_000_000)), *files[:0]])
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack("<I", 10)  # the local header's size, and the central directory's
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    assert "liar.zip: cannot be read as a bundle" in refused(path) or "differ" in refused(path)


def test_a_changed_file_is_told_from_the_hashes(files, refused, tmp_path):
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files}
    changed = [(name, data.replace(b"true", b"null") if name.endswith(".jsonl") else data) for name, data in files]
    assert "samples.jsonl: its bytes differ from hashes.json" in refused(pack(tmp_path / "x.zip", changed, hashes))


@pytest.mark.parametrize("hashes", ["null", "[1]", '{"bundle": 3}', "{", "{}"])
def test_hashes_that_are_none(files, refused, tmp_path, hashes):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trial.yaml", files[-1][1])
        archive.writestr("hashes.json", hashes)
    assert "hashes.json" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"not a zip at all" * 100])
def test_a_file_that_is_no_zip(refused, tmp_path, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert "cannot be read as a bundle" in refused(path)


def test_a_half_downloaded_bundle(files, refused, tmp_path):
    path = pack(tmp_path / "half.zip", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read as a bundle" in refused(path)


def test_a_zip_of_something_else(refused, tmp_path):
    assert "no trial.yaml in it" in refused(pack(tmp_path / "other.zip", [("readme.txt", b"hello")]))


def test_files_that_a_comparison_does_not_read_are_not_unpacked(files, tmp_path):
    path = pack(tmp_path / "b.zip", [*files, ("report.html", b"<script>"), ("baseline/seed1/hf/model.bin", b"x")])
    with bundles.opened([path]) as [folder]:
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {name for name, _ in files}
