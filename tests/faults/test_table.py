"""The table of docs/reliability.md and the tests are the same faults."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (?P<fault>[^|]+) \| (?P<promised>[^|]+) \| `(?P<file>[^:`]+)::(?P<test>[^`]+)` \|$", re.M)


def functions_of(path):
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_has_its_test_and_every_test_its_fault():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = list(ROW.finditer(text))
    assert len(rows) == sum(line.startswith("| ") for line in text.splitlines()) - 1, "a row that is not read"
    assert len(rows) >= 30
    for row in rows:
        assert row["test"] in functions_of(ROOT / row["file"]), row[0]
    listed = {(row["file"], row["test"]) for row in rows}
    found = {
        (f"tests/faults/{path.name}", test)
        for path in Path(__file__).parent.glob("*.py")
        for test in functions_of(path)
    }
    assert found - listed == {
        ("tests/faults/test_table.py", test_every_fault_has_its_test_and_every_test_its_fault.__name__)
    }
