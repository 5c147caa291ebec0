"""The pages in a real browser, opened from a file without a network: drawn, readable, operable, accessible."""

import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install-dev")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make install-dev")

from pages import write_pages  # noqa: E402 - it takes seconds, in vain without a browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SLOWEST_MS = 180_000
PAGES = ("report.html", "compare.html", "unfinished.html", "plan.html", "ablate.html", "inspect.html")
SERIOUS = ("serious", "critical")
CHARTS = """() => [...document.querySelectorAll("[data-chart]")].map((place) => {
  const drawn = place.querySelector("svg")?.getBoundingClientRect();
  return [place.dataset.chart, Math.round(drawn?.width ?? 0), Math.round(drawn?.height ?? 0),
          place.querySelectorAll("svg path, svg rect").length];
})"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    assert set(write_pages(folder)) == set(PAGES)
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, folder):
    """Open a page; afterwards nothing may have been asked for but the file, nor said on the console."""
    contexts, requests, said = [], [], []

    def open_page(name, width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        context.set_default_timeout(SLOWEST_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith("file:")] == []
    assert said == []


def wait_for_charts(page):
    script = "() => [...document.querySelectorAll('[data-chart]')].every((place) => place.querySelector('svg'))"
    page.wait_for_function(script)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_charts_are_drawn_nothing_overflows_and_axe_finds_nothing_serious(opened, name, width, scheme):
    page = opened(name, width, color_scheme=scheme)
    wait_for_charts(page)
    for chart, drawn_width, drawn_height, marks in page.evaluate(CHARTS):
        assert drawn_width > 200, chart
        assert drawn_height > 100, chart
        assert marks > 3, chart
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS] == []


def test_the_loss_can_be_drawn_over_tokens_and_time_and_on_a_logarithmic_axis(opened):
    page = opened("report.html")
    wait_for_charts(page)
    place = page.locator('[data-chart^="spec-loss"]')
    assert "optimizer step" in place.text_content()
    for choice, words in (("Tokens", "real tokens"), ("Time", "of training (measured)"), ("Steps", "optimizer step")):
        page.get_by_role("radio", name=choice).check()
        page.wait_for_function("words => document.querySelector('.chart').textContent.includes(words)", arg=words)
    before = place.inner_html()
    page.get_by_label("Logarithmic").check()
    page.wait_for_function("before => document.querySelector('.chart').innerHTML !== before", arg=before)


def test_without_javascript_the_values_are_in_tables_and_no_dead_switch_is_shown(opened):
    page = opened("report.html", java_script_enabled=False)
    assert page.locator(".switch").first.is_hidden()
    page.locator("figure summary").first.click()
    assert page.locator("figure table").first.is_visible()


def test_the_page_prints(opened):
    page = opened("report.html")
    wait_for_charts(page)
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 50_000
