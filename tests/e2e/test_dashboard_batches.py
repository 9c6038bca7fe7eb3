"""Batches on the dashboard: there while any has not ended, with what is planned of each."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.told import Frame, Told


def row(name: str, **changed: object) -> Frame:
    told: Frame = {
        "id": name, "tenant": "", "status": "in_progress", "total": 2000, "done": 1500,
        "failed": 3, "running": 40, "waiting": 457, "expires_at": 1.8e9, "paused": None,
    }  # fmt: skip
    return told | changed


def test_batches_are_shown_until_they_have_ended(told: Told) -> None:
    page = told.page
    told.fleet("agent-0")
    told.lists()
    expect(page.locator(".batches")).to_be_hidden()
    planned = {"planned_finish_at": 1.79e9, "lower_bound_at": 1.789e9, "gap_ratio": 0.031}
    told.lists(batches=[row("batch_1", **planned), row("batch_2", paused="no room", tenant="<b>")])
    rows = page.locator("#batches tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("1,503 of 2,000, 3 failed")
    expect(rows.nth(0)).to_contain_text("3.1 %")
    expect(rows.nth(0)).to_contain_text("in progress")
    expect(rows.nth(1)).to_contain_text("paused")
    expect(rows.nth(1)).to_contain_text("<b>")
    bar = rows.nth(0).get_by_role("progressbar", name="1,503 of 2,000 lines of batch_1")
    assert bar.evaluate("bar => bar.position") == 1503 / 2000
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    told.lists()
    expect(page.locator(".batches")).to_be_hidden()
