"""Files that others wrote may hold anything: each is refused by name, in one line, and nothing in it runs."""

import json
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokentrial.compare.read import read_systems
from tokentrial.errors import TrialError
from tokentrial.store.files import sealed

METRICS = {"accuracy": 0.5, "correct": 1, "total": 2}
EXAMPLE = {"question": "1 and 1?", "true_answer": "2", "is_correct": True}
SAMPLE = b'{"doc_id": 0, "metrics": ["acc"], "acc": 1.0}\n'


def with_examples(*examples):
    return json.dumps({"metrics": METRICS, "examples": examples}).encode()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no row"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "not valid JSON"),  # a pickle
        (b"null", "found None"),
        (b'{"a": 1}', "not recognised"),
        (b'{"metrics": 3}', "metrics: found 3"),
        (b'{"metrics": {}}', "metrics.correct: found nothing"),
        (b'{"metrics": {"correct": "1", "total": 2}}', "metrics.correct: found '1'"),
        (b'{"metrics": {"correct": true, "total": 2}}', "metrics.correct: found True"),
        (b'{"metrics": {"correct": 1.5, "total": 2}}', "metrics.correct: found 1.5"),
        (b'{"metrics": {"correct": -1, "total": 2}}', "metrics.correct: found -1"),
        (b'{"metrics": {"correct": 3, "total": 2}}', "at least one item, and no more than all"),
        (b'{"metrics": {"correct": 0, "total": 0}}', "at least one item"),
        (b'{"metrics": {"correct": 1, "total": 1e400}}', "sums_results.json"),
        (b'{"metrics": {"correct": 1, "total": 99999999999999999999}}', "sums_results.json"),
        (b'{"metrics": {"category_accuracies": [1]}}', "metrics.category_accuracies: the value: found [1]"),
        (b'{"results": 1}', "results: found 1"),
        (b'{"results": {"t": {"acc,none": 0.5}}}', "n-samples: found nothing"),
        (b'{"results": {"t": {"acc,none": 0.123}}, "n-samples": {"t": {"effective": 2}}}', "no metric"),
        (with_examples(EXAMPLE | {"is_correct": "yes"}), "examples.0.is_correct: found 'yes'"),
        (with_examples({"question": "x"}), "examples.0.true_answer: found nothing"),
        (with_examples(EXAMPLE, EXAMPLE), "examples of sums: found 2 correct of 2, metrics say 1 of 2"),
        (with_examples(EXAMPLE | {"question": "9" * 5000}), "expected questions with numbers"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(refused, tmp_path, content, found):
    path = tmp_path / "sums_results.json"
    path.write_bytes(content)
    err = refused(path, path)
    assert found in err
    assert path.name in err


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"doc_id": "x", "metrics": ["acc"]}', "doc_id: found 'x'"),
        (b'{"doc_id": 1, "metrics": "acc"}', "metrics: found 'acc'"),
    ],
)
def test_a_broken_line_of_samples_is_named(refused, tmp_path, line, found):
    path = tmp_path / "samples_t.jsonl"
    path.write_bytes(SAMPLE + line + b"\n")
    assert f"{path}, line 2: {found}" in refused(path, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("correct", "yes"), ("task", 3), ("choice_logprob", None), ("answer", 54), ("operands", "69"), ("question", None)],
)
def test_a_cell_whose_rows_are_not_what_an_evaluation_writes_is_refused(two_arms_copy, refused, key, value):
    cell = two_arms_copy / "baseline" / "seed1"
    path = cell / "eval_pretrain" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[30][key] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.search(f"{path}(, line 31)?: ", refused(cell, cell))


@pytest.mark.parametrize("bits", [1e308, -1e20])
def test_figures_beyond_reason_are_refused(two_arms_copy, refused, bits):
    path = two_arms_copy / "baseline" / "seed1" / "eval_pretrain" / "heldout_text.json"
    held_out = json.loads(path.read_text())
    held_out["documents"][0]["bits"] = bits
    path.write_text(json.dumps(held_out))
    err = refused(two_arms_copy)
    assert f"{path.parent}: pretrain/heldout_text/untouched/bits_per_byte: found" in err


@pytest.mark.parametrize(
    "report",
    [
        b"3",
        b'{"outcomes": {"x": 3}}',
        b'{"contrasts": [3]}',
        b'{"contrasts": [{"difference": "x", "role": "primary", "outcome": "o"}], "outcomes": {"o": {"floors": {}}}}',
        b'{"contrasts": [{"difference": 1, "role": "primary", "outcome": []}], "outcomes": {}}',
    ],
)
def test_a_broken_report_is_named(two_arms_copy, refused, report):
    (two_arms_copy / "comparison_report.json").write_bytes(report)
    assert "comparison_report.json: " in refused(two_arms_copy)


def test_a_report_whose_verdict_was_edited_is_not_cited(two_arms_copy, refused):
    path = two_arms_copy / "comparison_report.json"
    path.write_text(json.dumps(sealed({"contrasts": [], "outcomes": {}}) | {"trial": "edited"}))
    assert "does not match its sha256" in refused(two_arms_copy)


def test_a_trial_of_somebody_else_opens_no_file_outside_its_folder(two_arms_copy, refused):
    path = two_arms_copy / "trial.yaml"
    own = yaml.safe_load(path.read_text())
    for name, value in (
        ("facts", {"csv": "/dev/zero", "family": "csv"}),
        ("arms", [*own["arms"], "/etc"]),
        ("arms", [*own["arms"], ".."]),
    ):
        path.write_text(yaml.safe_dump(own | {name: value}))
        assert f"{path}: {name}: found" in refused(two_arms_copy)


def test_names_are_printed_without_control_characters(tmp_path, tokentrial):
    evil = "sys\x1b]0;owned\x07\u202e"
    path = tmp_path / "solutions.jsonl"
    rows = [{"question": q, evil: {"is_correct": q == "a"}, "other": {"is_correct": True}} for q in "ab"]
    broken = {"question": "b", evil: {"is_correct": "\x1b"}}
    for lines, words, expected in ((rows, (), 0), (rows, ("--json",), 0), ([rows[0], broken], (), 1)):
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        code, out, err = tokentrial("compare", path, *words)
        assert code == expected
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err)


def test_what_is_absent_or_holds_no_result_says_what_is_expected(refused, tmp_path):
    assert "absent: not found; expected a run folder" in refused(tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty: no results there; expected a run folder" in refused(tmp_path / "empty", tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = ("metrics", "results", "n-samples", "examples", "correct", "total", "category_accuracies", "doc_id", "question")
shaped = st.dictionaries(st.sampled_from(keys), json_values | st.dictionaries(st.sampled_from(keys), json_values))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(shaped, st.sampled_from(["x_results.json", "samples_x.jsonl"]))
def test_whatever_the_fields_hold_it_is_read_or_refused(tmp_path, value, name):
    path = tmp_path / name
    path.write_text(json.dumps(value))
    try:
        read_systems([path])
    except TrialError as error:
        assert name in str(error)  # noqa: PT017 - it may also be read
