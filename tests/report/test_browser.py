"""The page in a real browser: it runs nothing, asks for nothing, can be read, reached by keyboard, in either theme.

Needs Chromium and its driver, as Debian packages them; skipped where they are absent.
"""

import json
import shutil
from itertools import pairwise

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium or chromedriver is absent: apt-get install chromium chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is absent: pip install '.[dev]'")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS, THEMES = (1280, 390), ("light", "dark")
AA = 4.5  # of text to its ground; 3 where it is large: WCAG 2.2, 1.4.3

# Each element with text of its own, and its contrast: alpha of all ancestors' grounds is laid over the canvas.
CONTRAST = """
const rgba = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const words = [...e.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim());
  if (!words.length || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
  const style = getComputedStyle(e), grounds = [];
  for (let a = e; a; a = a.parentElement) grounds.push(rgba(getComputedStyle(a).backgroundColor));
  const ground = grounds.reverse().reduce((under, g) => over(g, under), [255, 255, 255, 1]);
  const ink = over(rgba(e instanceof SVGElement ? style.fill : style.color), ground);
  const [hi, lo] = [light(ink), light(ground)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  found.push([(hi + .05) / (lo + .05), large ? 3 : 4.5, e.tagName, words[0].textContent.trim().slice(0, 40)]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, published):
    """`opened(width, theme)`: the page of the made-up run, every `details` open, as a reader may have it."""

    def open_page(width=1280, theme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get((published / "report.html").resolve().as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        return browser

    return open_page


def test_it_asks_the_network_for_nothing_and_the_console_is_empty(opened):
    page = opened()
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [page.current_url]


def test_a_hostile_completion_is_shown_and_not_run(opened):
    page = opened()
    shown = page.execute_script("return [...document.querySelectorAll('.answer pre')].map(e => e.innerText)")
    assert any("<script>document.title = 'run'</script>" in text for text in shown)
    assert any("<img src=x onerror=" in text for text in shown)
    assert page.title.startswith("smoke: mul_tokens hurts")
    assert page.execute_script("return document.scripts.length + document.images.length") == 0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_visible_once_and_described(opened, width, theme):
    page = opened(width, theme)
    figures = page.execute_script(
        "return [...document.querySelectorAll('figure [role=img]')].map(e => [e.getAttribute('aria-label'),"
        " e.querySelector('svg').getBoundingClientRect().toJSON()])"
    )
    seen = [(alt, box) for alt, box in figures if box["width"] > 0 and box["height"] > 0]
    assert len(figures) == 2 * len(seen) == 16
    for alt, box in seen:
        assert len(alt) > 40
        assert box["width"] > 300
        assert box["height"] > 60
        assert box["right"] <= width
    assert page.execute_script(
        "return [...document.querySelectorAll('figcaption')].every(e => e.innerText.length > 40)"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(opened, width):
    page = opened(width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_paper_no_table_is_cut_off(opened):
    width = 718  # pixels between the margins of an A4 sheet
    page = opened(width)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    widths = page.execute_script("return [...document.querySelectorAll('table')].map(e => e.scrollWidth)")
    assert len(widths) > 10
    assert max(widths) <= width


def test_figures_on_a_phone_have_letters_that_can_be_read(opened):
    sizes = opened(390).execute_script(
        "return [...document.querySelectorAll('.narrow text')].map(e => { const svg = e.ownerSVGElement;"
        " return parseFloat(getComputedStyle(e).fontSize) * svg.getBoundingClientRect().width"
        " / svg.viewBox.baseVal.width; })"
    )
    assert len(sizes) > 50
    assert min(sizes) > 9  # pixels


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_text_stands_out_from_its_ground(opened, width, theme):
    found = opened(width, theme).execute_script(CONTRAST)
    assert len(found) > 400
    assert {tag for _, _, tag, _ in found} >= {"text", "H1", "TD", "A", "FIGCAPTION", "PRE"}
    assert [entry for entry in found if entry[0] < entry[1]] == []


def test_the_themes_differ(opened):
    grounds = {opened(1280, t).execute_script("return getComputedStyle(document.body).backgroundColor") for t in THEMES}
    assert len(grounds) == 2


def test_everything_that_scrolls_or_opens_is_reached_by_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    page = opened(390)
    wanted = page.execute_script(
        "return [...document.querySelectorAll('a[href], summary, .scroll')].map((e, i) => e.dataset.stop = i).length"
    )
    reached = set()
    for _ in range(wanted + 5):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(page.execute_script("return document.activeElement.dataset.stop"))
    assert reached >= {str(i) for i in range(wanted)}
    unreachable = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && e.tabIndex < 0 && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).length"
    )
    assert unreachable == 0


def test_headings_and_tables_have_an_order_for_those_who_hear_them(opened):
    page = opened()
    levels = page.execute_script("return [...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = page.execute_script("return [...document.querySelectorAll('nav a')].map(e => e.hash.slice(1))")
    assert set(targets) <= set(ids)
    assert page.execute_script("return document.documentElement.lang") == "en"
