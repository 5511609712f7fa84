"""GSM8K and its like: every gold answer is read, every published judgement is agreed with."""

import json
import sys
from types import SimpleNamespace

import pytest

from tokentrial.errors import TrialError
from tokentrial.tasks.gsm8k import GSM8K, extract_last, extract_marked
from tokentrial.tasks.own_rows import AnswerOnly


@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_all_problems_are_there_with_the_answer_after_the_marker(shared_data, split, rows):
    examples = GSM8K(f"path:{shared_data / 'gsm8k'}").examples(split)
    assert len(examples) == rows
    lines = (shared_data / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    for example, line in zip(examples, lines, strict=True):
        row = json.loads(line)
        gold = row["answer"].rpartition("#### ")[2].replace(",", "")
        assert (example.question, example.answer, example.split) == (row["question"], gold, split)
        assert example.prompt == f"User: {row['question']}\nAssistant:"  # as the reference asks
        assert example.completion == f" {row['answer']}"
        assert GSM8K().score(example, example.completion)
        assert GSM8K().score_flexible(example, example.completion)


def test_the_reader_agrees_with_every_published_judgement(shared_data):
    """The four systems of Cobbe et al. 2021 end their solutions in a line `A: n`; their authors judged all 5,276."""
    judged = right = 0
    for line in (shared_data / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line.replace("\\nA:", "\\n####"))
        gold = extract_marked(row["ground_truth"])
        for answer in (value for value in row.values() if isinstance(value, dict)):
            assert (extract_marked(answer["solution"]) == gold) == answer["is_correct"], answer
            judged += 1
            right += answer["is_correct"]
    assert (judged, right) == (5276, 286 + 515 + 458 + 742)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("6*9=<<6*9=54>>54\n#### 54", "54", "54"),
        ("#### 1,234", "1234", "1234"),
        ("#### -7", "-7", "-7"),
        ("#### 18.", "18", "18"),
        ("it is $1,018.", None, "1018"),
        ("it is 5.50", None, "5.50"),
        ("####54", None, "54"),
        ("no number", None, None),
        ("", None, None),
        ("#### 5\n#### 6", "5", "6"),
        ("#### .\n#### 6", None, "6"),  # the first marker counts, and no number follows it
        ("#### 5\nUser: What is 7 times 8?", "5", "5"),  # what follows a new turn is nobody's answer
        ("so User: #### 5", None, None),
    ],
)
def test_strict_reads_after_the_marker_flexible_the_last_number(text, strict, flexible):
    assert extract_marked(text) == strict
    assert extract_last(text) == flexible


def test_without_the_hub_the_error_says_both_ways(monkeypatch):
    def unreachable(*arguments, **settings):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(TrialError, match=r"go online, or give tasks\.gsm8k=path:FOLDER"):
        GSM8K().examples()


def test_a_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(TrialError, match=r"test\.jsonl not found; expected a folder with train\.jsonl"):
        GSM8K(f"path:{tmp_path}").examples()


@pytest.mark.parametrize(("file", "rows"), [("SVAMP.json", 1000), ("MultiArith.json", 600)])
def test_svamp_and_multiarith_are_read(shared_data, file, rows):
    [path] = [path for path in (shared_data / "word_problems").iterdir() if path.name.lower() == file.lower()]
    task = AnswerOnly(path)
    examples = task.examples()
    assert len(examples) == rows
    assert all(task.score(example, f" #### {example.answer}") for example in examples)
    assert not any(task.score(example, f" #### {float(example.answer) + 1:g}") for example in examples)


def test_eight_and_eight_point_nought_are_the_same_sum(tmp_path):
    row = {"Body": "Ann has 8 pens", "Question": "How many?", "Answer": 8.0, "Equation": "", "Type": "", "ID": "1"}
    (tmp_path / "SVAMP.json").write_text(json.dumps([row]))
    task = AnswerOnly(tmp_path / "SVAMP.json")
    [example] = task.examples()
    assert example.question == "Ann has 8 pens. How many?"
    assert task.score(example, " #### 8.0")
    assert task.score_flexible(example, " 8")
    assert not task.score(example, " #### 8.5")
    assert not task.score(example, " #### 1.2.3")
