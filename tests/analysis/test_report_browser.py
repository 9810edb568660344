"""The HTML report in a real browser, from disk: sorting, filtering, cells, a phone's width, colours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_runs import records, write_runs

from kdbench.analysis.records import read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.report.cells import CELLS_LISTED
from kdbench.analysis.splitting import split

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

selenium = pytest.importorskip("selenium")
BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        not (BROWSER.exists() and DRIVER.exists()), reason=f"needs {BROWSER} and {DRIVER}: apt install chromium-driver"
    ),
]
PHONE = 360
"""Pixels."""
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(str(DRIVER))
    driver = Chrome(options=options, service=service)
    started = [service.process.pid, *children(service.process.pid)]
    try:
        yield driver
    finally:
        driver.quit()
    end = time.monotonic() + 10
    while any(alive(process) for process in started) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(started) > 1
    assert not [process for process in started if alive(process)]


def children(parent: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        for word in path.read_text().split():
            found += [int(word), *children(int(word))]
    return found


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    made = records(seeds=CELLS_LISTED + 2)
    for record in made:
        record["settings_source"] = HOSTILE
        record["environment"]["device"] = HOSTILE
    write_runs(folder / "runs", made)
    read = read_records(folder / "runs")
    return write_report(folder / "runs", folder / "out", split(read), read)[0].as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The report, opened anew; at the end the console has said nothing."""
    size(browser, 1280)
    theme(browser, "light")
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def size(browser: Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def theme(browser: Chrome, name: str) -> None:
    features = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)


def find(page: Chrome, selector: str) -> Any:
    return page.find_element("css selector", selector)


def every(page: Chrome, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def wait(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def methods(page: Chrome) -> list[str]:
    """Those that the leaderboard shows, from the top."""
    return [row.text for row in every(page, "#c1-leaderboard-table tbody th[scope=row]") if row.is_displayed()]


def press(page: Chrome, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def head(page: Chrome, name: str) -> Any:
    return next(one for one in every(page, "#c1-leaderboard-table thead th") if one.text.startswith(name))


def test_a_click_sorts(page: Chrome) -> None:
    assert methods(page) == ["reviewkd", "crd", "kd", "ce"]
    time_head = head(page, "time x")
    find_button = time_head.find_element("css selector", "button")
    find_button.click()
    # 10 is more than 2: numbers, not texts. ce is 1.
    assert methods(page) == ["ce", "reviewkd", "crd", "kd"]
    assert time_head.get_attribute("aria-sort") == "ascending"
    find_button.click()
    assert methods(page) == ["kd", "reviewkd", "crd", "ce"]
    assert time_head.get_attribute("aria-sort") == "descending"
    assert len(every(page, "th[aria-sort]")) == 1
    for _ in range(2):
        # ce has no gain: it is last, up and down.
        head(page, "gain").find_element("css selector", "button").click()
        assert methods(page)[-1] == "ce"
    assert methods(page)[0] == "reviewkd"
    assert time_head.get_attribute("aria-sort") is None


def test_keys_sort(page: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    find(page, ".controls input[type=search]").click()
    for _ in range(50):
        press(page, Keys.TAB)
        if page.switch_to.active_element.text.startswith("method"):
            break
    press(page, Keys.ENTER)
    assert methods(page) == ["ce", "crd", "kd", "reviewkd"]
    press(page, Keys.SPACE)
    assert methods(page) == ["reviewkd", "kd", "crd", "ce"]


def test_the_filter_and_the_families(page: Chrome) -> None:
    status = find(page, ".controls [role=status]")
    assert status.get_attribute("aria-live") == "polite"
    assert status.text == "4 of 4 methods shown"
    search = find(page, ".controls input[type=search]")
    search.send_keys("KD")
    assert methods(page) == ["reviewkd", "kd"]
    assert status.text == "2 of 4 methods shown"
    find(page, ".controls input[value=features]").click()
    assert methods(page) == ["kd"]
    assert status.text == "1 of 4 methods shown"
    press(page, "x")
    search.send_keys("\b\b")
    assert methods(page) == ["crd", "kd", "ce"]


def test_a_cell_opens_and_closes(page: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    link = find(page, '[aria-label="kd, resnet20 > resnet8, seed 3"]')
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", link)
    before = page.execute_script("return window.scrollY")
    link.click()
    title = find(page, "#cell-title")
    assert title.text == "kd, resnet20 > resnet8, seed 3"
    assert page.switch_to.active_element == title
    assert page.title.startswith("kd, resnet20 > resnet8, seed 3 · kdbench report")
    assert not find(page, "#report").is_displayed()
    shown = find(page, "#cell").text
    for text in ("top-1 after the last epoch, %", "71.8", "Environment", "learning_rate", HOSTILE):
        assert text in shown
    assert not every(page, "#cell img")
    assert len(every(page, "#cell svg polyline")) == 2
    page.back()
    wait(lambda: find(page, "#report").is_displayed())
    assert not find(page, "#cell").is_displayed()
    assert page.switch_to.active_element == link
    assert abs(page.execute_script("return window.scrollY") - before) < 50
    page.forward()
    wait(lambda: every(page, "#cell-title"))
    press(page, Keys.ESCAPE)
    wait(lambda: find(page, "#report").is_displayed())
    link.click()
    find(page, "#cell a.back").click()
    wait(lambda: find(page, "#report").is_displayed())
    assert page.title.startswith("kdbench report")


def test_a_cell_opens_by_its_address(page: Chrome, address: str) -> None:
    target = find(page, '[aria-label="crd, resnet56 > resnet20, seed 1"]').get_attribute("href")
    page.get("about:blank")
    page.get(target)
    assert find(page, "#cell-title").text == "crd, resnet56 > resnet20, seed 1"
    page.get(f"{address}#cell/0123abcd")
    wait(lambda: find(page, "#cell-title").text == "Cell 0123abcd is not in this report")
    page.get(f"{address}#cell/constructor")
    wait(lambda: find(page, "#report").is_displayed())


def test_the_other_seeds_are_listed_on_request(page: Chrome) -> None:
    button = find(page, ".more button")
    assert button.text == "and 2 more"
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    link = page.switch_to.active_element
    assert link.text == str(CELLS_LISTED + 1)
    link.click()
    assert find(page, "#cell-title").text.endswith(f"seed {CELLS_LISTED + 1}")
    assert "No curve was read for this cell." in find(page, "#cell").text


def test_nothing_is_wider_than_a_phone(page: Chrome) -> None:
    size(page, PHONE)
    width = "return document.documentElement.scrollWidth"
    assert page.execute_script(width) == PHONE
    page.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.execute_script(width) == PHONE
    region = find(page, ".scroll:has(#c1-leaderboard-table)")
    page.execute_script("arguments[0].scrollLeft = 200", region)
    name = find(page, "#c1-leaderboard-table tbody th")
    assert name.rect["x"] == pytest.approx(region.rect["x"], abs=1)  # the method stays in sight
    page.execute_script("document.querySelector('#c1-cells-table a').click()")
    wait(lambda: find(page, "#cell").is_displayed())
    assert page.execute_script(width) == PHONE


CONTRAST = """
const parts = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
const light = (colour) => {
  const [r, g, b] = parts(colour).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
return Math.min(...[...document.querySelectorAll("#report *, nav *, header *, footer *")]
  .filter((one) => one instanceof HTMLElement || one.tagName === "text")
  .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((one) => one instanceof SVGElement ? getComputedStyle(one).fill : getComputedStyle(one).color)
  .map((colour) => light(colour)).map((own) => (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05)));
"""


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_can_be_read_in_both_themes(page: Chrome, name: str) -> None:
    theme(page, name)
    red = page.execute_script("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
    assert (int(red) > 200) == (name == "light")
    assert page.execute_script(CONTRAST) >= 4.5


def test_each_control_and_picture_has_a_name(page: Chrome) -> None:
    page.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for selector in ("button", "a", "input", "svg", "[role=region]"):
        for one in every(page, f"#report {selector}"):
            assert one.accessible_name, one.get_attribute("outerHTML")


def test_without_scripts_tables_and_plots_are_there(page: Chrome, address: str) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get("about:blank")
        page.get(address)
        assert "Opening a cell needs JavaScript" in find(page, "noscript").text
        assert methods(page) == ["reviewkd", "crd", "kd", "ce"]
        assert not find(page, ".controls").is_displayed()
        assert all(one.is_displayed() for one in every(page, "svg.plot"))
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
