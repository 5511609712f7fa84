"""lm-eval's results and samples, in the shape that its 0.4 writes."""

import json

import pytest
from scipy import stats

from tokentrial.compare.external_formats import read_lm_eval

QUESTIONS = [f"How many are {n} and 1?" for n in range(10)]
STAMP = "2026-01-02T03-04-05.678901"
SEVEN, ONE = [True] * 7 + [False] * 3, [True] + [False] * 9  # right of ten


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_lm_eval(folder, correct, samples=True):
    """A model's folder as `lm-eval --output_path --log_samples` leaves it: two filters of one metric."""
    folder.mkdir(parents=True)
    results = {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": sum(correct) / 10,
            "exact_match_stderr,strict-match": 0.1,
            "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": 0.1,
        },
        "wikitext": {"alias": "wikitext", "word_perplexity,none": 23.4, "word_perplexity_stderr,none": "N/A"},
        "group": {"alias": "group", "acc,none": 0.33},
    }
    counts = {"gsm8k": {"original": 1319, "effective": 10}, "wikitext": {"original": 62, "effective": 62}}
    (folder / f"results_{STAMP}.json").write_text(json.dumps({"results": results, "n-samples": counts}))
    rows = [
        {
            "doc_id": number,
            "doc": {"question": question, "answer": "x"},
            "target": "x",
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"{number:x}",
            "exact_match": float(correct[number] if name == "strict-match" else number % 2 == 0),
        }
        for name in ("strict-match", "flexible-extract")
        for number, question in reversed(list(enumerate(QUESTIONS)))
    ]
    if samples:
        write_lines(folder / f"samples_gsm8k_{STAMP}.jsonl", rows)
    return folder


def test_samples_pair_by_question_from_folders_files_or_a_folder_above(tmp_path, by_outcome):
    folders = [write_lm_eval(tmp_path / "out" / name, correct) for name, correct in (("one", SEVEN), ("two", ONE))]
    contrasts = by_outcome(*folders)
    assert contrasts.keys() == {"gsm8k/all/accuracy", "gsm8k/all/accuracy_flexible"}
    contrast = contrasts["gsm8k/all/accuracy"]
    assert (contrast["test"], contrast["discordant"]) == ("mcnemar_exact", [6, 0])
    assert contrast["p"] == stats.binomtest(6, 6, 0.5).pvalue
    assert contrasts["gsm8k/all/accuracy_flexible"]["difference"] == 0
    files = [next(folder.glob("samples_*.jsonl")) for folder in folders]
    for words in ([tmp_path / "out"], files):
        assert by_outcome(*words)["gsm8k/all/accuracy"]["p"] == contrast["p"]


def test_a_repeated_question_pairs_by_its_place(tmp_path, compared):
    rows = [{"doc_id": n, "doc": {"question": "same?"}, "metrics": ["acc"], "acc": float(n == 0)} for n in range(3)]
    paths = [
        write_lines(tmp_path / "samples_one.jsonl", rows),
        write_lines(tmp_path / "samples_one_2026-01-01T00-00-00.jsonl", rows[::-1]),
    ]
    [contrast] = compared(*paths)
    assert (contrast["n_a"], contrast["discordant"]) == (3, [0, 0])


def test_results_alone_are_totals_and_what_is_no_count_is_left_out_by_name(tmp_path, by_outcome):
    folders = [write_lm_eval(tmp_path / name, correct, False) for name, correct in (("one", SEVEN), ("two", ONE))]
    contrast = by_outcome(*folders)["gsm8k/all/accuracy"]
    assert contrast["test"] == "fisher_exact"
    assert contrast["p"] == pytest.approx(stats.fisher_exact([[7, 3], [1, 9]]).pvalue)
    _, notes = read_lm_eval([*folders[0].iterdir()], [])
    assert any("wikitext word_perplexity,none: left out, 23.4 is not a count" in note for note in notes)


def test_lm_eval_pairs_with_published_solutions_by_the_question(tmp_path, compared):
    """GSM8K's published solutions against a run of ten of its questions."""
    rows = [{"question": question, "system": {"is_correct": True, "solution": ""}} for question in QUESTIONS[:8]]
    solutions = write_lines(tmp_path / "solutions.jsonl", rows)
    [contrast] = compared(solutions, write_lm_eval(tmp_path / "two", ONE))
    assert (contrast["n_a"], contrast["discordant"]) == (8, [7, 0])
    assert "only the 8 items that both answered, of 8 and 10" in contrast["note"]


def test_two_runs_in_one_folder_are_ambiguous(tmp_path, refused):
    folder = write_lm_eval(tmp_path / "one", SEVEN)
    (folder / "results_2027-01-02T03-04-05.678901.json").write_text("{}")
    assert "2 files results_*.json of several runs; give one of them" in refused(folder, folder)
