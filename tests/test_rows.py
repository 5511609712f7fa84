"""Rows that others wrote, by every reader of them: each row is read, or the file is refused with the place named."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import re

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from tests.conftest import documents
from tokentrial.compare.read import read_systems
from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError
from tokentrial.tasks.gsm8k import GSM8K
from tokentrial.tasks.own_rows import AnswerOnly, TrainingRows
from tokentrial.tasks.training_examples import check_task_names, task_name


def read_corpus(path):
    kind = "parquet" if path.suffix == ".parquet" else "jsonl"
    return [*documents(Source(f"{kind}:{path}", "text"))]


def read_compared(path):
    [[system]] = read_systems([path])
    items, *_ = system.models[0].items.values()
    return range(items.total)


# how a reader reads a file; a whole row of its kind; and the field of it that is damaged
READERS = {
    "gsm8k": (
        lambda path: GSM8K(f"path:{path.parent}").examples("train"),
        {"question": "Ann has 3 pens. How many?", "answer": "3+1=4\n#### 1,004"},
        "answer",
    ),
    "sft": (lambda path: TrainingRows(path).examples("train"), {"prompt": "a", "completion": "b"}, "completion"),
    "svamp": (
        lambda path: AnswerOnly(path).examples(),
        {"Body": "Ann has 3 pens", "Question": "How many?", "Answer": "1,250"},
        "Answer",
    ),
    "corpus": (read_corpus, {"text": "a speech"}, "text"),
    "compare": (read_compared, {"doc_id": 0, "metrics": ["acc"], "acc": 1.0}, "metrics"),
}


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(rows, count=3):
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows)[:count], out)
    return out.getvalue()


# ending, bytes made of three rows of which `field` may be damaged, and the place that the error is to name
WHOLE = {
    "plain": ("jsonl", lambda rows, field: lines(*rows)),
    "blank last line": ("jsonl", lambda rows, field: lines(*rows) + b"\n  \n"),
    "blank lines, as Windows ends them": ("jsonl", lambda rows, field: lines(*rows).replace(b"\n", b"\r\n\r\n")),
    "no newline at the end": ("jsonl", lambda rows, field: lines(*rows)[:-1]),
    "byte order mark": ("jsonl", lambda rows, field: b"\xef\xbb\xbf" + lines(*rows)),
    "NaN": ("jsonl", lambda rows, field: lines(*(row | {"score": float("nan")} for row in rows))),
    "half a surrogate pair": ("jsonl", lambda rows, field: lines(*(row | {"id": "\ud83d"} for row in rows))),
    "lines in .json": ("json", lambda rows, field: lines(*rows)),
    "gzip": ("jsonl.gz", lambda rows, field: gzip.compress(lines(*rows))),
    "bzip2": ("jsonl.bz2", lambda rows, field: bz2.compress(lines(*rows))),
    "xz": ("jsonl.xz", lambda rows, field: lzma.compress(lines(*rows))),
    "zstandard": ("jsonl.zst", lambda rows, field: zstandard.compress(lines(*rows))),
    "parquet": ("parquet", lambda rows, field: table(rows)),
}
LISTS = {  # which the corpus, that streams, does not read
    "a list": ("json", lambda rows, field: json.dumps(rows).encode()),
    "a list in .jsonl": ("jsonl", lambda rows, field: b"\xef\xbb\xbf" + json.dumps(rows).encode() + b"\n\n"),
    "a list over lines": ("json", lambda rows, field: json.dumps(rows, indent=2).encode()),
}
BROKEN = {
    "cut off": ("jsonl", lambda rows, field: lines(*rows)[:-4], "line 3"),
    "no object": ("jsonl", lambda rows, field: lines(rows[0], None, rows[2]), "line 2"),
    "a list among objects": ("jsonl", lambda rows, field: lines(rows[0], rows[1:]), "line 2"),
    "a field missing": ("jsonl", lambda rows, field: lines(rows[0], {"id": 1}), "line 2"),
    "null": ("jsonl", lambda rows, field: lines(rows[0], rows[1] | {field: None}), "line 2"),
    "a conversation": ("jsonl", lambda rows, field: lines(rows[0], rows[1] | {field: [{"role": "user"}]}), "line 2"),
    "a blank line before": ("jsonl", lambda rows, field: b"\n" + lines(rows[0], rows[1] | {field: None}), "line 3"),
    "no UTF-8": ("jsonl", lambda rows, field: lines(rows[0]) + b'{"a": "\xe9"}\n', "line 2"),
    "zeros at the end": ("jsonl", lambda rows, field: lines(*rows) + bytes(400), "line 4"),
    "two on a line": ("jsonl", lambda rows, field: lines(rows[0]) + lines(*rows[1:]).replace(b"\n", b""), "line 2"),
    "nested endlessly": ("jsonl", lambda rows, field: lines(rows[0]) + b"[" * 100_000, "line 2"),
    "5,000 digits": ("jsonl", lambda rows, field: lines(rows[0]) + b'{"a": NaN, "b": 1%s}' % (b"0" * 5000), "line 2"),
    "UTF-16": ("jsonl", lambda rows, field: lines(*rows).decode().encode("utf-16"), "line 1"),
    "CSV": ("jsonl", lambda rows, field: b"question;answer\na;b\n", "line 1"),
    "a pickle": ("jsonl", lambda rows, field: pickle.dumps(rows), "line 1"),
    "cut gzip": ("jsonl.gz", lambda rows, field: gzip.compress(lines(*rows))[:-9], ""),
    "no gzip": ("jsonl.gz", lambda rows, field: lines(*rows), ""),
    "cut parquet": ("parquet", lambda rows, field: table(rows)[:-9], ""),
}
EMPTY = {  # of which the corpus has others beside it
    "empty": ("jsonl", lambda rows, field: b""),
    "blank": ("jsonl", lambda rows, field: b"\n\n"),
    "an empty list": ("json", lambda rows, field: b"[]"),
    "parquet without rows": ("parquet", lambda rows, field: table(rows, 0)),
}


def written(folder, reader, ending, content):
    """A file of three rows of the reader's kind, damaged by `content`."""
    _, row, field = READERS[reader]
    path = folder / f"train.{ending}"
    path.write_bytes(content([{**row}, {**row}, {**row}], field))
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", [*WHOLE, *LISTS])
def test_every_row_is_read(tmp_path, reader, case):
    path = written(tmp_path, reader, *(WHOLE | LISTS)[case])
    if reader == "corpus" and case in LISTS:
        with pytest.raises(TrialError, match=f"^{re.escape(str(path))}, line 1: "):
            read_corpus(path)
    else:
        assert len(READERS[reader][0](path)) == 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", [*BROKEN, *EMPTY])
def test_what_is_no_row_is_refused_with_its_place(tmp_path, reader, case):
    ending, content, place = (*EMPTY[case], "")[:3] if case in EMPTY else BROKEN[case]
    path = written(tmp_path, reader, ending, content)
    if reader == "corpus" and case in EMPTY and case != "an empty list":
        assert read_corpus(path) == []
        return
    with pytest.raises(TrialError) as refused:
        READERS[reader][0](path)
    message = str(refused.value)
    assert message.startswith(f"{path}, {place}: " if place else str(path))
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("file", ["absent.json", "~nobody-of-this-name/a.json", "a/" * 40, "."])
@pytest.mark.parametrize("task", [AnswerOnly, TrainingRows])
def test_a_file_that_is_not_there_is_named(task, file):
    with pytest.raises(TrialError, match="not found"):
        task(file).check(task.split)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, reader):
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(TrialError, match=re.escape(str(tmp_path))):
        READERS[reader][0](tmp_path / "train.jsonl")


# what people had trouble with, by the reader it is meant for: rows, or the place of the error
MEANT = {
    "gsm_blank/train.jsonl": ("gsm8k", 40),
    "gsm_bom/train.jsonl": ("gsm8k", 40),
    "gsm_shape/train.jsonl": ("gsm8k", "line 1: no 'answer'; its fields are question, solution"),
    "sftblank.jsonl": ("sft", 20),
    "sftbom.jsonl": ("sft", 20),
    "sftconv.jsonl": ("sft", "line 1: prompt is [{"),
    "sftnull.jsonl": ("sft", "line 21: completion is None"),
    "svamp.json": ("svamp", 2),
    "comma.json": ("svamp", 3),
    "nullans.json": ("svamp", "row 2: its answer is None"),
    "price_table.json": ("svamp", 4),
    "lm/b/results_2026-11-01T11-00-00.123456.json": ("lm-eval", 2),
    "lm/inf/results_2026-11-01T10-00-00.123456.json": ("lm-eval", 2),
    "lm/nan/results_2026-11-01T10-00-00.123456.json": ("lm-eval", 2),
}


@pytest.mark.parametrize("name", MEANT)
def test_files_that_people_had_trouble_with(shared_data, name):
    path, (reader, expected) = shared_data / "cases" / name, MEANT[name]
    if reader == "lm-eval":
        [[system]] = read_systems([path])
        assert len(system.models[0].items) == expected
    elif isinstance(expected, int):
        assert len(READERS[reader][0](path)) == expected
    else:
        with pytest.raises(TrialError, match=re.escape(f"{path}, {expected}")):
            READERS[reader][0](path)


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_trips_over_what_was_meant_for_another(shared_data, reader):
    for path in sorted((shared_data / "cases").rglob("*.*")):
        if path.is_file() and (reader != "gsm8k" or path.stem == "train"):
            try:
                READERS[reader][0](path)
            except TrialError as error:
                assert str(path) in str(error)  # noqa: PT017 - it may also be read


def test_gold_answers_that_are_none_and_files_of_one_split_are_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    for answer in ("no number", "#### ,", "####", "#### x"):
        path.write_bytes(lines({"question": "a", "answer": answer}))
        with pytest.raises(TrialError, match=re.escape(f"{path}, line 1: ")):
            GSM8K(f"path:{tmp_path}").examples("train")
    # as a clone from the Hub has it; files beside them are no split
    path.unlink()
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(table([{"question": "a", "answer": "#### 1"}]))
    (tmp_path / "train_socratic.jsonl").write_bytes(b"")
    (tmp_path / "._train.jsonl").write_bytes(b"\0")
    assert len(GSM8K(f"path:{tmp_path}").examples("train")) == 1
    path.write_bytes(b"{}")
    with pytest.raises(TrialError, match=r"two files of one split, train-00000.*parquet and train\.jsonl"):
        GSM8K(f"path:{tmp_path}").examples("train")


@pytest.mark.parametrize("answer", [None, True, "", "seven", "nan", "Infinity", [], [7], {}, "9" * 400, 10**400])
def test_an_answer_that_is_no_number_is_refused_with_its_row(tmp_path, answer):
    path = tmp_path / "a.json"
    for row in (
        {"Body": "Ann has 3 pens", "Question": "How many?", "Answer": answer},
        {"sQuestion": "How many?", "lSolutions": [answer] if answer != [7] else answer[:0]},
    ):
        path.write_text(json.dumps([row]))
        with pytest.raises(TrialError, match=re.escape(f"{path}, row 1: its answer is ")):
            AnswerOnly(path).examples()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["path:a/svamp.json", "gsm8k", "word_problems", "path:Multi Arith (2).jsonl.gz"], None),
        (["path:a/test.json", "path:b/Test.jsonl"], "and others would be called 'test'"),
        (["path:price_table.json"], "and others would be called 'price_table'"),
        (["path:gsm8k.json"], "and others would be called"),
        (["path:addition.json"], "and others would be called"),
        (["path:arithmetic.json"], "and others would be called"),
        (["path:harness.json"], "and others would be called"),
        (["path:a\nb.json"], "plain letters"),
        (["path:\x1b[31m.json"], "plain letters"),
        (["path:\udcff.json"], "plain letters"),
        ([f"path:{'é' * 120}.json"], "plain letters"),
    ],
)
def test_the_names_of_files_are_names_of_outcomes(names, problem):
    if problem is None:
        check_task_names(names)
        assert [task_name(name) for name in names] == ["svamp", "gsm8k", "word_problems", "multi arith (2)"]
    else:
        with pytest.raises(SettingsError, match=problem):
            check_task_names(names)
