"""The explorer in a real browser: pictures arrive, links work, nothing fails on the way."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neurolab.atlas import Atlas
from neurolab.explorer.launch import streamlit_command
from tests.explorer.sample_atlas import SITES

pytestmark = pytest.mark.slow  # a server and a browser are started

SECONDS = 120
SITE = SITES[0].short
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,1000",
)  # fmt: skip


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The condition's first true value; fails after SECONDS."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {SECONDS} s for {what}")


@pytest.fixture(scope="module")
def server(small_atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the explorer, started as `neurolab explore` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = streamlit_command(small_atlas.path, port, headless=True)
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    address = f"http://localhost:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_for(answers, "the server")
        yield address
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium with a new profile; skipped where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: no browser to test in")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    session.set_page_load_timeout(SECONDS)
    yield session
    session.quit()


def count(browser: Any, selector: str) -> int:
    return int(browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector))


def settle(browser: Any, selector: str) -> None:
    """Wait for what the selector finds and for all pictures; nothing may have failed."""
    wait_for(lambda: count(browser, selector), selector)
    whole = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    wait_for(lambda: browser.execute_script(whole), "every picture")
    assert count(browser, '[data-testid="stException"]') == 0


def test_from_the_grid_to_a_unit_and_back(browser: Any, server: str) -> None:
    browser.get(f"{server}/?page=units&site={SITE}&sort=number")
    settle(browser, ".nl-card")
    assert count(browser, ".nl-card") == 24
    assert count(browser, ".nl-card img") == 24 * 7
    browser.execute_script("window.notLoadedAgain = true; document.querySelectorAll('a.nl-card')[3].click()")
    settle(browser, ".nl-hist")
    assert "page=unit" in browser.current_url and "unit=3" in browser.current_url
    assert "Unit 3" in browser.execute_script("return document.querySelector('h1').textContent")
    assert count(browser, ".nl-tile img") == 24
    assert browser.execute_script("return window.notLoadedAgain") is True
    browser.back()
    settle(browser, ".nl-pages")
    assert count(browser, ".nl-hist") == 0


def test_a_link_to_a_unit_works_in_a_new_tab(browser: Any, server: str) -> None:
    browser.get(f"{server}/?page=unit&site={SITE}&unit=6&mark=outline")
    settle(browser, ".nl-hist")
    wide = "return [...document.querySelectorAll('.nl-picture img, .nl-tile img')].map(i => i.naturalWidth)"
    assert min(browser.execute_script(wide)) >= 64
    assert browser.title.startswith("Unit 6")


def test_the_search_field_asks_the_search_page(browser: Any, server: str) -> None:
    browser.get(f"{server}/?page=atlas")
    settle(browser, ".nl-find")
    browser.execute_script(
        "const f = document.querySelector('.nl-find'); f.q.value = 'a & <b>star</b>'; f.requestSubmit()"
    )
    wait_for(lambda: "page=search" in browser.current_url, "the search page")
    settle(browser, '[data-testid="stTextInput"] input')
    value = "return document.querySelector('[data-testid=\"stTextInput\"] input').value"
    wait_for(lambda: browser.execute_script(value) == "a & <b>star</b>", "the question in the field")


def test_hostile_captions_run_nothing(browser: Any, server: str) -> None:
    for page in (f"?page=unit&site={SITE}&unit=6", "?page=image&image=0", "?page=units"):
        browser.get(f"{server}/{page}")
        settle(browser, ".nl-foot")
        assert count(browser, ".stHtml img[src='x']") == 0
        assert browser.execute_script("return document.querySelectorAll('.stHtml [onerror]').length") == 0


def test_streamlits_own_furniture_is_out_of_sight(browser: Any, server: str) -> None:
    browser.get(f"{server}/?page=atlas")
    settle(browser, ".nl-foot")
    visible = """return ['stHeader', 'stToolbar', 'stSidebar', 'stDecoration'].filter(
        name => document.querySelector(`[data-testid="${name}"]`)?.getClientRects().length)"""
    assert browser.execute_script(visible) == []


def test_the_browser_reports_no_error(browser: Any, server: str) -> None:
    browser.get_log("browser")
    browser.get(f"{server}/?page=unit&site={SITE}&unit=9")
    settle(browser, ".nl-hist")
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
