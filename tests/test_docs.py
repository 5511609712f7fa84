"""The documentation: links lead somewhere, and the command line takes every command that is shown."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
import typer

from tokentrial.cli.main import app
from tokentrial.trial.load import load, shipped

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
PLACEHOLDERS = {"TRIAL": "smoke", "FOLDER": "folder", "SEED": "1", "ARM": "baseline"}


def anchors(page):
    """What a forge calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_or_a_heading_leads_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_can_be_reached_from_the_first():
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'"{page.name}"' in navigation, page


def commands(page):
    """The lines of code blocks that begin with `tokentrial`, as words."""
    blocks = re.findall(
        r"^```(?:sh)?\n(.*?)^```|((?:^    .*\n)+)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for fenced, indented in blocks:
        for line in re.sub(r"\\\n\s*", "", fenced or indented).splitlines():
            if line.strip().startswith("tokentrial "):
                yield [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)[1:]]


SHOWN = [pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:100]) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_that_is_shown_is_one(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capitals.csv").write_text((ROOT / "tests/capitals.csv").read_text())
    (tmp_path / "mine.yaml").write_text((files("tokentrial") / "trials/pilot.yaml").read_text())
    group = typer.main.get_command(app)
    with group.make_context("tokentrial", list(words)) as whole:
        if words[0].startswith("--"):
            return
        name, command, rest = group.resolve_command(whole, list(words))
        given = command.make_context(name, rest, parent=whole).params
    if given.get("trial") in (*shipped(), "mine.yaml"):
        load(given["trial"], given["overrides"] or ())
