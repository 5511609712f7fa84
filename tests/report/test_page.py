"""The page: what it says, in which order, that hostile text stays text, and that it is the same each time."""

import re
from copy import deepcopy
from html import unescape
from itertools import combinations
from xml.etree import ElementTree

import pytest

from tokentrial.report import figures
from tokentrial.report.figures import draw
from tokentrial.report.forest import forest
from tokentrial.report.mechanism import lens_alt, probes_alt, rows_alt
from tokentrial.report.narrative import headline, limits, next_steps, not_shown
from tokentrial.report.page import page
from tokentrial.statistics.power import seeds_needed

NEVER = "pretrain/mul_table/never_asked/accuracy"
TOKENS = "mul_tokens - baseline"
SECTIONS = [
    *("meaning", "forest", "ladder", "table", "curves", "dose", "inside", "consumed", "checks", "floors", "declared"),
    *("provenance", "completions", "limits"),
]
FIGURES, FORMATS = {"forest", "ladder", "heatmap", "curves", "dose", "probes", "lens", "rows"}, ("svg", "png")


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
    assert headline(report).startswith("mul_tokens hurts: 0.07 against 0.51 of baseline, accuracy on never-asked")
    starts = {"helps": "mul_tokens helps:", "no difference shown": "No difference shown:", None: "No verdict yet"}
    starts |= {"equivalent within 0.1": "mul_tokens and baseline are", "baseline has not learnt": "No verdict:"}
    for verdict, start in starts.items():
        report["primary"]["verdict"] = verdict
        assert headline(report).startswith(start)


def test_the_heading_s_p_is_of_the_test_that_decides(html, report):
    """Where every seed differs by as much, that is the sign-flip test, and not the t."""
    assert "(paired t over seeds), 0.0312 (exact sign-flip)." in text_of(html)
    contrast = report["outcomes"][NEVER]["contrasts"][TOKENS]
    contrast |= {"test": "sign_flip", "p": contrast["p_sign_flip"], "ci95": None}
    assert "interval n/a, p 0.0312 (exact sign-flip)." in text_of(page(report, {}))


def test_each_arm_is_judged_and_what_is_open_is_named(html, report):
    assert "mul_append : 0.944 ± 0.068 in accuracy on never-asked facts: helps" in section(html, "meaning")
    assert "It got 1.000 and 0.514: passed." in section(html, "meaning")
    report["outcomes"][NEVER]["contrasts"][TOKENS]["verdict"] = "no difference shown"
    assert not_shown(report)[0].startswith(f"{TOKENS} on accuracy on never-asked facts after pretraining: a difference")


def test_the_next_command_has_the_seeds_that_power_asks_for_and_its_cost(report):
    contrast = report["outcomes"][NEVER]["contrasts"][TOKENS]
    # FACTS, section 4: the minimum detectable effect is 1.435 standard deviations at n = 6; planning widens by 1.46
    needed = seeds_needed(abs(contrast["difference"]), 1.46 * contrast["mde80"] / 1.435)
    confirm, budget = next_steps(report)
    assert confirm["why"].startswith(f"confirm on {needed} fresh seeds")
    assert f"'seeds=[{','.join(str(7 + i) for i in range(needed))}]' output=../again" in confirm["command"]
    # a seed trains 35 s, fine-tunes 60 s and is evaluated twice 2.5 s on average, in each of three arms
    assert confirm["cost"] == f"about {needed * 3 * 100 / 60:.0f} CPU worker minutes"
    assert budget["command"] == "tokentrial run trial.yaml budget.match=bytes output=../again"
    report["primary"]["verdict"] = "baseline has not learnt"
    [longer] = next_steps(report)
    assert "pretrain.steps=40" in longer["command"]  # twice those of the tiny trial


def test_the_limits_are_of_this_run(report):
    found = " ".join(limits(report))
    # every synthetic arm reads the same bytes
    for part in ("12,345 parameters", "60% in baseline", "6 seeds", "mul_tokens +0%, mul_append +0%", "one_slot"):
        assert part in found
    assert "The verdict is of the model after pretraining; after SFT the same is 0.514" in found
    assert "mul_append" not in found.partition("Controls that did not run")[2].partition("%")[0]


def test_what_was_declared_and_what_ran_where_cells_are_missing(synthetic_run, build_undrawn):
    trial = synthetic_run("seeds=[1,2]")
    (trial.folder / "mul_append" / "seed2" / "eval_pretrain").rename(trial.folder / "gone")
    report = build_undrawn(trial)
    rows = {row["setting"]: row for row in report["ran"]}
    assert rows["seeds"] == {"setting": "seeds", "declared": "1, 2", "ran": "1"}
    assert rows["alpha"]["declared"] == rows["alpha"]["ran"] == "0.05"
    assert rows["budget"]["ran"] == "baseline: 20 steps; mul_tokens: 20 steps; mul_append: 20 steps"
    source = (trial.folder / "report.html").read_text()
    assert "Missing: mul_append/seed2 pretrain." in text_of(source)
    assert "2026-01-01" in section(source, "provenance")


def test_a_page_of_nothing_renders(report):
    nothing = {key: {} for key in ("outcomes", "consumed", "curves", "tables", "checks", "mechanism", "samples")}
    primary = report["primary"] | {"verdict": None}
    source = page(report | nothing | {"primary": primary, "gate": None, "stages": []}, {})
    assert re.findall(r'<section id="(\w+)">', source) == SECTIONS
    assert "No verdict yet" in source
    assert "Nothing to draw yet." in section(source, "inside")
    assert [name for name, (_, alt) in figures._FIGURES.items() if alt(report | nothing)] == ["dose"]


# inside the models


def test_what_stands_inside_is_put_in_sentences_without_a_verdict(html, report):
    """Seeds 1 to 6 of the synthetic cells: 0.8 + 0.035 of the product, 0.1 mean of the last layer's s/10."""
    found = section(html, "inside")
    assert found.startswith("Inside the models Exploratory:")
    assert "end baseline 0.84 and -2.96, mul_tokens 0.84 and -2.96, mul_append 0.84 and -2.96." in probes_alt(report)
    assert "on never-asked facts baseline -9.00 to -1.35" in lens_alt(report)
    assert "mul_tokens's 45 were served 0 to 440 times, are 0.50 long, and 1 look hardly trained;" in rows_alt(report)
    assert all(alt(report) in found for alt in (probes_alt, lens_alt, rows_alt))


def test_what_a_model_lacks_inside_is_not_drawn(report, only):
    """Arms without tokens have a state alone, and a seed may have no never-asked facts."""
    report["mechanism"] = {"baseline": report["mechanism"]["baseline"]}
    for cell in report["mechanism"]["baseline"]:
        del cell["lens"]["never_asked"]
    only("probes", "lens", "rows")
    drawn = draw(report)
    assert {*drawn} == {"probes", "lens"}
    assert "from the fact token" not in drawn["probes"].svg
    assert "never-asked" not in drawn["lens"].svg


# figures


def test_the_dots_of_the_forest_are_the_seeds_differences_and_no_words_cover_others(report):
    pairs = [report["declared"]["primary"], *report["declared"]["secondary"]]
    for pair in pairs:
        report["outcomes"][pair["outcome"]]["contrasts"][pair["contrast"]]["verdict"] = "baseline has not learnt"
    figure, drawn = forest(report), {"o": [], "D": []}
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        for line in axis.lines:
            if (marker := line.get_marker()) in drawn:
                drawn[marker].append([*line.get_xdata()])
    for pair, dots, [diamond] in zip(pairs, drawn["o"], drawn["D"], strict=True):
        outcome = report["outcomes"][pair["outcome"]]
        treatment, control = (outcome["per_seed"][arm] for arm in pair["contrast"].split(" - "))
        assert dots == [a - b for a, b in zip(treatment, control, strict=True)]
        assert diamond == outcome["contrasts"][pair["contrast"]]["difference"]


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
    assert len(svgs) == len(FIGURES)
    for svg in svgs:
        assert "var(--ink)" in svg
        assert "#1c2024" not in svg
        assert ' id="axes' not in svg


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
    report["primary"]["outcome"] = name
    report["declared"]["primary"] = {"outcome": name, "contrast": TOKENS}
    only("forest")
    drawn = draw(report)
    assert "<script" not in page(report, drawn)
    words = "".join(ElementTree.fromstring(drawn["forest"].svg).itertext())
    assert "accuracy on $x$ <script>alert(1)<script> after pretraining" in words  # and no formula
