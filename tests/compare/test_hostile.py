"""Files that others wrote may hold anything: each is refused by name, in one line, and nothing in it runs."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokentrial.compare.read import read
from tokentrial.errors import TrialError

METRICS = {"accuracy": 0.5, "correct": 1, "total": 2}
EXAMPLE = {"question": "1 and 1?", "true_answer": "2", "is_correct": True}


def refused(tokentrial, path):
    code, out, err = tokentrial("compare", path, path)
    assert (code in (1, 2), out) == (True, "")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert path.name in err
    return err


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"null", "not recognised"),
        (b'{"a": 1}', "not recognised"),
        (b'{"metrics": 3}', "metrics: found 3"),
        (b'{"metrics": {}}', "metrics.correct: found nothing"),
        (b'{"metrics": {"correct": "1", "total": 2}}', "metrics.correct: found '1'"),
        (b'{"metrics": {"correct": true, "total": 2}}', "metrics.correct: found True"),
        (b'{"metrics": {"correct": 1.5, "total": 2}}', "metrics.correct: found 1.5"),
        (b'{"metrics": {"correct": -1, "total": 2}}', "metrics.correct: found -1"),
        (b'{"metrics": {"correct": 3, "total": 2}}', "expected: Value error, at least one item, and no more than all"),
        (b'{"metrics": {"correct": 0, "total": 0}}', "at least one item"),
        (b'{"metrics": {"correct": 1, "total": 1e400}}', "total.json"),
        (b'{"metrics": {"correct": 1, "total": 99999999999999999999}}', "total.json"),
        (b'{"metrics": {"category_accuracies": [1]}}', "metrics.category_accuracies: found [1]"),
        (b'{"results": 1}', "results: found 1"),
        (b'{"results": {"t": {"acc,none": 0.5}}}', "n-samples: found nothing"),
        (b'{"results": {"t": {"acc,none": 0.123}}, "n-samples": {"t": {"effective": 2}}}', "no metric"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tokentrial, tmp_path, content, found):
    path = tmp_path / "total.json"
    path.write_bytes(content)
    assert found in refused(tokentrial, path)


@pytest.mark.parametrize(
    ("examples", "found"),
    [
        ([EXAMPLE | {"is_correct": "yes"}], "examples.0.is_correct: found 'yes'"),
        ([{"question": "x"}], "examples.0.true_answer: found nothing"),
        ([EXAMPLE] * 3, "examples of sums: found 3 correct of 3, metrics say 1 of 2"),
        ([EXAMPLE] * 2, "examples of sums: found 2 correct of 2, metrics say 1 of 2"),
        ([EXAMPLE | {"question": "9" * 5000}], "expected questions with numbers"),
    ],
)
def test_examples_that_contradict_or_break_are_refused(tokentrial, tmp_path, examples, found):
    path = tmp_path / "sums_results.json"
    path.write_text(json.dumps({"metrics": METRICS, "examples": examples}))
    assert found in refused(tokentrial, path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "line 2: not valid JSON"),
        (b"3", "line 2: the value: found 3"),
        (b'{"doc_id": "x", "metrics": ["acc"]}', "line 2: doc_id: found 'x'"),
        (b'{"doc_id": 1, "metrics": "acc"}', "line 2: metrics: found 'acc'"),
    ],
)
def test_a_broken_line_of_samples_is_named(tokentrial, tmp_path, line, found):
    path = tmp_path / "samples_t.jsonl"
    path.write_bytes(b'{"doc_id": 0, "metrics": ["acc"], "acc": 1.0}\n' + line + b"\n")
    assert found in refused(tokentrial, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("correct", "yes"), ("task", 3), ("choice_logprob", None), ("answer", 54), ("operands", "69"), ("question", None)],
)
def test_a_cell_whose_rows_are_not_what_an_evaluation_writes_is_refused(run_folder, tokentrial, key, value):
    cell = run_folder("run", {"baseline": (5,)}, (1,)) / "baseline" / "seed1"
    path = cell / "eval_pretrain" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[30][key] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = tokentrial("compare", cell, cell)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{path}: " in err


@pytest.mark.parametrize("bits", [1e308, -1e20])
def test_figures_beyond_reason_are_refused(run_folder, tokentrial, bits):
    folder = run_folder("run", {"baseline": (5, 6), "mul_tokens": (7, 8)}, (1, 2))
    path = folder / "baseline" / "seed1" / "eval_pretrain" / "heldout_text.json"
    held = json.loads(path.read_text())
    held["documents"][0]["bits"] = bits
    path.write_text(json.dumps(held))
    code, _, err = tokentrial("compare", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{path.parent}: pretrain/heldout_text/untouched/bits_per_byte: found" in err


def test_a_declaration_that_is_none_is_named(run_folder, tokentrial):
    folders = [run_folder(name, {"baseline": (5, 6)}, (1, 2)) for name in ("one", "two")]
    for folder in folders:
        (folder / "declared.json").write_text('{"control": "baseline", "smallest_effect": -0.1}')
    code, _, err = tokentrial("compare", *folders)
    assert (code, err.count("\n")) == (1, 1)
    assert "declared.json: smallest_effect: found -0.1" in err


def test_a_report_that_is_broken_is_named(run_folder, tokentrial):
    folder = run_folder("run", {"baseline": (5, 6), "mul_tokens": (7, 8)}, (1, 2))
    (folder / "comparison_report.json").write_text('{"outcomes": {"x": 3}}')
    code, _, err = tokentrial("compare", folder)
    assert code == 1
    assert "comparison_report.json: outcomes.x: found 3" in err


def test_names_are_printed_without_control_characters(tmp_path, tokentrial):
    evil = "sys\x1b]0;owned\x07\u202e"
    path = tmp_path / "solutions.jsonl"
    rows = [{"question": q, evil: {"is_correct": q == "a"}, "other": {"is_correct": True}} for q in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in ((path,), (path, "--json")):
        code, out, _ = tokentrial("compare", *words)
        assert code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({"question": "b", evil: {"is_correct": "\x1b"}}) + "\n")
    _, _, err = tokentrial("compare", path)
    assert not {"\x1b", "\x07", "\u202e"} & set(err)


def test_what_is_not_there_or_no_result_says_what_is_expected(tokentrial, tmp_path):
    assert "not found; expected a run folder" in refused(tokentrial, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no results there; expected a run folder" in refused(tokentrial, tmp_path / "empty")
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    assert "not valid JSON" in refused(tokentrial, tmp_path / "weights.pt")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = ("metrics", "results", "n-samples", "examples", "correct", "total", "category_accuracies", "doc_id", "question")
shaped = st.dictionaries(st.sampled_from(keys), json_values | st.dictionaries(st.sampled_from(keys), json_values))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(shaped, st.sampled_from(["x_results.json", "samples_x.jsonl"]))
def test_whatever_the_fields_hold_it_is_read_or_refused(tmp_path, value, name):
    path = tmp_path / name
    path.write_text(json.dumps(value))
    try:
        read([path])
    except TrialError as error:
        named = name in str(error)
        assert named
