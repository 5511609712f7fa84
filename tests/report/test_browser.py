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
PHONE, DESKTOP = 390, 1280  # pixels

# Each element with text of its own, its contrast and the least that WCAG 2.2, 1.4.3 allows: alpha of all ancestors'
# grounds is laid over the canvas.
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
def open_page(browser, published):
    """`open_page(width, theme)`: the page of the synthetic run, every `details` open, as a reader may have it."""

    def open_report(width=DESKTOP, theme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""} | scheme)
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get((published / "report.html").resolve().as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        return browser

    return open_report


def test_it_asks_the_network_for_nothing_and_runs_no_hostile_completion(open_page):
    page = open_page()
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith("data:")] == [page.current_url]
    answers = page.execute_script("return [...document.querySelectorAll('.answer pre')].map(e => e.innerText)")
    assert any("<script>document.title = 'run'</script><img src=x onerror=" in text for text in answers)
    assert page.title.startswith("smoke: mul_tokens hurts")
    assert page.execute_script("return document.scripts.length + document.images.length") == 0


@pytest.mark.parametrize(("width", "theme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_text_and_figures_can_be_read(open_page, width, theme):
    page = open_page(width, theme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(253, 252, 250)", "dark": "rgb(20, 23, 26)"}[theme]
    contrasts = page.execute_script(CONTRAST)
    assert len(contrasts) > 400
    assert {tag for _, _, tag, _ in contrasts} >= {"text", "H1", "TD", "A", "FIGCAPTION", "PRE"}
    assert [entry for entry in contrasts if entry[0] < entry[1]] == []
    figures = page.execute_script(
        "return [...document.querySelectorAll('figure [role=img]')].filter(e => e.checkVisibility()).map(e => ["
        "e.ariaLabel.length, e.closest('figure').querySelector('figcaption').innerText.length,"
        " (e.closest('.scroll') ?? e).clientWidth,"
        " ...[...e.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)])"
    )
    assert len(figures) == 6
    for alt, caption, shown, *letters in figures:
        assert min(alt, caption) > 40
        assert shown <= width
        assert min(letters) > 9  # pixels


def test_on_paper_nothing_is_cut_off(open_page):
    width = 718  # pixels between the margins of an A4 sheet
    page = open_page(width)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    widths = page.execute_script("return [...document.querySelectorAll('table, .scroll')].map(e => e.scrollWidth)")
    assert len(widths) > 18
    assert max(widths) <= width


def test_everything_that_scrolls_or_opens_is_reached_by_keyboard(open_page):
    from selenium.webdriver.common.keys import Keys

    page = open_page(PHONE)
    stops = page.execute_script(
        "return [...document.querySelectorAll('a[href], summary, .scroll')].filter(e => e.checkVisibility())"
        ".map((e, i) => e.dataset.stop = i).length"
    )
    reached = set()
    for _ in range(stops + 5):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(page.execute_script("return document.activeElement.dataset.stop"))
    assert reached >= {str(i) for i in range(stops)}
    unreachable = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && e.tabIndex < 0 && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).length"
    )
    assert unreachable == 0


def test_headings_have_an_order_for_those_who_hear_them(open_page):
    page = open_page()
    levels = page.execute_script("return [...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = page.execute_script("return [...document.querySelectorAll('nav a')].map(e => e.hash.slice(1))")
    assert set(targets) <= set(ids)
    assert page.execute_script("return document.documentElement.lang") == "en"
