"""docs/architecture.md: its table has every file in one room, and its picture's arrows are the imports there are."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tokentrial"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def rooms() -> dict[str, str]:
    """The room of each file and folder of the package, as the table has it."""
    found = {}
    for room, files in re.findall(r"^\| (\w+) \| (`.*?`) \| ", PAGE, re.MULTILINE):
        for name in re.findall(r"`(.*?)`", files):
            assert name not in found, f"{name} stands in two rooms"
            found[name.removesuffix("/").removesuffix(".py")] = room
    return found


def imported(path: Path) -> Iterator[str]:
    """Names of the package's files and folders that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[1] for each in node.names if each.name.startswith("tokentrial."))
        elif isinstance(node, ast.ImportFrom) and node.module == "tokentrial":
            yield from (each.name for each in node.names if each.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tokentrial."):
            yield node.module.split(".")[1]


@cache
def imports() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    of, found = rooms(), {room: set() for room in rooms().values()}
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if here != "__init__":
            found[of[here]] |= {of[name] for name in imported(path)} - {of[here]}
    return found


def drawn() -> dict[str, set[str]]:
    """The arrows of the picture."""
    arrows = re.findall(r"^ +(\w+) --> ([\w &]+)$", PAGE, re.MULTILINE)
    return {room: set(others.split(" & ")) for room, others in arrows}


def reached(arrows: dict[str, set[str]], room: str) -> set[str]:
    """All rooms below a room, by one arrow or several."""
    seen: set[str] = set()
    waiting = [*arrows.get(room, ())]
    while waiting:
        if (each := waiting.pop()) not in seen:
            seen.add(each)
            waiting += arrows.get(each, ())
    return seen


def test_every_file_is_in_one_room():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(rooms())


def test_an_arrow_is_an_import_that_no_other_arrow_tells():
    real = imports()
    told = {
        room: {below for below in those if not any(below in reached(real, other) for other in those - {below})}
        for room, those in real.items()
    }
    assert drawn() == {room: those for room, those in told.items() if those}


def test_no_room_imports_one_above_it():
    for room, below in imports().items():
        assert not any(room in reached(imports(), each) for each in below), room
