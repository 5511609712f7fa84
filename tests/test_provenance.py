"""What a result says of the code that made it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tokentrial


def commit_of(checkout):
    """The commit that a result made by this checkout names, read from elsewhere."""
    code = "from tokentrial.store.provenance import provenance; print(provenance()['commit'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_result_names_the_commit_of_its_checkout_and_whether_files_differ_from_it(tmp_path):
    checkout = tmp_path / "outer" / "checkout"
    package = Path(tokentrial.__file__).parent
    shutil.copytree(package, checkout / "tokentrial", ignore=shutil.ignore_patterns("__pycache__"))

    def git(*words, at=checkout):
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *names, *words], cwd=at, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", at=checkout.parent)  # somebody else's repository, in which the package is merely installed
    assert commit_of(checkout) == "None"
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    assert commit_of(checkout) == git("rev-parse", "HEAD")
    (checkout / "tokentrial/errors.py").open("a").write("# another line\n")
    assert commit_of(checkout) == git("rev-parse", "HEAD") + "-dirty"
