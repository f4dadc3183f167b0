"""The page in a real browser: it draws itself, answers to pointer and keyboard, and fits every screen."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser's driver needs selenium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium-driver"
)


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
        """Load the page and wait for its script."""
        self.driver.get(self.url)
        self.until("return document.documentElement.dataset.ready === 'true'")

    def until(self, script: str, *arguments: Any) -> None:
        """Wait for a condition."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 120, 0.05).until(lambda driver: driver.execute_script(script, *arguments))


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


NAMES = "return [...document.querySelectorAll('#name-a, #name-b')].map((name) => name.textContent)"
TILE = "return document.querySelector(`svg [data-mark=tile][data-cell='${arguments[0]}']`)"


def cell_of(shown, method, n):
    """The number of a cell, from the table."""
    return int(
        shown(
            "return [...document.querySelectorAll('#cells tbody tr')].find((row) =>"
            " row.cells[0].textContent === arguments[0] && [...row.cells].some((c) => c.textContent === arguments[1]))"
            ".dataset.cell",
            method,
            str(n),
        )
    )


def click(shown, element, shift=False):
    from selenium.webdriver import ActionChains, Keys

    shown("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    chain = ActionChains(shown.driver)
    if shift:
        chain = chain.key_down(Keys.SHIFT)
    chain = chain.move_to_element_with_offset(element, 3, 8).click()
    (chain.key_up(Keys.SHIFT) if shift else chain).perform()


def test_the_page_loads_without_errors_and_without_the_network(browser):
    browser.look()
    browser.driver.get("about:blank")
    for log in ("browser", "performance"):
        browser.driver.get_log(log)
    browser.open()
    assert browser.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert asked == {browser.url}
    assert browser("return window.hacked") is None


def test_the_answer_is_on_the_first_screen(shown):
    shown.look(1440)
    bottoms = shown(
        "return [...document.querySelectorAll('article li')].map((row) => row.getBoundingClientRect().bottom)"
    )
    assert len(bottoms) == 4, "label-noise SGD at two learning rates, and two solvers"
    assert max(bottoms) < 1000


def test_pointing_at_a_tile_shows_its_numbers(shown):
    from selenium.webdriver import ActionChains

    tile = shown(TILE, cell_of(shown, "min nuclear norm", 11))
    shown("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", tile)
    ActionChains(shown.driver).move_to_element_with_offset(tile, 3, 8).perform()
    shown.until("return !document.getElementById('tip').hidden")
    text = shown("return document.getElementById('tip').innerText")
    for part in ("min nuclear norm", "n 11", "success", "95 % interval", "relative error"):
        assert part in text


def test_two_cells_are_chosen_and_their_curves_are_in_view(shown):
    shown.look(1440)
    first, second = cell_of(shown, "label-noise SGD", 5), cell_of(shown, "label-noise SGD", 11)
    click(shown, shown(TILE, first))
    click(shown, shown(TILE, second), shift=True)
    a, b = shown(NAMES)
    assert a.endswith("n 5")
    assert b.endswith("n 11")
    assert shown("return document.querySelectorAll('.frame')[0].querySelectorAll('.run').length") == 6
    boxes = shown("return [...document.querySelectorAll('.frame svg')].map((svg) => svg.getBoundingClientRect().top)")
    assert 0 <= boxes[0] < 900
    assert shown("return document.querySelectorAll('tr.a, tr.b').length") == 2
    label = shown("return document.querySelector('.frame svg').getAttribute('aria-label')")
    assert "A, step 300" in label
    assert "median of 3" in label
    shown("document.getElementById('drop').click()")
    assert shown("return document.getElementById('second').hidden")


def test_curves_are_those_of_the_store(shown, page):
    import flatdist

    history = flatdist.load_history(page.parents[1] / "results", where="n == 8 and learning_rate == 0.05")
    last = history[history["step"] == 300]["train_loss"].median()
    shown(
        "document.querySelector(`#cells tr[data-cell='${arguments[0]}']`).click()", cell_of(shown, "label-noise SGD", 8)
    )
    label = shown("return document.querySelector('.frame svg').getAttribute('aria-label')")
    assert float(label.split("step 300: ")[1].split(" ")[0]) == pytest.approx(last, rel=2e-2)


def test_every_mark_is_reached_by_tab_and_arrows(shown):
    from selenium.webdriver import Keys

    stops = shown("return [...document.querySelectorAll('figure svg')].map((svg) =>"
                  " [svg.querySelectorAll('[data-cell][tabindex=\"0\"]').length,"
                  " svg.querySelectorAll('[data-cell]').length])")  # fmt: skip
    assert all(stop == min(marks, 1) for stop, marks in stops)
    marks = "[...document.querySelectorAll('figure svg [data-cell]:not(.ring)')]"
    assert shown(f"return {marks}.every((mark) => mark.getAttribute('aria-label'))")
    shown("document.querySelector('svg [data-mark=tile][tabindex=\"0\"]').focus()")
    before = shown("return document.activeElement.dataset.cell")
    shown.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    after = shown("return document.activeElement.dataset.cell")
    assert after != before
    name = shown("return document.activeElement.getAttribute('aria-label').split(', success')[0].split(', n / ')[0]")
    shown.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert shown(NAMES)[0].startswith(name)
    shown("document.querySelector('#cells tbody tr').focus()")
    shown.driver.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ENTER)
    assert shown(NAMES)[1]


def test_a_cell_without_curves_says_so(shown):
    shown(
        "document.querySelector(`#cells tr[data-cell='${arguments[0]}']`).click()",
        cell_of(shown, "min nuclear norm", 8),
    )
    assert shown(NAMES)[0].endswith("(solved directly: no training curves)")


@pytest.mark.parametrize("head", ["n", "relative_error"])
def test_heads_sort_up_and_down_and_say_so(shown, head):
    values = (
        "const head = document.querySelector(`#cells th[data-name='${arguments[0]}']`);"
        "return [head.ariaSort, [...document.querySelectorAll('#cells tbody tr')].map((row) =>"
        " row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent)]"
    )
    for direction, sign in (("ascending", 1), ("descending", -1)):
        shown("document.querySelector(`#cells th[data-name='${arguments[0]}'] button`).click()", head)
        state, texts = shown(values, head)
        numbers = [float(text) for text in texts if text != "-"]
        assert numbers == sorted(numbers, key=lambda number: sign * number)
        assert state == direction


def test_filters_narrow_the_table(shown):
    from selenium.webdriver.common.by import By

    count = "return document.getElementById('count').textContent"
    assert shown(count) == "13 of 13 cells"
    shown.driver.find_element(By.ID, "filter").send_keys("label-noise, n 5")
    assert shown(count) == "1 of 13 cells", "n 5 is not n 15"
    shown.driver.find_element(By.ID, "filter").clear()
    shown.driver.find_element(By.ID, "filter").send_keys("label-noise")
    assert shown(count) == "5 of 13 cells"
    shown("document.getElementById('trouble').click()")
    assert shown("return [...document.querySelectorAll('#cells tbody tr')].filter((row) => !row.hidden)"
                 ".every((row) => 'trouble' in row.dataset)")  # fmt: skip


@pytest.mark.parametrize("view", ["heat map", "lines", "scatter", "parallel coordinates"])
def test_any_fields_are_drawn_and_their_marks_are_cells(shown, view):
    shown("const s = [...document.querySelectorAll('#explore select')][0]; s.value = arguments[0]; s.onchange()", view)
    assert shown("return document.querySelectorAll('#drawing svg [data-cell]:not(.ring)').length") >= 4
    shown("document.querySelector('#drawing svg [data-cell]').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert shown("return document.querySelectorAll('#drawing .ring.a').length") >= 1


def test_highlighting_dims_the_others(shown):
    shown("document.querySelector('[data-highlight=\"1\"]').click()")
    assert shown("return document.querySelectorAll('.dim').length") > 0
    assert shown("return [...document.querySelectorAll('.dim')].every((mark) => mark.dataset.series !== '1')")
    shown("document.querySelector('[data-highlight=\"1\"]').click()")
    assert shown("return document.querySelectorAll('.dim').length") == 0


@pytest.mark.parametrize("width", [375, 768, 1400])
def test_no_screen_scrolls_sideways(browser, width):
    browser.look(width)
    browser.open()
    assert browser("return document.documentElement.scrollWidth") <= width
    boxes = "[...document.querySelectorAll(arguments[0])].map((element) => element.getBoundingClientRect())"
    assert browser(f"return Math.max(...{boxes}.map((box) => box.right))", "figure svg") <= width
    heights = browser(f"return {boxes}.map((box) => box.height)", ".figures .panels svg text")
    assert min(height for height in heights if height) >= 9


def test_dark_mode_changes_page_and_figures(shown):
    ink = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.panels svg text')).fill,"
        " getComputedStyle(document.querySelector('[data-mark=point]')).fill]"
    )
    light = shown(ink)
    shown.look(scheme="dark")
    dark = shown(ink)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(before != after for before, after in zip(light, dark, strict=True))
    shown.look(scheme="dark", media="print")
    assert shown(ink)[0] == light[0], "paper stays light"


def test_paper_has_no_buttons_and_no_hashes(shown, page):
    from pypdf import PdfReader

    answer = shown.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    file = Path(shown.driver.capabilities["chrome"]["userDataDir"]) / "report.pdf"
    file.write_bytes(base64.b64decode(answer["data"]))
    reader = PdfReader(file)
    text = " ".join(page.extract_text() for page in reader.pages)
    assert "Where this comes from" in text
    assert "containing" not in text
    assert "remove" not in text
    ids = shown("return [...document.querySelectorAll('#cells td:last-child')].map((cell) => cell.textContent)")
    assert not [cell for cell in ids if cell in text]
    assert len(reader.pages) <= 4


def test_without_scripts_answer_figures_and_table_remain(browser):
    browser.look()
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(browser.url)
        document = browser.driver.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]

        def count(selector):
            found = browser.driver.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": document, "selector": selector})
            return len(found["nodeIds"])

        assert count("article li b") >= 3
        assert count("figure svg [data-mark=tile]") == 13
        assert count("#cells tbody tr") == 13
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install --no-save axe-core@4.14.1 (.ci/run does)")
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (375, "light")])
def test_axe_finds_no_violation(browser, width, scheme):
    browser.look(width, scheme)
    browser.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    try:
        browser.open()
        browser("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        browser("document.querySelector('#cells tbody tr:nth-child(5)').click()")
        click = "new MouseEvent('click', {bubbles: true, shiftKey: true})"
        browser(f"document.querySelector('#cells tbody tr').dispatchEvent({click})")
        browser.driver.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.driver.execute_async_script(
            "const done = arguments[0]; const shown = (v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))];"
            "axe.run().then((result) => done(result.violations.map(shown)))"
        )
        assert found == []
    finally:
        browser.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
