"""The page: what it says, in which order, that hostile text stays text, that it is made once and the same each time."""

import re
from html import unescape
from itertools import combinations
from xml.etree import ElementTree

import pytest

from tokentrial.report import comparison, figures
from tokentrial.report.canvas import WIDE
from tokentrial.report.figures import draw
from tokentrial.report.forest import forest
from tokentrial.report.meaning import headline, in_words, limits, next_steps, not_shown
from tokentrial.report.mechanism import lens_alt, probes_alt, rows_alt
from tokentrial.report.page import page
from tokentrial.run.run import rebuild
from tokentrial.statistics.power import seeds_needed
from tokentrial.store.files import read_json
from tokentrial.tasks.arithmetic import Arithmetic

NEVER = "pretrain/mul_table/never_asked/accuracy"
TOKENS = "mul_tokens - baseline"
SECTIONS = [
    *("meaning", "forest", "ladder", "table", "curves", "dose", "inside", "consumed", "checks", "floors", "declared"),
    *("provenance", "completions", "limits"),
]
FIGURES = {"forest", "ladder", "heatmap", "curves", "dose", "probes", "lens", "rows"}


def html(folder):
    return (folder / "report.html").read_text()


def text_of(source):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", source)).split())


def section(source, name):
    return text_of(source.partition(f'<section id="{name}">')[2].partition("</section>")[0])


# what it says


def test_the_verdict_is_the_heading_and_the_sections_stand_in_their_order(made_up, compared):
    trial = made_up()
    report = compared(trial)
    source = html(trial.folder)
    assert re.findall(r'<section id="(\w+)">', source) == SECTIONS
    assert text_of(re.search(r"<h1>(.*?)</h1>", source)[1]) == headline(report)
    # 5 + 6 + 7 + 5 + 6 + 8 of 12 in six seeds, and 1 + 0 + 2 + 1 + 1 + 0
    assert (
        headline(report)
        == "mul_tokens hurts: 0.07 against 0.51 of baseline, accuracy on never-asked facts after pretraining."
    )


@pytest.mark.parametrize(
    "verdict", ["helps", "no difference shown", "equivalent within 0.1", "baseline has not learnt", None]
)
def test_every_verdict_has_a_heading_of_its_own(made_up, compared, verdict):
    report = compared(made_up())
    report["primary"]["verdict"] = verdict
    said = headline(report)
    assert said.endswith(".")
    assert {"helps": "helps:", "no difference shown": "No difference shown", None: "No verdict yet"}.get(
        verdict,
        "No verdict: baseline has not learnt" if verdict and "learnt" in verdict else "are equivalent within 0.1",
    ) in said


@pytest.mark.parametrize(
    ("apart", "said"),
    [
        ((4, 6, 5, 4, 5, 8), "(paired t over seeds), 0.0312 (exact sign-flip)."),
        ((5,) * 6, "p 0.0312 (exact sign-flip)."),
    ],
)
def test_the_heading_s_p_is_of_the_test_that_decides(made_up, compared, apart, said):
    """Where every seed differs by as much, that is the sign-flip test, and not the t."""
    tokens = made_up.knows["mul_tokens"]
    trial = made_up(knows={"mul_tokens": tokens, "baseline": [a + b for a, b in zip(tokens, apart, strict=True)]})
    compared(trial)
    assert said in text_of(html(trial.folder))


def test_each_arm_is_judged_in_one_sentence(made_up, compared):
    trial = made_up()
    compared(trial)
    said = section(html(trial.folder), "meaning")
    assert "mul_append : 0.944 ± 0.068 in accuracy on never-asked facts: helps (accuracy on never-asked facts)." in said
    assert "It got 1.000 and 0.514: passed." in said


def test_what_is_declared_and_open_is_said(made_up, compared):
    same = dict.fromkeys(made_up.knows, made_up.knows["baseline"])
    report = compared(made_up(knows={**same, "mul_tokens": (8, 4, 9, 3, 8, 6)}))
    assert report["primary"]["verdict"] == "no difference shown"
    assert not_shown(report)[0].startswith(
        f"{TOKENS} on accuracy on never-asked facts after pretraining: a difference of"
    )


def test_the_next_command_has_the_seeds_that_power_asks_for_and_its_cost(made_up, compared):
    report = compared(made_up())
    made = report["outcomes"][NEVER]["contrasts"][TOKENS]
    # FACTS, section 4: the minimum detectable effect is 1.435 standard deviations at n = 6; planning widens by 1.46
    needed = seeds_needed(abs(made["difference"]), 1.46 * made["mde80"] / 1.435)
    first = next_steps(report)[0]
    assert first["why"].startswith(f"confirm on {needed} fresh seeds")
    assert f"'seeds=[{','.join(str(7 + i) for i in range(needed))}]' output=../again" in first["command"]
    # a seed trains 35 s and evaluates 2.5 s on average, in each of three arms
    assert first["cost"] == f"about {needed * 3 * 37.5 / 60:.0f} CPU worker minutes"
    assert next_steps(report)[1]["command"] == "tokentrial run trial.yaml budget.match=bytes output=../again"


def test_after_a_failed_gate_the_next_command_trains_longer(made_up, compared):
    [step] = next_steps(compared(made_up(learnt=False)))
    assert "pretrain.steps=40" in step["command"]  # twice those of the tiny trial


def test_the_limits_are_of_this_run(made_up, compared):
    report = compared(made_up())
    said = " ".join(limits(report))
    assert "12,345 parameters" in said
    assert "60% in baseline" in said
    assert "6 seeds" in said
    assert "one_slot" in said
    assert "mul_append" not in said.partition("Controls that did not run")[2].partition("%")[0]
    assert "+0%" in said  # every made-up arm reads the same bytes


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (NEVER, "accuracy on never-asked facts after pretraining"),
        ("sft/word_problems/all/accuracy", "accuracy on word problems after SFT"),
        (
            "grpo/mul_table/all/choice_logprob",
            "log-probability of the right answer on the whole times table after GRPO",
        ),
        ("pretrain/new_task/new/x_y", "x y on new new task after pretraining"),
    ],
)
def test_outcomes_have_words(outcome, words):
    assert in_words(outcome) == words


def test_settings_declared_stand_beside_what_ran(made_up, compared):
    trial = made_up(leave_out=[("mul_append", 6)])
    rows = {row["setting"]: row for row in compared(trial)["ran"]}
    assert rows["seeds"] == {"setting": "seeds", "declared": "1, 2, 3, 4, 5, 6", "ran": "1, 2, 3, 4, 5"}
    assert rows["alpha"]["declared"] == rows["alpha"]["ran"] == "0.05"
    assert rows["budget"]["ran"] == "baseline: 20 steps; mul_tokens: 20 steps; mul_append: 20 steps"
    assert "2026-01-01" in section(html(trial.folder), "provenance")


def test_what_is_consumed_and_checked_is_there_for_machines(made_up, compared):
    report = compared(made_up())
    spent = report["consumed"]["mul_tokens"]
    # 1,000 tokens, 1 layer, width 32, 1,000 ids, context 64: 6 a weight of a matrix, and attention
    assert spent["flops"] == 1000 * (6 * (12 * 32**2 + 1000 * 32) + 12 * 32 * 64)
    assert spent["evaluation_seconds"] == 2.5
    items = 81 + 5 * 5
    assert report["checks"]["mul_tokens"]["pretrain"] == {
        "items": 6 * items,
        "fact_tokens_per_item": 0,
        "unread": 0,
        "truncated": None,
    }
    assert report["corpus"]["by_arm"]["mul_tokens"]["sites_in_context"] == 1
    assert report["dose"]["by_arm"]["baseline"]["forms"] == {
        "equation": 225,
        "question": 138,
        "statement": 45,
        "boxes": 45,
    }
    assert report["dose"]["after_pretraining"] == {"sft": {"rows": 100, "stated": 3, "asked": 0}}


def test_the_table_keeps_asked_and_never_asked_apart(made_up, compared):
    """Each fact of 2-9 is never asked in two of the six seeds; the made-up arms know all that is asked."""
    table = compared(made_up())["tables"]["pretrain"]["mul_append"]["accuracy"]
    assert [value for line in table["asked"] for value in line] == [1.0] * 81
    never = table["never_asked"]
    assert never[0] == [None] * 9
    assert [line[0] for line in never] == [None] * 9
    values = [value for line in never[1:] for value in line[1:]]
    assert len(values) == 64
    assert all(never[a][b] == never[b][a] for a in range(9) for b in range(9))
    assert set(values) <= {0.0, 0.5, 1.0}
    assert 0 < sum(values) < 64


def test_the_completions_are_of_one_seed_right_and_wrong(made_up, compared):
    of = compared(made_up())["samples"]["pretrain"]
    assert of["seed"] == 1
    assert len(of["items"]) == 10
    patterns = {tuple(said["correct"] for said in item["arms"].values()) for item in of["items"]}
    assert len(patterns) >= 3
    questions = {example.question for example in Arithmetic(5).table()}
    assert {item["question"] for item in of["items"]} <= questions


# inside the models


def test_what_stands_inside_is_said_in_sentences_without_a_verdict(made_up, compared, only):
    """Seeds 1 to 6 of the made-up cells: 0.8 + 0.035 of the product, 0.1 mean of the last layer's s/10."""
    report = compared(made_up())
    assert probes_alt(report) == (
        "A linear map gives the product of facts it has not seen, and its part beyond a and b, with R² of: from the "
        "fact token's embedding mul_tokens 0.84 and -2.96, mul_append 0.84 and -2.96; from the state at the question's "
        "end baseline 0.84 and -2.96, mul_tokens 0.84 and -2.96, mul_append 0.84 and -2.96."
    )
    assert "on never-asked facts baseline -9.00 to -1.35" in lens_alt(report)
    assert rows_alt(report) == (
        "Fact tokens, lengths in those of the median plain row: mul_tokens's 45 were served 0 to 440 times, are 0.50 "
        "long, and 1 look hardly trained; mul_append's 45 were served 0 to 440 times, are 0.50 long, and 1 look hardly "
        "trained."
    )
    only("probes", "lens", "rows")
    source = section(page(report, draw(report)), "inside")
    assert source.startswith(
        "Inside the models Exploratory: nothing here was declared, and nothing of it gets a verdict."
    )
    assert all(unescape(alt(report)) in source for alt in (probes_alt, lens_alt, rows_alt))


def test_arms_without_tokens_are_drawn_from_the_state_alone(made_up, compared, only):
    report = compared(made_up())
    only("probes", "lens", "rows")
    report["mechanism"] = {"baseline": report["mechanism"]["baseline"]}
    drawn = draw(report)
    assert {*drawn} == {"probes", "lens"}
    assert "from the fact token" not in drawn["probes"].wide


def test_old_results_without_a_look_inside_are_shown_without_it(made_up, compared, only):
    trial = made_up()
    for path in trial.folder.glob("*/seed*/eval_pretrain/mechanism.json"):
        path.unlink()
    report = compared(trial)
    assert report["mechanism"] == {}
    only("forest", "ladder", "dose", "probes", "lens", "rows")
    drawn = draw(report)
    assert {*drawn} == {"forest", "ladder", "dose"}
    assert "Nothing to draw yet." in section(page(report, drawn), "inside")


def test_a_seed_without_never_asked_facts_has_no_such_line(made_up, compared, only):
    report = compared(made_up())
    for cells in report["mechanism"].values():
        for cell in cells:
            del cell["lens"]["never_asked"]
    assert "never-asked" not in lens_alt(report)
    only("lens")
    assert "asked facts" in draw(report)["lens"].wide


# what is not there


def test_what_is_missing_is_named(made_up, compared):
    trial = made_up(leave_out=[("mul_tokens", 5)])
    compared(trial)
    assert "Missing: mul_tokens/seed5 pretrain." in text_of(html(trial.folder))


def test_a_page_of_nothing_renders(made_up, compared):
    trial = made_up(leave_out=[(arm, seed) for arm in made_up.knows for seed in range(1, 7)])
    report = compared(trial)
    source = html(trial.folder)
    assert re.findall(r'<section id="(\w+)">', source) == SECTIONS
    assert "No verdict yet" in source
    assert [*draw(report)] == ["dose"]


@pytest.mark.parametrize(("right", "said"), [(0.5, "as some cell's samples were right"), (0.0, "although no sample")])
def test_why_grpo_went_on_is_said(made_up, compared, right, said):
    report = compared(made_up()) | {"grpo": {"pass_at_k": {"a": 0.0, "b": right}, "go_on": True, "mul_bonus": 0.0}}
    assert f"GRPO went on{', ' if right else ' '}{said}" in section(page(report, {}), "ladder")


# figures


def test_no_words_of_the_forest_cover_others(made_up, compared):
    report = compared(made_up())
    for outcome in report["outcomes"].values():
        for made in outcome["contrasts"].values():
            made["verdict"] = "baseline has not learnt"
    figure = forest(report, WIDE)
    figure.canvas.draw()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_figures_stand_beside_the_page(published):
    assert {path.stem for path in (published / "figures").glob("*.svg")} == FIGURES
    for name in FIGURES:
        svg = (published / "figures" / f"{name}.svg").read_text()
        assert "#fdfcfa" in svg  # an opaque ground: it is looked at on dark pages too
        assert "<dc:date>" not in svg
        assert (published / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_figures_on_the_page_take_its_colours(published):
    svgs = re.findall(r"<svg.*?</svg>", html(published), re.DOTALL)
    assert len(svgs) == 2 * len(FIGURES)
    for svg in svgs:
        assert "var(--ink)" in svg
        assert "#1c2024" not in svg
        assert ' id="axes' not in svg


def test_the_same_report_makes_the_same_bytes(published):
    report = read_json(published / "comparison_report.json")
    drawn = draw(report)
    for name in FIGURES:
        assert (published / "figures" / f"{name}.svg").read_text() == drawn[name].wide
        assert (published / "figures" / f"{name}.png").read_bytes() == drawn[name].png
    assert html(published) == page(report, drawn)


# hostile text


def test_a_hostile_completion_is_text(published):
    source = html(published)
    assert "<script" not in source
    assert "<img" not in source
    assert "&lt;script&gt;document.title" in source
    assert "{{ 7 * 7 }}" in source
    assert "default-src 'none'" in source


def test_a_hostile_name_is_text_in_figures_too(made_up, compared, only):
    report = compared(made_up())
    name = "pretrain/<script>alert(1)<script>/$x$/accuracy"
    report["outcomes"] = {name if key == NEVER else key: value for key, value in report["outcomes"].items()}
    report["primary"]["outcome"] = name
    report["declared"]["primary"] = {"outcome": name, "contrast": TOKENS}
    only("forest", "ladder")
    drawn = draw(report)
    assert "<script" not in page(report, drawn)
    words = {name: "".join(ElementTree.fromstring(figure.wide).itertext()) for name, figure in drawn.items()}
    assert "accuracy on $x$ <script>alert(1)<script> after pretraining" in words["forest"]  # and no formula


def test_the_learning_curve_is_accuracy_over_tokens_with_the_t_interval_of_its_mean(made_up, compared):
    report = compared(made_up("seeds=[1,2]"))
    points = {"1": [0.1, 0.5], "2": [0.3, 0.7]}
    for seed, (first, last) in points.items():
        curve = report["curves"]["mul_tokens"][seed]["points"]
        curve[0]["asked"], curve[1]["asked"] = first, last
    axis = figures._curves(report, WIDE).axes[0]
    line = next(line for line in axis.lines if [*line.get_ydata()] == pytest.approx([0.2, 0.6]))
    assert [*line.get_xdata()] == [40960, 81920]
    half = 12.706 * 0.1  # t of one degree of freedom, times s / sqrt(2) of two values 0.2 apart
    shades = [shade.get_paths()[0].vertices for shade in axis.collections]
    ends = [(v[v[:, 0] == 81920, 1].min(), v[v[:, 0] == 81920, 1].max()) for v in shades]
    assert any(end == pytest.approx((0.6 - half, 0.6 + half), rel=1e-3) for end in ends)


# made once


def test_it_is_made_once_and_again_where_the_page_is_gone(made_up, compared, monkeypatch):
    trial = made_up()
    compared(trial)
    before = html(trial.folder)
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_compare", lambda *given: pytest.fail("built a second time"))
        compared(trial)
    (trial.folder / "report.html").unlink()
    compared(trial)
    assert section(html(trial.folder), "consumed") == section(before, "consumed")


def test_the_page_of_a_real_run(climbed):
    source = html(climbed.folder)
    report = read_json(climbed.folder / "comparison_report.json")
    assert {*report["samples"]} == {"pretrain", "sft", "grpo"}
    assert report["consumed"]["baseline"]["sft_seconds"] > 0
    assert report["consumed"]["baseline"]["flops"] > 0
    assert report["checks"]["baseline"]["sft"]["truncated"] is not None
    assert "seconds of GRPO" in section(source, "consumed")
    assert "The verdict is of the model after pretraining; after GRPO the same is" in section(source, "limits")
    assert "After SFT, seed 1" in section(source, "completions")
    worked = [item for item in report["samples"]["sft"]["items"] if item["task"] == "word_problems"]
    assert len(worked) == 5
    assert rebuild(climbed.folder)["fingerprint"] == report["fingerprint"]
