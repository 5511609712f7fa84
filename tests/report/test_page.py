"""The page: what it says, in which order, that hostile text stays text, and that it is the same each time."""

import re
from collections import Counter
from copy import deepcopy
from html import unescape
from itertools import combinations
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from tokentrial.report import figures, narrative, text_report
from tokentrial.report.figures import draw
from tokentrial.report.forest import NARROW, forest
from tokentrial.report.narrative import findings, headline, limits
from tokentrial.report.page import page
from tokentrial.report.plot_style import RC_PARAMS, arm_style
from tokentrial.report.probes import probes_alt

NEVER = "pretrain/mul_table/never_asked/accuracy"
SECTIONS = [
    *("meaning", "outcomes", "stages", "table", "curves", "dose", "inside", "consumed", "checks", "floors", "declared"),
    *("provenance", "completions", "limits"),
]
FIGURES, FORMATS = {"forest", "stages", "heatmap", "curves", "dose", "probes"}, ("svg", "png")


@pytest.fixture(scope="session")
def html(published):
    return (published / "report.html").read_text()


def text_of(source):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", source)).split())


def section(source, name):
    return text_of(source.partition(f'<section id="{name}">')[2].partition("</section>")[0])


# what it says


def test_the_verdict_is_the_heading_and_the_sections_stand_in_their_order(html, report):
    assert re.findall(r'<section id="(\w+)">', html) == SECTIONS
    assert text_of(re.search(r"<h1>(.*?)</h1>", html)[1]) == headline(report)
    # 5 + 6 + 7 + 5 + 6 + 8 of 12 in six seeds, and 1 + 0 + 2 + 1 + 1 + 0
    assert f"{5 / 72:.3f} against {37 / 72:.3f} of baseline, accuracy on never-asked facts" in headline(report)
    for verdict in ("helps", "no difference shown", "equivalent within 0.1", "control has not learnt", None):
        report["contrasts"][0]["verdict"] = verdict
        assert "mul_tokens" in headline(report)


def test_a_reader_with_a_minute_gets_what_was_compared_how_sure_it_is_and_what_else_was_found(report):
    """baseline knows 5, 6, 7, 5, 6 and 8 facts and mul_tokens 1, 0, 2, 1, 1 and 0: below it in every seed."""
    compared, sure, others = narrative.summary(report)
    assert "<MUL_6_9_54>" in compared
    assert "mul_tokens is better than baseline in 0 of 6 seeds" in sure
    # t of -4/12, -6/12, -5/12, -4/12, -5/12, -8/12 is -8.68 with 5 degrees of freedom
    assert "0.0336 % of such trials" in sure
    assert "1 helps, 1 hurts" in others
    report["contrasts"][0]["p"] = 1.0  # two arms at one floor
    assert "100 % of such trials" in narrative.summary(report)[1]
    report["contrasts"][0] |= {"outcome": "pretrain/heldout_text/untouched/bits_per_byte"}  # less is better
    assert "better than baseline in 6 of 6 seeds" in narrative.summary(report)[1]
    report["tuning"] = {"chosen": {"mul_tokens": {"pretrain.lr": 0.1}, "baseline": {"pretrain.lr": 0.2}}}
    assert "but for the values that each was tuned to" in narrative.summary(report)[0]
    assert "such trials" not in narrative.summary(report)[1]
    report["tuning"], report["contrasts"][0]["p"] = None, None
    assert "such trials" not in narrative.summary(report)[1]
    report["contrasts"][0] |= {"difference": None, "differences": []}
    assert len(narrative.summary(report)) == 2


def test_the_heat_map_names_the_operands_and_nothing_where_facts_have_none(report):
    """In the synthetic run a fact's operands go from 1 to 9, and begin at 2 once it has none of 1."""

    def ticks():
        with mpl.rc_context(RC_PARAMS):
            first = figures._heatmap(report).axes[0]
        return [[label.get_text() for label in labels()] for labels in (first.get_yticklabels, first.get_xticklabels)]

    assert report["facts"]["axes"] == [[*range(1, 10)]] * 2
    assert ticks() == [["1", "5", "9"]] * 2
    report["facts"]["axes"] = [[*range(2, 11)], [*range(4, 13)]]
    assert ticks() == [["2", "6", "10"], ["4", "8", "12"]]
    report["facts"]["axes"] = []
    assert ticks() == [[], []]


def test_the_questions_whose_answers_arms_differ_in_most_come_first_by_group(report):
    lines = text_report.questions(report, "pretrain")
    apart = [max(map(float, line.shares)) - min(map(float, line.shares)) for line in lines]
    assert apart == sorted(apart, reverse=True)
    assert [line.differs for line in lines] == [value >= 0.5 for value in apart]
    # 81 questions are asked in some seed; the 64 of factors from 2 are never asked in others
    assert Counter(line.group for line in lines) == {"asked": 81, "never_asked": 64}
    assert all(line.shares == ["1.00"] * 3 for line in lines if line.group == "asked")
    del report["tables"]["pretrain"]["mul_tokens"]  # not evaluated yet
    place = report["arms"].index("mul_tokens")
    assert {line.shares[place] for line in text_report.questions(report, "pretrain")} == {"-"}


def test_the_heading_s_p_is_of_the_test_that_decides(html, report):
    """Where every seed differs by as much, that is the sign-flip test, and not the t. Beyond 20 seeds no sign-flip is
    exact."""
    assert "p 0.000336 (paired t over seeds), 6 seeds; exact sign-flip p 0.0312." in text_of(html)
    report["contrasts"][0]["sign_flip_is_exact"] = False
    sampled = text_of(page(report, {}))
    assert "; sampled sign-flip p 0.0312." in sampled
    assert "exact sign-flip" not in sampled
    report["contrasts"][0] |= {"test": "sign_flip", "p": 0.0312, "interval": None}
    assert "no interval, p 0.0312 (sign-flip), 6 seeds." in text_of(page(report, {}))


def test_no_sentence_contradicts_verdict_interval_or_holm(html, report):
    """The pilot's first page: +0.326 [+0.019, +0.634], alone significant, with Holm's p of .119 not."""
    pilot = {"difference": 0.326, "interval": [0.019, 0.634], "p": 0.0397, "p_adjusted": 0.119}
    note = "not significant among the 3 declared secondary contrasts (Holm p 0.119)"
    report["contrasts"][1] |= pilot | {"verdict": "no difference shown", "note": note}
    shown, [left_open] = findings(report)
    assert len(shown) == 2
    assert note in left_open
    assert "unadjusted 95 % interval [+0.019, +0.634]" in left_open
    assert "either sign" not in left_open
    assert "Where the line crosses zero" not in html
    report["contrasts"][1] |= {"interval": [-0.019, 0.634], "p": 0.06, "note": ""}
    assert "a difference of either sign is left open" in findings(report)[1][0]
    report["contrasts"][1]["verdict"] = "equivalent within 0.1"
    assert findings(report)[1] == []


def test_intervals_have_the_level_that_was_declared(synthetic_run, build_undrawn):
    trial = synthetic_run("verdict.alpha=0.01", "robustness_reruns=[]")
    report = build_undrawn(trial)
    assert "99 % interval" in section((trial.folder / "report.html").read_text(), "outcomes")
    assert "95 % interval" not in narrative.verdict_sentence(report)


def test_an_early_stop_and_a_trial_that_goes_on_are_told_apart(report):
    assert narrative.looks(report) == []
    report["declared"] |= {"looks": [6, 12], "spending": "obrien_fleming"}
    report["look"] |= {"number": 1, "of": 2, "alpha": 0.00557, "boundary": 4.65, "may_go_on": True, "wanted": 6}
    assert "biased" in narrative.looks(report)[1]
    report["contrasts"][0]["verdict"], report["look"]["wanted"] = None, 12
    assert "12 seeds" in narrative.looks(report)[1]


def test_what_was_declared_is_named_by_its_hash_and_what_differs_is_told(html, report):
    sha256 = report["declaration"]["sha256"]
    declared = section(html, "declared")
    assert f"{sha256[:12]} (sha256 {sha256})" in declared
    assert "Nothing differs from it" in declared
    report["declaration"]["departures"] = ["pretrain.lr: 0.001 instead of the declared 0.003, now; exploratory"]
    changed = section(page(report, {}), "declared")
    assert "pretrain.lr: 0.001 instead of the declared 0.003, now; exploratory." in changed
    assert "Nothing differs" not in changed
    report["declaration"] = {"sha256": None, "since": None, "departures": []}
    assert "Nothing differs" not in section(page(report, {}), "declared")


def test_arms_that_read_unlike_amounts_of_text_are_not_said_to_differ_in_nothing_else(report):
    same = narrative.summary(report)[0]
    report["consumed"]["mul_tokens"]["bytes"] += 1000.0
    assert narrative.summary(report)[0] != same
    report["settings"]["budget"]["match"] = "bytes"  # what the arms read differs by less than a step then
    assert narrative.summary(report)[0] == same


def test_who_has_not_learnt_is_the_trials_control_whatever_the_contrast_is_against(report):
    report["declared"]["control"] = "mul_append"
    report["contrasts"][0] |= {"verdict": "control has not learnt"}
    assert "mul_append has not learnt" in headline(report)


def test_the_two_alphas_are_said_together(report):
    assert "10 %" in narrative.error_rates(report)
    report["declared"]["secondary"] = []
    assert "5 %" in narrative.error_rates(report)
    report["tuning"] = {"chosen": {"baseline": {"pretrain.lr": 0.001}, "mul_tokens": {"pretrain.lr": 0.003}}}
    assert "Here it is more" in narrative.error_rates(report)


def test_the_limits_are_of_this_run(report):
    found = " ".join(limits(report))
    for part in ("12,345 parameters", "60% in baseline", "6 seeds", "5,000 in mul_tokens", "one_slot"):
        assert part in found
    assert "The verdict is on the model after pretraining" in found
    _, _, left_out = found.partition("Arms that did not run: ")
    assert "one_slot" in left_out
    assert "mul_append" not in left_out.partition(".")[0]


@pytest.mark.parametrize(("detectable", "warns"), [(1.19, True), (0.49, True), (0.48, False)])
def test_too_few_seeds_for_any_effect_are_warned_of(report, detectable, warns):
    """The control stands at 37/72: no treatment can be better by more than 35/72 = 0.486."""
    report["contrasts"][0]["detectable"] = detectable
    assert ("Too few seeds for any effect" in " ".join(limits(report))) == warns


@pytest.mark.parametrize("verdict", ["equivalent within 0.1", "no difference shown"])
def test_what_equivalence_assumes_is_a_limit_where_it_was_found(report, verdict):
    report["contrasts"][1]["verdict"] = verdict
    assert ("one normal distribution" in " ".join(limits(report))) == verdict.startswith("equivalent")


def test_what_was_declared_and_what_ran_where_cells_are_missing(synthetic_run, build_undrawn):
    trial = synthetic_run("seeds=[1,2]")
    (trial.folder / "mul_append" / "seed2" / "eval_pretrain").rename(trial.folder / "gone")
    report = build_undrawn(trial)
    rows = {row["setting"]: row for row in report["ran"]}
    assert rows["seeds"] == {"setting": "seeds", "declared": "1, 2", "ran": "1"}
    assert rows["budget"]["ran"] == "baseline: 20 steps; mul_tokens: 20 steps; mul_append: 20 steps"
    source = (trial.folder / "report.html").read_text()
    assert "Missing: mul_append/seed2 pretrain." in text_of(source)
    assert "2026-01-01" in section(source, "provenance")


def test_a_page_of_nothing_renders(report):
    nothing = {key: {} for key in ("outcomes", "consumed", "curves", "tables", "checks", "mechanism", "samples")}
    unmeasured = dict.fromkeys(report["contrasts"][0]) | {"role": "primary", "outcome": NEVER, "note": "not measured"}
    unmeasured |= {"treatment": "mul_tokens", "control": "baseline", "seeds": [], "differences": []}
    nothing |= {"contrasts": [unmeasured], "gate": None, "stages": []}
    source = page(report | nothing, {})
    assert re.findall(r'<section id="(\w+)">', source) == SECTIONS
    assert "No verdict yet" in source
    assert "Nothing to draw yet." in section(source, "inside")
    assert [name for name, (_, alt) in figures._FIGURES.items() if alt(report | nothing)] == ["dose"]


# inside the models


def test_what_stands_inside_is_put_in_a_sentence_without_a_verdict(html, report):
    """Seeds 1 to 6 of the synthetic cells: 0.8 + 0.035 of the product."""
    found = section(html, "inside")
    assert found.startswith("Inside the models Exploratory:")
    assert "end baseline 0.84 and -2.96, mul_tokens 0.84 and -2.96, mul_append 0.84 and -2.96." in probes_alt(report)
    assert probes_alt(report) in found


def test_what_a_model_lacks_inside_is_not_drawn(report, only):
    """Arms without tokens have a state alone."""
    report["mechanism"] = {"baseline": report["mechanism"]["baseline"]}
    only("probes")
    assert "from the fact token" not in draw(report)["probes"].svg


# figures


def test_the_dots_of_the_forest_are_the_seeds_differences_and_no_words_cover_others(report):
    declared = report["contrasts"][:3]
    for record in declared:
        record["verdict"] = "control has not learnt"
    figure, drawn = forest(report), {"o": [], "D": []}
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        for line in axis.lines:
            if (marker := line.get_marker()) in drawn:
                drawn[marker].append([*zip(line.get_xdata(), line.get_ydata(), strict=True)])
    for record, dots, [diamond] in zip(declared, drawn["o"], drawn["D"], strict=True):
        assert [x for x, _ in dots] == record["differences"]
        assert diamond[0] == record["difference"]
        # seeds 1 and 4 differ by 4/12 both, though not to the last bit: neither dot hides the other
        assert len({(round(x, 9), y) for x, y in dots}) == len(dots)


def test_twelve_arms_can_be_told_apart(report):
    report["arms"] = ["baseline", *(f"arm{number}" for number in range(12))]
    assert len({arm_style(report, arm) for arm in report["arms"]}) == 13


def test_the_learning_curve_is_accuracy_over_tokens_with_the_t_interval_of_its_mean(report):
    points = {"1": [0.1, 0.5], "2": [0.3, 0.7]}
    for curves in report["curves"].values():
        for seed in "3456":
            del curves[seed]
    for seed, values in points.items():
        for point, value in zip(report["curves"]["mul_tokens"][seed]["points"], values, strict=True):
            point["asked"] = value
    axis = figures._curves(report).axes[0]
    line = next(line for line in axis.lines if [*line.get_ydata()] == pytest.approx([0.2, 0.6]))
    assert [*line.get_xdata()] == [40960, 81920]
    half = 12.706 * 0.1  # t of one degree of freedom, times s / sqrt(2) of two values 0.2 apart
    shades = [shade.get_paths()[0].vertices for shade in axis.collections]
    ends = [(v[v[:, 0] == 81920, 1].min(), v[v[:, 0] == 81920, 1].max()) for v in shades]
    assert any(end == pytest.approx((0.6 - half, 0.6 + half), rel=1e-3) for end in ends)


def test_figures_are_files_and_on_the_page_in_its_colours(published, html):
    assert {path.name for path in (published / "figures").iterdir()} == {f"{n}.{e}" for n in FIGURES for e in FORMATS}
    for path in (published / "figures").glob("*.svg"):
        assert "#fdfcfa" in path.read_text()  # an opaque ground: it is looked at on dark pages too
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == len(FIGURES) + 1  # the first picture once more, for a phone
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len({*ids})
    for svg in svgs:
        assert "var(--ink)" in svg
        assert "#1c2024" not in svg
        assert ' id="axes' not in svg


def test_on_a_phone_the_first_picture_has_the_same_words_within_its_width(report, only):
    only("forest")
    drawn = draw(report)["forest"]
    wide, narrow = (ElementTree.fromstring(svg) for svg in (drawn.svg, drawn.narrow))
    assert float(narrow.get("width").removesuffix("pt")) == pytest.approx(72 * 3.7)
    said, said_narrow = (
        "".join(text for text in svg.itertext() if not re.fullmatch(r"−?[0-9.]+", text)) for svg in (wide, narrow)
    )  # all but the ticks
    assert "".join(said.split()) == "".join(said_narrow.split())
    for record in report["contrasts"]:
        record["verdict"] = "control has not learnt"
    with mpl.rc_context(RC_PARAMS):
        figure = forest(report, NARROW)
        figure.draw_without_rendering()
        ends = [words.get_window_extent().x1 for axis in figure.axes for words in axis.texts]
    assert max(ends) <= figure.bbox.width


def test_the_same_report_gives_the_same_bytes(published, html, report, only):
    only("curves")
    for name, drawing in draw(report).items():
        assert (published / "figures" / f"{name}.svg").read_text() == drawing.svg
        assert (published / "figures" / f"{name}.png").read_bytes() == drawing.png
    assert page(report, {}) == page(deepcopy(report), {})


# hostile text


def test_a_hostile_completion_is_text(html):
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;document.title" in html
    assert "{{ 7 * 7 }}" in html
    assert "default-src 'none'" in html


def test_a_hostile_name_is_text_in_figures_too(report, only):
    name = "pretrain/<script>alert(1)<script>/$x$/accuracy"
    report["outcomes"] = {name if key == NEVER else key: value for key, value in report["outcomes"].items()}
    report["contrasts"][0]["outcome"] = name
    only("forest")
    drawn = draw(report)
    assert "<script" not in page(report, drawn)
    words = "".join(ElementTree.fromstring(drawn["forest"].svg).itertext())
    assert "accuracy on $x$ <script>alert(1)<script> after pretraining" in words  # and no formula
