"""What nobody saw is drawn as such, on lanes and charts, and nobody is interrupted without need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.e2e.told import Told, names
from tests.waiting import eventually

PIXELS = """(shown) => {
  const { width, height } = shown;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const paint = copy.getContext("2d", { willReadFrequently: true });
  paint.drawImage(shown, 0, 0);
  return paint;
}"""
# What stands along a lane's top, which half-busy workers leave empty, and for how many seconds.
RUNS = """(name) => {
  const pixels = PIXELS;
  const lane = document.querySelector(`[data-worker=${name}] canvas`);
  const { data } = pixels(lane).getImageData(0, 1, lane.width, 1);
  const runs = [];
  for (let x = 0; x < lane.width; x++) {
    const kind = data[4 * x + 3] ? "missed" : "empty";
    if (runs.at(-1)?.[0] !== kind) runs.push([kind, 0]);
    runs.at(-1)[1] += 6 / lane.width;
  }
  return runs;
}"""
# Whether the backlog's line is anywhere between two moments, in seconds ago.
DRAWN = """([from, to]) => {
  const pixels = PIXELS;
  const chart = document.getElementById("backlog"), axis = 42 * devicePixelRatio;
  const x = (ago) => Math.round(chart.width - (ago / 30) * (chart.width - axis));
  const { data } = pixels(chart).getImageData(x(from), 0, x(to) - x(from), chart.height);
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 99 && data[at] - data[at + 2] > 99) return true;  // orange; axes are grey
  }
  return false;
}"""
EDGE_S = 0.05  # columns are whole pixels
Runs = list[tuple[str, float]]


@pytest.fixture
def brief(fresh: Told) -> Iterator[Told]:
    """A page that shows the last six seconds."""
    fresh.page.get_by_label("6 s", exact=True).check()
    yield fresh
    fresh.page.emulate_media(color_scheme="light")


def runs(told: Told, name: str) -> Runs:
    found = told.page.evaluate(RUNS.replace("PIXELS", PIXELS), name)
    return [(kind, seconds) for kind, seconds in found]


def near(expected: Runs) -> list[tuple[str, object]]:
    return [(kind, pytest.approx(seconds, abs=EDGE_S)) for kind, seconds in expected]


def hear(told: Told, *workers: str, frames: int, down: tuple[str, ...] = ()) -> None:
    told.fleets(*workers, frames=frames, down=down)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_time_before_the_page_and_without_the_gateway_is_hatched(brief: Told, scheme: str) -> None:
    brief.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    fleet = names(9)
    hear(brief, *fleet, frames=5)  # two seconds; what comes last is shown a little later
    assert runs(brief, "agent-03") == near([("missed", 4.6), ("empty", 1.4)])
    brief.at += 2.5
    hear(brief, *fleet, frames=4)
    seen = [("missed", 0.1), ("empty", 2.0), ("missed", 3.0), ("empty", 0.9)]
    assert runs(brief, "agent-03") == near(seen)
    brief.page.set_viewport_size({"width": 1000, "height": 800})  # painted at once, it is the same
    hear(brief, *fleet, frames=1)
    seen = [("empty", 1.6), ("missed", 3.0), ("empty", 1.4)]
    assert runs(brief, "agent-03") == near(seen)


def test_an_outage_stays_hatched_when_the_worker_is_back(brief: Told) -> None:
    fleet = names(9)
    hear(brief, *fleet, frames=5)
    hear(brief, *fleet, frames=3, down=("agent-03",))
    hear(brief, *fleet, frames=3)
    seen = [("missed", 1.6), ("empty", 2.0), ("missed", 2.0), ("empty", 0.4)]
    assert runs(brief, "agent-03") == near(seen)
    assert runs(brief, "agent-04") == near([("missed", 1.6), ("empty", 4.4)])


def test_single_slots_are_hatched_where_nothing_was_heard_of_them(brief: Told) -> None:
    def tick() -> None:
        brief.fleet("a")
        brief.slots("a")

    for _ in range(4):
        tick()
    assert runs(brief, "a") == near([("missed", 4.3), ("empty", 1.7)])
    hear(brief, "a", frames=3, down=("a",))
    for _ in range(4):
        tick()
    seen = [("missed", 0.8), ("empty", 2.3), ("missed", 1.2), ("empty", 1.7)]
    assert runs(brief, "a") == near(seen)


def test_a_row_that_is_opened_keeps_what_was_seen_before(brief: Told) -> None:
    fleet = names(9)
    hear(brief, *fleet, frames=5)
    brief.page.get_by_role("button", name="agent-03").click()
    assert runs(brief, "agent-03") == near([("missed", 4.6), ("empty", 1.4)])
    for _ in range(3):
        brief.fleet(*fleet)
        brief.slots("agent-03")
    assert runs(brief, "agent-03") == near([("missed", 3.1), ("empty", 2.9)])
    brief.page.get_by_role("button", name="agent-03").click()
    assert runs(brief, "agent-03") == near([("missed", 3.1), ("empty", 2.9)])


def test_an_agent_that_has_not_told_yet_does_not_look_like_none(brief: Told) -> None:
    def frame(*unknown: str) -> None:
        worker = brief.worker("a")
        brief.fleet(workers=[{key: worker[key] for key in worker if key not in unknown}])

    unheard = ("seconds", "heard", "single_slots")
    legend = brief.page.get_by_text("in flight, no agent")
    for _ in range(3):
        frame(*unheard)
    assert runs(brief, "a") == near([("missed", 6.0)])
    expect(legend).to_be_hidden()
    for _ in range(3):
        frame(*unheard, "running", "queued", "utilization", "engine", "policy")
    assert runs(brief, "a") == near([("missed", 5.6), ("empty", 0.4)])
    expect(legend).to_be_visible()


def test_the_backlogs_line_breaks_off_while_the_gateway_is_away(brief: Told) -> None:
    hear(brief, "a", frames=12)
    brief.at += 8
    hear(brief, "a", frames=12)
    script = DRAWN.replace("PIXELS", PIXELS)
    drawn = [brief.page.evaluate(script, ago) for ago in ((18, 15), (13, 6), (4, 1))]
    assert drawn == [True, False, True]


def test_to_open_a_row_interrupts_nobody(fresh: Told) -> None:
    fleet = names(9)
    fresh.fleet(*fleet)
    fresh.page.get_by_role("button", name="agent-03").click()
    urls = "[...EventSource.all].map((one) => one.url.split('?')[1])"
    assert fresh.page.evaluate(urls) == ["", "slots=agent-03"]
    fresh.fleet(*fleet)  # by the new one
    assert fresh.page.evaluate(urls) == ["slots=agent-03"]
    fresh.page.get_by_role("button", name="agent-03").click()
    fresh.page.evaluate("EventSource.open.onerror()")  # as when too many look
    expect(fresh.page.locator("#status")).to_have_text("live, 9 of 9 workers up")
    assert fresh.page.evaluate(urls) == ["slots=agent-03"]
    eventually(lambda: fresh.page.evaluate(urls) == ["slots=agent-03", ""])  # it is tried again
    fresh.fleet(*fleet)
    assert fresh.page.evaluate(urls) == [""]
