"""The page in a real browser: it draws itself, answers to pointer and keyboard, and fits every screen."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser's driver needs selenium")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium-driver"
    ),
    pytest.mark.xdist_group("browser"),
]


class Page:
    """One report in one browser."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        self.url = path.as_uri()

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def look(self, width: int = 1280, scheme: str = "light", media: str = "") -> None:
        """Take a screen's width, a colour scheme and a medium."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def open(self) -> None:
        """Load the page and wait for its charts."""
        self.driver.get(self.url)
        self.until("return document.documentElement.dataset.ready === 'true'")

    def until(self, script: str, *arguments: Any) -> None:
        """Wait for a condition."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 120, 0.05).until(lambda driver: driver.execute_script(script, *arguments))

    def choose(self, point: int) -> None:
        """Wait until a point is chosen."""
        self.until("return document.documentElement.dataset.chosen === arguments[0]", str(point))


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Page(driver, page)
    finally:
        driver.quit()


@pytest.fixture
def shown(browser: Page) -> Page:
    browser.look()
    browser.open()
    return browser


TILES = """
const tiles = [...document.querySelectorAll('[data-chart="diagram-0"] path')].filter(
  (path) => path.__data__ && path.__data__.datum && path.__data__.datum.left !== undefined);
"""


def test_the_page_loads_without_errors_and_without_the_network(browser):
    browser.look()
    browser.driver.get("about:blank")
    for log in ("browser", "performance"):
        browser.driver.get_log(log)
    browser.open()
    assert browser.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {browser.url}
    assert browser("return window.hacked") is None
    undrawn = (
        "return [...document.querySelectorAll('[data-chart]')].filter((place) => !place.querySelector('svg')).length"
    )
    assert browser(undrawn) == 0


def test_pointing_at_a_tile_shows_its_numbers(shown):
    from selenium.webdriver import ActionChains

    tile = shown(TILES + "return tiles.find((path) => path.__data__.datum.n === 11)")
    datum = shown("return arguments[0].__data__.datum", tile)
    shown("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", tile)
    ActionChains(shown.driver).move_to_element_with_offset(tile, 3, 8).perform()
    shown.until(
        "const tip = document.getElementById('vg-tooltip-element'); return tip && tip.classList.contains('visible')"
    )
    text = shown("return document.getElementById('vg-tooltip-element').innerText")
    for part in ("n = 11", datum["success"], datum["interval"], datum["error"]):
        assert part in text


def test_clicking_a_tile_shows_its_curves(shown):
    from selenium.webdriver import ActionChains

    tile = shown(TILES + "return tiles.find((path) => path.__data__.datum.n === 5)")
    point = shown("return arguments[0].__data__.datum.point", tile)
    assert shown("return document.documentElement.dataset.chosen") != str(point)
    shown("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", tile)
    ActionChains(shown.driver).move_to_element_with_offset(tile, 3, 8).click().perform()
    shown.choose(point)
    assert shown("return document.getElementById('chosen').textContent").endswith("n = 5")
    assert shown("return document.querySelector('[data-chart=\"curve-train_loss\"]').dataset.rows") == "30", (
        "3 replicates at 10 evaluations after the start"
    )
    label = shown("return document.querySelector('[data-chart=\"curve-nuclear_norm\"]').getAttribute('aria-label')")
    assert "at step 300, 3 replicates" in label
    assert "minimum nuclear norm" in label
    assert shown("return document.querySelectorAll('tr.picked').length") == 1


def test_curves_are_those_of_the_store(shown, page):
    import flatdist

    history = flatdist.load_history(page.parents[1] / "results", where="n == 8 and learning_rate == 0.05")
    last = history[history["step"] == 300]["train_loss"].median()
    row = shown(
        "return [...document.querySelectorAll('#cell-table tbody tr')].find((row) =>"
        " row.dataset.method === 'label_noise_sgd' && [...row.cells].some((cell) => cell.textContent === '8'))"
    )
    shown("arguments[0].querySelector('button').click()", row)
    shown.choose(int(shown("return arguments[0].dataset.point", row)))
    label = shown("return document.querySelector('[data-chart=\"curve-train_loss\"]').getAttribute('aria-label')")
    found = float(label.split("step 30, ")[1].split(" at")[0])
    assert found == pytest.approx(last, rel=6e-3)


def test_the_keyboard_reaches_and_chooses_tiles(shown):
    from selenium.webdriver import Keys

    first = shown(TILES + "return tiles.find((path) => path.getAttribute('tabindex') === '0')")
    shown("arguments[0].focus()", first)
    before = shown("return document.activeElement.__data__.datum.n")
    shown.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    after = shown("return document.activeElement.__data__.datum")
    assert after["n"] > before
    shown.driver.switch_to.active_element.send_keys(Keys.ENTER)
    shown.choose(after["point"])
    assert shown("return document.activeElement.getAttribute('aria-label')") == after["label"]
    assert shown("return document.getElementById('said').textContent").startswith("Training curves of ")


def test_a_cell_without_curves_says_so(shown):
    row = shown("return document.querySelector('tr[data-method=min_nuclear_norm]')")
    shown("arguments[0].querySelector('button').click()", row)
    shown.choose(int(shown("return arguments[0].dataset.point", row)))
    assert "no training curves" in shown("return document.getElementById('chosen-note').innerText")
    assert shown("return document.querySelector('.curves').hidden")


def column(shown, head):
    """The texts of one column, and its head."""
    heads = shown("return [...document.querySelectorAll('#cell-table thead th')].map((head) => head.textContent)")
    place = heads.index(head)
    rows = "[...document.querySelectorAll('#cell-table tbody tr')].filter((row) => !row.hidden)"
    return place, shown(f"return {rows}.map((row) => row.cells[arguments[0]].dataset.sort)", place)


@pytest.mark.parametrize("head", ["n", "median relative error"])
def test_heads_sort_up_and_down_and_say_so(shown, head):
    place, _ = column(shown, head)
    for direction, sign in (("ascending", 1), ("descending", -1)):
        shown("document.querySelectorAll('#cell-table thead button')[arguments[0]].click()", place)
        numbers = [float(text) for text in column(shown, head)[1] if text]
        assert numbers == sorted(numbers, key=lambda number: sign * number)
        states = shown("return [...document.querySelectorAll('#cell-table thead th')].map((h) => h.ariaSort)")
        assert states[place] == direction
        assert states.count("none") == len(states) - 1


def test_filters_narrow_the_table(shown):
    from selenium.webdriver.common.by import By

    total = len(column(shown, "n")[1])
    assert total == 13
    shown.driver.find_element(By.ID, "filter-text").send_keys("label-noise")
    assert len(column(shown, "n")[1]) == 5
    assert shown("return document.getElementById('filter-count').textContent") == "5 of 13 cells"
    trouble = shown.driver.find_element(By.ID, "filter-trouble")
    shown("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", trouble)
    trouble.click()
    assert column(shown, "n")[1] == ["15.0"], "the cell that diverged"
    shown.driver.find_element(By.ID, "filter-text").clear()
    shown("const s = document.getElementById('filter-method'); s.value = 'min_nuclear_norm';"
          "s.dispatchEvent(new Event('input'))")  # fmt: skip
    assert column(shown, "n")[1] == []


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_no_screen_scrolls_sideways(browser, width):
    browser.look(width)
    browser.open()
    assert browser("return document.documentElement.scrollWidth") <= width
    edges = browser(
        "return [...document.querySelectorAll('.chart svg')].map((svg) => svg.getBoundingClientRect().right)"
    )
    assert max(edges) <= width


def test_dark_mode_changes_page_and_charts(shown):
    ink = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.chart svg .role-axis-label text')).fill,"
        " getComputedStyle(document.querySelector('[data-chart=complexity-0] .mark-symbol path')).fill]"
    )
    light = shown(ink)
    shown.look(scheme="dark")
    dark = shown(ink)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(before != after for before, after in zip(light, dark, strict=True))
    shown.look(scheme="dark", media="print")
    assert shown(ink)[0] == light[0], "paper stays light"


def test_paper_shows_everything_there_is(shown):
    shown.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    from pypdf import PdfReader

    answer = shown.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    file = Path(shown.driver.capabilities["chrome"]["userDataDir"]) / "report.pdf"
    file.write_bytes(base64.b64decode(answer["data"]))
    text = " ".join(page.extract_text() for page in PdfReader(file).pages)
    assert "axes:" in text, "the sweep file, folded on the screen"
    assert "Filter" not in text


def test_without_scripts_pictures_and_tables_remain(page, browser):
    browser.look()
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(browser.url)
        answer = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        assert len(answer["data"]) > 1000
        document = browser.driver.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]

        def count(selector):
            found = browser.driver.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": document, "selector": selector})
            return len(found["nodeIds"])

        assert count("noscript img") >= 2
        assert count("#cell-table tbody tr") == 13
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
