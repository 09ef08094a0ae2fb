"""The dashboard in a real browser against a real service: what a policy analyst sees and does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.service_process import RunningService, add_champion, prepare_home, running_service

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 30
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1380,1500",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    home = tmp_path_factory.mktemp("home")
    prepare_home(home)
    add_champion(home)
    with running_service(home) as made:
        yield made


@pytest.fixture(scope="module")
def driver(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, service: RunningService) -> Iterator[webdriver.Chrome]:
    """Return the freshly loaded page; whatever the console complains about fails the test."""
    driver.get(service.url)
    until(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, "#charts svg")) == 3)
    yield driver
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def until(driver: webdriver.Chrome, condition: Callable[[], object]) -> None:
    """Wait until a condition holds; what is being redrawn meanwhile is looked at again."""
    waiting = WebDriverWait(driver, PATIENCE_SECONDS, ignored_exceptions=[StaleElementReferenceException])
    waiting.until(lambda _: condition())


def text(driver: webdriver.Chrome, selector: str) -> str:
    return driver.find_element(By.CSS_SELECTOR, selector).text


def effects(driver: webdriver.Chrome) -> list[str]:
    return [card.text for card in driver.find_elements(By.CSS_SELECTOR, "#effects .card .big")]


def test_the_banner_says_who_answered_and_why_it_is_degraded(browser: webdriver.Chrome) -> None:
    banner = text(browser, "#banner")
    assert "World model, version 1" in banner
    assert "degraded" in banner
    assert "registry" in banner


def test_a_city_says_that_it_is_simulated_and_how_far_its_data_reach(browser: webdriver.Chrome) -> None:
    note = text(browser, "#city-note")
    assert "generated, not observed" in note
    assert "2026" in note


def test_three_charts_show_baseline_and_policy_with_their_bands(browser: webdriver.Chrome) -> None:
    for figure in browser.find_elements(By.CSS_SELECTOR, "#charts figure"):
        for mark in (".line.baseline", ".line.scenario", ".baseline-band", ".scenario-band"):
            (drawn,) = figure.find_elements(By.CSS_SELECTOR, f"svg {mark}")
            points = drawn.get_attribute("points") or ""
            assert len(points.split()) in (48, 96)
            assert "NaN" not in points


def test_moving_a_slider_by_keyboard_changes_the_effect(browser: webdriver.Chrome) -> None:
    before = effects(browser)
    slider = browser.find_element(By.ID, "car-free")
    slider.send_keys(Keys.END)
    assert text(browser, "#car-free-value") == "100 %"
    until(browser, lambda: effects(browser) != before)
    assert effects(browser)[2].startswith("−")


def test_the_status_quo_button_leaves_no_effect(browser: webdriver.Chrome) -> None:
    browser.find_element(By.ID, "reset").send_keys(Keys.ENTER)
    until(browser, lambda: effects(browser) == ["±0.0 %"] * 3)


def test_single_hours_are_read_with_the_arrow_keys(browser: webdriver.Chrome) -> None:
    browser.find_element(By.CSS_SELECTOR, "#charts svg").send_keys(Keys.ARROW_RIGHT)
    assert re.search(r"PM2.5: baseline [\d.,]+ \([\d.,]+ to [\d.,]+\), policy", text(browser, "#readout"))


def test_assumptions_are_named_with_their_sources(browser: webdriver.Chrome) -> None:
    browser.find_element(By.CSS_SELECTOR, "#assumed summary").click()
    table = text(browser, "#assumption-table")
    assert "cars kept off the road" in table
    assert len(table.splitlines()) > 4


def test_the_latent_states_are_drawn_on_request(browser: webdriver.Chrome) -> None:
    browser.find_element(By.CSS_SELECTOR, "#latents summary").click()
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#latent-chart circle")) == 168)


def test_a_longer_horizon_draws_more_hours(browser: webdriver.Chrome) -> None:
    Select(browser.find_element(By.ID, "horizon")).select_by_value("168")
    line = "#charts svg .line.scenario"
    until(
        browser,
        lambda: (
            len((browser.find_element(By.CSS_SELECTOR, line).get_attribute("points") or "").split()) == 168
        ),
    )


def test_nothing_is_loaded_from_another_host(browser: webdriver.Chrome, service: RunningService) -> None:
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded
    assert all(name.startswith((service.url, "data:")) for name in loaded)
