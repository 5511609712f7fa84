"""GSM8K (Cobbe et al. 2021): word problems with worked solutions that end in `#### n`, and how such answers are read.

GSM8K("path:data/gsm8k")     a folder with train.jsonl and test.jsonl, fields question and answer
GSM8K()                      openai/gsm8k from the Hugging Face Hub
"""

import os
import re
from functools import lru_cache
from pathlib import Path

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.rows import COMPRESSED, Row, read_rows
from tokentrial.tasks.task import Example, Task

MARKER = "####"
# the harness's strict-match and flexible-extract filters for gsm8k (EleutherAI lm-eval 0.4, gsm8k.yaml)
_NUMBER = r"(-?[0-9.,]+)"
_ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_TURN = re.compile(r"<\|endoftext\|>|User:")


def solution_prompt(question: str) -> str:
    """The form in which every word problem is asked."""
    return f"User: {question}\nAssistant:"


def extract_marked(text: str) -> str | None:
    """The number after the first marker of an answer, strict: `#### 1,234` gives 1234."""
    match = re.search(f"{MARKER} {_NUMBER}", _TURN.split(text, maxsplit=1)[0])
    # the harness's pattern takes a full stop alone, too
    return normalize_number(match[1]) if match and re.search("[0-9]", match[1]) else None


def extract_last(text: str) -> str | None:
    """The last number of an answer, flexible."""
    numbers = _ANY_NUMBER.findall(_TURN.split(text, maxsplit=1)[0])
    return normalize_number(next(part for part in numbers[-1] if part)) if numbers else None


def normalize_number(number: str) -> str:
    """A number as it is compared: no thousands commas, no dollar sign, no full stop at its end."""
    return number.replace(",", "").replace("$", "").removesuffix(".")


class SolutionTask(Task):
    """Reads worked solutions, strictly: GRPO's reward and the accuracy are this `score`."""

    def extract_answer(self, completion: str) -> str | None:
        return extract_marked(completion)

    def score_flexible(self, example: Example, completion: str) -> bool:
        """Whether the last number is right."""
        return extract_last(completion) == example.answer


class GSM8K(SolutionTask):
    """The 7,473 training and 1,319 test problems, in the order of the file. `source` is `hub`, or `path:FOLDER`."""

    name = "gsm8k"

    def __init__(self, source: str = "hub") -> None:
        kind, _, folder = source.partition(":")
        if source != "hub" and (kind != "path" or not folder):
            raise SettingsError(
                f"tasks.gsm8k: found {source!r}, expected hub, or path:FOLDER with train.jsonl and test.jsonl, such as "
                f"path:{source}"
            )
        self.folder = Path(os.path.expanduser(folder)) if folder else None

    @property
    def files(self) -> tuple[Path, ...]:
        if self.folder is None or not self.folder.is_dir():
            return ()
        # every *.jsonl, as the fingerprints of earlier runs have it
        splits = [file for file in self.folder.iterdir() if _is_split(file, "train") or _is_split(file, "test")]
        return tuple(sorted({*self.folder.glob("*.jsonl"), *splits}))

    def check(self, split: str) -> None:
        if self.folder is not None:
            self.examples(split)

    def examples(self, split: str = "test") -> list[Example]:
        examples = []
        for row in _hub_rows(split) if self.folder is None else _file_rows(*self._split_file(split)):
            question, solution = row.text("question"), row.text("answer")
            answer = extract_marked(solution)
            if answer is None:
                raise TrialError(f"{row.where}: no `{MARKER} n` at the end of its answer, {solution[-80:]!r}")
            prompt = solution_prompt(question)
            examples.append(Example(self.name, question, prompt, f" {solution}", answer, split=split))
        return examples

    def _split_file(self, split: str) -> tuple[Path, int]:
        """The file of a split, and when it was written."""
        files = [file for file in self.files if _is_split(file, split)]
        if len(files) != 1:
            names = " and ".join(file.name for file in files)
            problem = f"two files of one split, {names}" if files else f"{split}.jsonl not found"
            raise TrialError(f"{self.folder}: {problem}; expected a folder with train.jsonl and test.jsonl of GSM8K")
        return files[0], files[0].stat().st_mtime_ns


def _is_split(file: Path, split: str) -> bool:
    """Whether this is the one file of a split, called as by its authors or as on the Hub."""
    name = re.sub(COMPRESSED, "", file.name)
    return re.fullmatch(rf"{split}(-00000-of-00001)?\.(jsonl?|parquet)", name) is not None


@lru_cache(maxsize=4)
def _file_rows(file: Path, written: int) -> list[Row]:
    return list(read_rows(file))


@lru_cache(maxsize=2)
def _hub_rows(split: str) -> list[Row]:
    from datasets import load_dataset

    try:
        rows = load_dataset("openai/gsm8k", "main", split=split)
    except (OSError, ConnectionError, ValueError) as error:
        raise TrialError(
            "gsm8k: the Hugging Face Hub cannot be reached and openai/gsm8k is not in its cache; go online, or give "
            f"tasks.gsm8k=path:FOLDER (--gsm8k with --model) with train.jsonl and test.jsonl ({type(error).__name__})"
        ) from None
    return [Row(f"openai/gsm8k {split}, row {number}", row) for number, row in enumerate(rows, 1)]
