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


@pytest.fixture
def told(tab: Page) -> Iterator[Told]:
    """A page, loaded anew, that hears what a test tells it; nothing may go wrong in it."""
    wrong: list[str] = []

    def hear(said: object) -> None:
        wrong.append(str(said))

    tab.unroute_all()
    tab.route(f"{HERE}/**", serve)
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.emulate_media(color_scheme="light")
    tab.on("console", hear)
    tab.on("pageerror", hear)
    tab.goto(HERE + "/")
    tab.wait_for_function("EventSource.open !== null")
    yield Told(tab)
    tab.remove_listener("console", hear)
    tab.remove_listener("pageerror", hear)
    assert wrong == []
