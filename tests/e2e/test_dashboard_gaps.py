"""What nobody saw is drawn as such, on lanes and charts, and nobody is interrupted without need."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.test_gateway import eventually
from tests.e2e.told import Told, names


def test_to_open_a_row_interrupts_nobody(told: Told) -> None:
    fleet = names(9)
    told.fleet(*fleet)
    told.page.get_by_role("button", name="agent-03").click()
    urls = "[...EventSource.all].map((one) => one.url.split('?')[1])"
    assert told.page.evaluate(urls) == ["", "slots=agent-03"]
    told.fleet(*fleet)  # by the new one
    assert told.page.evaluate(urls) == ["slots=agent-03"]
    told.page.get_by_role("button", name="agent-03").click()
    told.page.evaluate("EventSource.open.onerror()")  # as when too many look
    expect(told.page.locator("#status")).to_have_text("live, 9 of 9 workers up")
    assert told.page.evaluate(urls) == ["slots=agent-03"]
    eventually(lambda: told.page.evaluate(urls) == ["slots=agent-03", ""])  # it is tried again
    told.fleet(*fleet)
    assert told.page.evaluate(urls) == [""]
