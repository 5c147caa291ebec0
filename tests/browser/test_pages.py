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
CHARTS = """() => [...document.querySelectorAll(".field")].filter((field) => field.checkVisibility()).map((field) => {
  const drawn = field.getBoundingClientRect();
  const texts = [...field.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  return [field.dataset.x, Math.round(drawn.width), Math.round(drawn.height),
          field.querySelectorAll("polyline, rect, circle").length, Math.round(Math.max(...texts.map((t) => t.right)))];
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


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_charts_are_drawn_nothing_overflows_and_axe_finds_nothing_serious(opened, name, width, scheme):
    page = opened(name, width, color_scheme=scheme)
    for chart, drawn_width, drawn_height, marks, end in page.evaluate(CHARTS):
        assert drawn_width > 200, chart
        assert drawn_height > 100, chart
        assert marks > 0, chart
        assert end <= width, f"{chart}: its words stick out"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS] == []


def shown(page):
    """The title across of the one drawing of the loss that is visible, and its line."""
    found = page.locator("#chart-loss .field:visible")
    assert found.count() == 1
    return found.get_attribute("data-x"), found.locator("polyline").first.get_attribute("transform")


def test_the_loss_can_be_drawn_over_tokens_and_time_and_on_a_logarithmic_axis(opened):
    page = opened("report.html")
    assert shown(page)[0] == "optimizer step"
    for choice, words in (("Tokens", "real tokens"), ("Time", "of training (measured)"), ("Steps", "optimizer step")):
        page.get_by_role("radio", name=choice).check()
        assert words in shown(page)[0]
    before = shown(page)
    page.get_by_label("Logarithmic").check()
    assert shown(page)[0] == before[0] and shown(page)[1] != before[1]


def test_the_value_near_the_pointer_is_told(opened):
    page = opened("report.html")
    field = page.locator("#chart-loss .field:visible")
    assert page.locator("#tip").is_hidden()
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 0.8 * box["height"])
    words = page.locator("#tip").inner_text()
    assert words.endswith("at optimizer step 250") and words.startswith(("training: 0.0", "held-out: 0.0"))
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()


def test_without_javascript_the_charts_and_tables_are_there_and_no_dead_switch_is_shown(opened):
    page = opened("report.html", java_script_enabled=False)
    assert page.locator(".switch").first.is_hidden()
    assert page.locator("#chart-loss .field").first.is_visible()
    page.locator("figure summary").first.click()
    assert page.locator("figure table").first.is_visible()


def test_the_page_prints(opened):
    page = opened("report.html")
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 50_000
