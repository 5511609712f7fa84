"""GSM8K's `example_model_solutions.jsonl`: every test question with the solutions of several systems."""

from pathlib import Path
from typing import Any

from tokentrial.compare.files import Fields, checked, json_lines, refuse
from tokentrial.compare.system import Items, System, by_item, single


class Solution(Fields):
    is_correct: bool


class Question(Fields):
    question: str


def is_solutions(row: Any) -> bool:
    """Whether a first line looks like this format."""
    return isinstance(row, dict) and "question" in row and bool(_systems(row))


def _systems(row: dict[str, Any]) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, dict) and "is_correct" in value]


def read(path: Path) -> list[System]:
    """One system for each key that holds `is_correct`; all of them answer every question."""
    names: list[str] = []
    answers: dict[str, list[tuple[str, bool]]] = {}
    for number, row in json_lines(path):
        where = f"line {number}: "
        question = checked(path, Question, row, where).question
        names = names or _systems(row)
        for name in names:
            if name not in row:
                raise refuse(path, f"{where}no {name!r}, expected the systems of line 1: {names}")
            solved = checked(path, Solution, row[name], f"{where}{name}.").is_correct
            answers.setdefault(name, []).append((question, solved))
    systems = []
    for name in names:
        right = by_item(answers[name])
        systems.append(single(name, {"gsm8k/all/accuracy": Items(sum(right.values()), len(right), right)}))
    return systems
