"""One browser for all tests that look at the dashboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.deploy.support import debian_tool
from tests.e2e.told import HERE, SOURCE, Told, serve
from tests.waiting import PATIENCE_S

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Whatever a test has left open, or has the focus.
CLOSE = """() => {
    document.querySelectorAll("dialog[open]").forEach((one) => one.close());
    document.activeElement.blur();
}"""

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = debian_tool("chromium", "chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """One for all tests: a page in a process of its own costs a second of CPU."""
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(SOURCE)
        yield page


@pytest.fixture(scope="module")
def open_page(tab: Page) -> Told:
    """Loaded once, for all tests that no earlier test can disturb."""
    tab.route(f"{HERE}/**", serve)
    load(tab)
    return Told(tab)


@pytest.fixture
def told(open_page: Told) -> Iterator[Told]:
    """A page that hears what a test tells it; nothing may go wrong in it."""
    page, wrong = open_page.page, list[str]()

    def hear(said: object) -> None:
        wrong.append(str(said))

    page.set_viewport_size({"width": 1280, "height": 800})
    page.on("console", hear)
    page.on("pageerror", hear)
    page.mouse.move(0, 0)  # a list stands still under it
    page.evaluate(CLOSE)
    yield open_page
    page.remove_listener("console", hear)
    page.remove_listener("pageerror", hear)
    assert wrong == []


@pytest.fixture
def fresh(told: Told) -> Told:
    """The same, loaded anew: it remembers nothing."""
    load(told.page)
    return told


def load(page: Page) -> None:
    """And wait until it listens."""
    page.goto(HERE + "/")
    page.wait_for_function("EventSource.open !== null")
