"""GSM8K (Cobbe et al. 2021): word problems with worked solutions that end in `#### n`, and sets like it.

GSM8K("path:data/gsm8k")     a folder with train.jsonl and test.jsonl, fields question and answer
GSM8K()                      openai/gsm8k from the Hugging Face Hub
AnswerOnly("path:SVAMP.json")      SVAMP or MultiArith as JSON, for evaluation: an answer, no solution
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from tokentrial.errors import SettingsError, TrialError
from tokentrial.tasks.task import Example, Task

MARKER = "####"
# the harness's strict-match and flexible-extract filters for gsm8k (EleutherAI lm-eval 0.4, gsm8k.yaml)
_NUMBER = r"(-?[0-9.,]+)"
_ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_TURN = re.compile(r"<\|endoftext\|>|User:")


def solution_prompt(question: str) -> str:
    """The form in which every word problem is asked."""
    return f"User: {question}\nAssistant:"


def extract_marked(text: str, marker: str = MARKER) -> str | None:
    """The number after the first `marker` of an answer, strict: `#### 1,234` gives 1234."""
    found = re.search(f"{re.escape(marker)} {_NUMBER}", _TURN.split(text, maxsplit=1)[0])
    return normalize_number(found[1]) if found else None


def extract_last(text: str) -> str | None:
    """The last number of an answer, flexible."""
    found = _ANY_NUMBER.findall(_TURN.split(text, maxsplit=1)[0])
    return normalize_number(next(part for part in found[-1] if part)) if found else None


def normalize_number(number: str) -> str:
    """A number as it is compared: no thousands commas, no dollar sign, no full stop at its end."""
    return number.replace(",", "").replace("$", "").removesuffix(".")


class SolutionTask(Task):
    """Reads worked solutions, strictly: GRPO's reward and the accuracy are this `score`."""

    name = "solutions"

    def extract_answer(self, completion: str) -> str | None:
        return extract_marked(completion)

    def score_flexible(self, example: Example, completion: str) -> bool:
        """Whether the last number is right."""
        return extract_last(completion) == example.answer


class GSM8K(SolutionTask):
    """The 7,473 training and 1,319 test problems, in the order of the file."""

    name = "gsm8k"

    def __init__(self, source: str = "hub") -> None:
        self.source = source

    def examples(self, split: str = "test") -> list[Example]:
        examples = []
        for row in _rows(self.source, split):
            question, solution = row["question"], row["answer"]
            answer = extract_marked(solution)
            if answer is None:
                raise TrialError(f"gsm8k {split}: no `{MARKER} n` at the end of {solution!r}")
            prompt = solution_prompt(question)
            examples.append(Example(self.name, question, prompt, f" {solution}", answer, split=split))
        return examples


@lru_cache(maxsize=4)
def _rows(source: str, split: str) -> list[dict[str, Any]]:
    kind, _, path = source.partition(":")
    if kind == "path" and path:
        file = Path(path).expanduser() / f"{split}.jsonl"
        if not file.is_file():
            raise TrialError(f"{file}: not found; expected a folder with train.jsonl and test.jsonl of GSM8K")
        return [orjson.loads(line) for line in file.read_bytes().splitlines()]
    from datasets import load_dataset

    try:
        return list(load_dataset("openai/gsm8k", "main", split=split))
    except (OSError, ConnectionError, ValueError) as error:
        raise TrialError(
            "gsm8k: the Hugging Face Hub cannot be reached and openai/gsm8k is not in its cache; go online, or give "
            f"a folder with train.jsonl and test.jsonl: gsm8k=path:FOLDER ({type(error).__name__})"
        ) from None


class AnswerOnly(SolutionTask):
    """SVAMP and MultiArith: questions with a number for an answer, to be evaluated only."""

    def __init__(self, source: str) -> None:
        self.file = Path(source.removeprefix("path:")).expanduser()
        self.name = self.file.stem.lower()

    def examples(self, split: str = "test") -> list[Example]:
        if split != "test":
            raise SettingsError(f"{self.file}: is for evaluation only; train on gsm8k, word_problems or jsonl:PATH")
        if not self.file.is_file():
            raise TrialError(f"{self.file}: not found; expected SVAMP.json or MultiArith.json")
        return [self._example(row) for row in orjson.loads(self.file.read_bytes())]

    def _example(self, row: dict[str, Any]) -> Example:
        if "lSolutions" in row:
            question, number = row["sQuestion"].strip(), row["lSolutions"][0]
        elif "Body" in row:
            question, number = f"{row['Body'].strip().rstrip('.')}. {row['Question'].strip()}", row["Answer"]
        else:
            raise TrialError(f"{self.file}: found fields {sorted(row)}, expected those of SVAMP or MultiArith")
        answer = f"{float(number):.12g}"
        return Example(self.name, question, solution_prompt(question), f" {MARKER} {answer}", answer)

    def score(self, example: Example, completion: str) -> bool:
        return _equal_numbers(self.extract_answer(completion), example.answer)

    def score_flexible(self, example: Example, completion: str) -> bool:
        return _equal_numbers(extract_last(completion), example.answer)


def _equal_numbers(extracted: str | None, answer: str) -> bool:
    """Whether they are the same number, whole or decimal: 8.0 is 8."""
    number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", extracted or "")
    return number is not None and float(number[0]) == float(answer)
