"""Rows of one's own, from a file that `read_rows` reads: questions with answers, or prompts with completions.

AnswerOnly("svamp.json")         SVAMP or MultiArith, for evaluation: a number for an answer, no solution
TrainingRows("rows.jsonl")       `prompt` and `completion`, for SFT alone
"""

import math
import os
import re
import reprlib
from pathlib import Path
from typing import Any

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.rows import COMPRESSED, Row, read_rows
from tokentrial.tasks.gsm8k import MARKER, SolutionTask, extract_last, normalize_number, solution_prompt
from tokentrial.tasks.task import Example


class FileTask(SolutionTask):
    """A task whose rows stand in one file, all of one split. `name`, of files and outcomes, is the file's."""

    split: str
    only_for: str

    def __init__(self, file: str | Path) -> None:
        self.file = Path(os.path.expanduser(file))
        self.name = Path(re.sub(COMPRESSED, "", self.file.name)).stem.lower()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,) if self.file.is_file() else ()

    def check(self, split: str) -> None:
        self.examples(split)

    def examples(self, split: str = "test") -> list[Example]:
        if split != self.split:
            raise SettingsError(f"{self.file}: {self.only_for}")
        if not self.file.is_file():
            raise TrialError(f"{self.file}: not found, expected a file of rows; check the path")
        return [self.example(row) for row in read_rows(self.file)]

    def example(self, row: Row) -> Example:
        """The example that a row is. Raises TrialError that names its line."""
        raise NotImplementedError


class TrainingRows(FileTask):
    """Prompts and completions, trained on as they are."""

    split, only_for = "train", "is for SFT only, as its rows have no answer; evaluate on path:FILE"

    def example(self, row: Row) -> Example:
        prompt, completion = row.text("prompt"), row.text("completion")
        return Example("jsonl", prompt, prompt, completion, "", split="train")


class AnswerOnly(FileTask):
    """SVAMP and MultiArith: questions with a number for an answer."""

    split, only_for = "test", "is for evaluation only; train on gsm8k, word_problems or jsonl:FILE"

    def example(self, row: Row) -> Example:
        if "lSolutions" in row.fields:
            numbers = row.field("lSolutions")
            question, number = row.text("sQuestion").strip(), numbers
            if isinstance(numbers, list) and numbers:
                number = numbers[0]
        else:
            question = f"{row.text('Body').strip().rstrip('.')}. {row.text('Question').strip()}"
            number = row.field("Answer")
        answer = f"{_number(row, number):.12g}"
        return Example(self.name, question, solution_prompt(question), f" {MARKER} {answer}", answer)

    def score(self, example: Example, completion: str) -> bool:
        return _equal_numbers(self.extract_answer(completion), example.answer)

    def score_flexible(self, example: Example, completion: str) -> bool:
        return _equal_numbers(extract_last(completion), example.answer)


def _number(row: Row, value: Any) -> float:
    """An answer as a number: `7.0`, `"7"` or `"1,250"`."""
    try:
        number = float(normalize_number(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise TrialError(f"{row.where}: its answer is {reprlib.repr(value)}, expected a number")
    return number


def _equal_numbers(extracted: str | None, answer: str) -> bool:
    """Whether they are the same number, whole or decimal: 8.0 is 8."""
    number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", extracted or "")
    return number is not None and float(number[0]) == float(answer)
