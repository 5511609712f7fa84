"""What a release says of itself: one version everywhere, and docs/dependencies.md, which names every package that is
asked for and says which licences these and all that they bring have."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tokentrial
from tokentrial.inspection.doctor import locked_versions

ROOT = Path(__file__).resolve().parents[1]
PERMISSIVE = re.compile(r"MIT|BSD|Apache|Python Software Foundation|PSF|MPL|Mozilla|ISC", re.IGNORECASE)
NVIDIA = re.compile(r"nvidia-|cuda-")  # names of what torch from PyPI brings on Linux, under terms of their own
COPYLEFT = re.compile(r"\b[AL]?GPL|General Public License", re.IGNORECASE)


def asked_for() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(each).name for each in project["dependencies"]]


def brought_along() -> list[str]:
    """Installed packages that the product needs, those that its dependencies ask for among them."""
    needed: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, frozenset[str]()) for name in asked_for()]
    while waiting:
        name, extras = waiting.pop()
        try:
            wanted = [Requirement(each) for each in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue  # asked for on other systems, or by a marker that pip knows more of
        if (name, extras) not in needed:
            needed.add((name, extras))
            waiting += [
                (each.name, frozenset(each.extras))
                for each in wanted
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *extras})
            ]
    return sorted({name for name, _ in needed})


def test_the_table_names_what_is_asked_for():
    table = re.findall(r"^\| ([\w-]+) \| ", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert sorted(set(table) - {"package"}) == sorted(asked_for())


@pytest.mark.parametrize("name", brought_along())
def test_licences_are_as_the_text_says(name):
    about = metadata.metadata(name)
    classified = [each for each in about.get_all("Classifier") or () if each.startswith("License")]
    licence = " ".join([about.get("License-Expression") or "", *classified, (about.get("License") or "")[:100]])
    assert PERMISSIVE.search(licence) or NVIDIA.match(name), licence
    assert not COPYLEFT.search(licence), licence


def test_the_lock_holds_one_version_of_all_that_is_asked_for_and_names_no_host():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = about["project"]["optional-dependencies"].values()
    wanted = [*about["project"]["dependencies"], *chain(*extras), *about["dependency-groups"]["dev"]]
    lock = ROOT.joinpath("tokentrial", "constraints.txt").read_text()
    locked = {canonicalize_name(name): version for name, version in locked_versions().items()}
    assert "://" not in lock
    assert len(locked) == len(lock.splitlines())
    for each in map(Requirement, wanted):
        assert locked[canonicalize_name(each.name)] in each.specifier, each


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel, as pyproject.toml asks")
    source = shutil.copytree(ROOT / "tokentrial", tmp_path / "tokentrial", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        inside = {name for name in wheel.namelist() if name.startswith("tokentrial/")}
    assert inside == {path.relative_to(tmp_path).as_posix() for path in source.rglob("*") if path.is_file()}


def test_every_file_tells_the_same_release_and_what_is_unreleased_has_a_version_of_its_own():
    changes, here = (ROOT / "CHANGELOG.md").read_text(), Version(tokentrial.__version__)
    released = re.search(r"^## ([\d.]+)", changes, re.MULTILINE)[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == released
    if "## Unreleased" in changes:
        assert here.is_devrelease
        assert here > Version(released)
    else:
        assert here == Version(released)
