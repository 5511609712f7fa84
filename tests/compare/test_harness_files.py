"""lm-eval's results and samples, in the shape that its 0.4 writes."""

import json

import pytest
from scipy import stats

QUESTIONS = [f"How many are {n} and 1?" for n in range(10)]


def write_harness(folder, right, samples=True, total=10):
    """A model's folder as `lm-eval --output_path --log_samples` leaves it: two filters of one metric."""
    folder.mkdir(parents=True)
    results = {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": sum(right) / total,
            "exact_match_stderr,strict-match": 0.1,
            "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": 0.1,
        },
        "wikitext": {"alias": "wikitext", "word_perplexity,none": 23.4, "word_perplexity_stderr,none": "N/A"},
        "group": {"alias": "group", "acc,none": 0.33},
    }
    counts = {"gsm8k": {"original": 1319, "effective": total}, "wikitext": {"original": 62, "effective": 62}}
    stamp = "2026-01-02T03-04-05.678901"
    (folder / f"results_{stamp}.json").write_text(json.dumps({"results": results, "n-samples": counts}))
    if samples:
        lines = [
            {
                "doc_id": number,
                "doc": {"question": question, "answer": "x"},
                "target": "x",
                "filter": kept,
                "metrics": ["exact_match"],
                "doc_hash": f"{number:x}",
                "exact_match": float(right[number] if kept == "strict-match" else number % 2 == 0),
            }
            for kept in ("strict-match", "flexible-extract")
            for number, question in reversed(list(enumerate(QUESTIONS)))
        ]
        path = folder / f"samples_gsm8k_{stamp}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


ONE, TWO = [True] * 7 + [False] * 3, [True] + [False] * 9


def test_samples_pair_by_question(tmp_path, compared):
    made = {
        line["outcome"]: line
        for line in compared(write_harness(tmp_path / "one", ONE), write_harness(tmp_path / "two", TWO))
    }
    assert made.keys() == {"gsm8k/all/accuracy", "gsm8k/all/accuracy_flexible"}
    line = made["gsm8k/all/accuracy"]
    assert (line["test"], line["discordant"]) == ("mcnemar_exact", [6, 0])
    assert line["p"] == stats.binomtest(6, 6, 0.5).pvalue
    assert made["gsm8k/all/accuracy_flexible"]["difference"] == 0


def test_a_question_that_is_there_twice_pairs_by_its_place(tmp_path, compared):
    lines = [
        {"doc_id": n, "doc": {"question": "the same?"}, "metrics": ["acc"], "filter": "none", "acc": float(n == 0)}
        for n in range(3)
    ]
    for name, order in (("samples_one.jsonl", lines), ("samples_two.jsonl", lines[::-1])):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in order))
    (tmp_path / "samples_two.jsonl").rename(tmp_path / "samples_one_2026-01-01T00-00-00.jsonl")
    [line] = compared(tmp_path / "samples_one.jsonl", tmp_path / "samples_one_2026-01-01T00-00-00.jsonl")
    assert (line["n_items"], line["discordant"]) == (3, [0, 0])


def test_results_alone_are_totals(tmp_path, compared):
    folders = [write_harness(tmp_path / name, right, False) for name, right in (("one", ONE), ("two", TWO))]
    line = compared(*folders)[0]
    assert line["test"] == "fisher_exact"
    assert line["p"] == pytest.approx(stats.fisher_exact([[7, 3], [1, 9]]).pvalue)


def test_a_file_alone_and_a_folder_above_the_models_are_read_too(tmp_path, compared):
    for name, right in (("out/one", ONE), ("out/two", TWO)):
        write_harness(tmp_path / name, right)
    files = [next((tmp_path / "out" / name).glob("samples_*.jsonl")) for name in ("one", "two")]
    assert [line["p"] for line in compared(tmp_path / "out")] == [line["p"] for line in compared(*files)]


def test_what_is_no_count_is_left_out_by_name(tmp_path, tokentrial):
    write_harness(tmp_path / "one", ONE, False)
    write_harness(tmp_path / "two", TWO, False)
    code, out, _ = tokentrial("compare", tmp_path / "one", tmp_path / "two", "--json")
    assert code == 0
    assert any("wikitext word_perplexity,none: left out, 23.4 is no count" in n for n in json.loads(out)["notes"])


def test_the_harness_pairs_with_ours_by_the_question(tmp_path, compared):
    """GSM8K's published solutions against a harness run of ten of its questions."""
    solutions = tmp_path / "solutions.jsonl"
    rows = [{"question": question, "system": {"is_correct": True, "solution": ""}} for question in QUESTIONS[:8]]
    solutions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [line] = compared(solutions, write_harness(tmp_path / "two", TWO))
    assert (line["n_items"], line["discordant"]) == (8, [7, 0])
    assert "only the 8 items that both answered, of 8 and 10" in line["note"]


def test_two_runs_in_one_folder_are_ambiguous(tmp_path, tokentrial):
    folder = write_harness(tmp_path / "one", ONE)
    (folder / "results_2027-01-02T03-04-05.678901.json").write_text("{}")
    code, _, err = tokentrial("compare", folder, folder)
    assert code == 2
    assert "2 files results_*.json of several runs; give one of them" in err
