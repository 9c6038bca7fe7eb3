"""The dashboard in a browser: it moves under load, tells the truth, and can be used by keyboard.

One gateway, two agents and one page for all tests, in the order in which they are here: the last
stops what the others need.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import http
from tests.e2e.load import Ask, sending
from tests.helpers import Process, scrape
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = PATIENCE_S * 1000
TENANTS = ("chat", "search")
# Of a lane: a number that changes with its pixels, and whether slots decode and prefill.
PIXELS = """() => {
    const shown = document.querySelector("[data-worker=agent-0] canvas");
    const { width, height } = shown;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const paint = copy.getContext("2d", { willReadFrequently: true });
    paint.drawImage(shown, 0, 0);
    const { data } = paint.getImageData(0, 0, width, height);
    let sum = 0, decode = false, prefill = false;
    for (const pixel of new Uint32Array(data.buffer)) {
        sum = (sum * 31 + pixel) | 0;
        decode ||= pixel === 0xffb26f1f;
        prefill ||= pixel === 0xff0055d4;
    }
    return { sum, both: decode && prefill };
}"""
FEW, MANY = 20, 48


@dataclass
class Cast:
    """A gateway and its two agents, each of which a test may stop and start again."""

    stack: ExitStack
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_ports(3)))
    running: dict[str, Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def agents(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports[1:]]

    def start(self, name: str) -> None:
        """The gateway, or an agent."""
        arguments = ["gateway", "--port", str(self.ports[0]), "--worker", ",".join(self.agents)]
        if name != "gateway":
            port = self.ports[1 + int(name[-1])]
            arguments = ["agent", "--port", str(port), "--name", name, "--drain-s", "0.1"]
            arguments += ["--slots", "8", "--speed", "4"]
        self.running[name] = self.stack.enter_context(Process(*arguments))
        self.running[name].wait_for("(listening)")

    def stop(self, name: str) -> int:
        return self.running.pop(name).stop()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Cast]:
    with ExitStack() as stack:
        cast = Cast(stack)
        cast.start("gateway")
        yield cast


@dataclass
class Watched:
    """A page, what its console said, and where its requests went."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def figure(self, name: str, within: str = "#tiles") -> float:
        """A figure as it stands on the page; a share where it is in percent."""
        words = self.page.locator(f'{within} [data-figure="{name}"]').inner_text()
        number = float(re.sub(r"[^\d.]", "", words.split("/")[0]))
        return number / 100 if "%" in words else number

    def comes_to(self, share: float, name: str) -> None:
        """A share on the page is soon this one, rounded to a tenth of a percent."""
        eventually(lambda: abs(self.figure(name) - share) <= 0.0005001)

    def tells_useful(self, url: str, row: str) -> bool:
        """A worker's useful share is as its agent says now, rounded to a tenth of a percent."""
        share = scrape(url).values["makespan_useful_ratio{}"]
        return abs(self.since_start(row)[1] - share) <= 0.0005001

    def since_start(self, row: str) -> tuple[float, float]:
        """A worker's utilization and its useful share, since its agent's start."""
        cell = self.page.locator(f'{row} [data-figure="utilization"]')
        told = re.findall(r"([\d.]+) %", str(cell.get_attribute("title")))
        return float(told[0]) / 100, float(told[1]) / 100


@pytest.fixture(scope="module")
def page_of(browser: Browser, fleet: Cast) -> Iterator[Watched]:
    """It was opened before any agent was there."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    seen = Watched(context.new_page())
    seen.page.goto(fleet.url + "/")
    yield seen
    context.close()


@pytest.fixture
def watched(page_of: Watched, fleet: Cast) -> Iterator[Watched]:
    yield page_of
    assert page_of.said == []
    elsewhere = {
        url for url in page_of.asked if urlsplit(url).netloc != urlsplit(fleet.url).netloc
    } - {url for url in page_of.asked if url.startswith("data:")}
    assert not elsewhere


def asks(name: str, count: int) -> list[Ask]:
    body = {"model": "llama-65b", "prompt": "word " * 50, "max_tokens": 64, "stream": True}
    return [
        Ask(f"{name}-{k}", body, {"x-makespan-tenant": TENANTS[k % len(TENANTS)]})
        for k in range(count)
    ]


@contextmanager
def busy(fleet: Cast) -> Iterator[list[Ask]]:
    """So many at once, and again until the end of the block; in the end, all who asked."""
    asked: list[Ask] = []
    enough = threading.Event()

    def go_on() -> None:
        while not enough.is_set():
            asked.extend(asks(f"moving-{len(asked)}", MANY))
            with sending(fleet.url, asked[-MANY:]):
                pass

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(go_on)
        try:
            yield asked
        finally:
            enough.set()
            running.result()


def settled(watched: Watched, completed: int) -> None:
    """Wait until the page has seen the end of so many requests."""
    total = watched.page.locator('#tiles [data-figure="completed"]')
    expect(total).to_have_text(f"{completed:,}")
    expect(watched.page.locator('#tiles [data-figure="running"]')).to_have_text("0")


def test_it_says_that_no_worker_is_up_and_sees_them_come(fleet: Cast, watched: Watched) -> None:
    alarm, status = watched.page.get_by_role("alert"), watched.page.locator("#status")
    expect(alarm).to_contain_text(f"Expected: {', '.join(fleet.agents)}")
    expect(status).to_have_text("live, 0 of 2 workers up")
    reasons = watched.page.locator("#fleet .reason")  # they are named by where they are to be
    expect(reasons).to_contain_text(["down: ", "down: "])
    for name in ("agent-0", "agent-1"):
        fleet.start(name)
    expect(status).to_have_text("live, 2 of 2 workers up")
    expect(alarm).to_be_hidden()
    expect(reasons.first).to_be_hidden()


def test_bars_move_under_load_and_figures_are_those_of_the_metrics(
    fleet: Cast, watched: Watched
) -> None:
    page = watched.page
    changed = f"(before) => ({PIXELS})().sum !== before"
    still = page.evaluate(PIXELS)["sum"]
    with busy(fleet) as asked:
        page.wait_for_function(changed, arg=still, polling=250)
        page.wait_for_function(changed, arg=page.evaluate(PIXELS)["sum"], polling=250)
        expect(page.locator("[data-worker=agent-0] [data-figure=running]")).to_have_text("8 / 8")
        page.wait_for_function(f"() => ({PIXELS})().both", polling=250)
    many = len(asked)
    settled(watched, many)
    gateway = scrape(fleet.url)
    names = {"makespan": "makespan", "bound": "lower_bound"}
    for shown, metric in names.items():
        value = gateway.values[f"makespan_plan_{metric}_seconds{{}}"]
        assert watched.figure(shown) == pytest.approx(value, abs=0.005 * max(1, value))
    gap = gateway.values["makespan_plan_gap_ratio{}"]
    watched.comes_to(gap, "gap")
    assert watched.figure("completed") == gateway.total("makespan_requests_total")
    assert page.locator('[data-outcome="completed"]').inner_text().replace(",", "") == str(many)
    assert watched.figure("utilization") > 0
    for k, url in enumerate(fleet.agents):
        row = f"[data-worker=agent-{k}]"
        eventually(partial(watched.tells_useful, url, row))
        utilization = scrape(url).values["makespan_utilization_ratio{}"]  # falls while it is idle
        assert watched.since_start(row)[0] == pytest.approx(utilization, rel=0.25)
        backlog = gateway.values[f'makespan_worker_backlog_seconds{{worker="agent-{k}"}}']
        assert watched.figure("backlog", row) == backlog == 0
    for name in ("#rate", "#tokens", "#ttft", "#e2e"):
        expect(page.locator(name)).to_have_attribute("aria-label", re.compile(r"[1-9]"))
    for tenant in TENANTS:
        line = page.locator("#tenants tr", has=page.get_by_role("rowheader", name=tenant))
        expect(line.locator("td").nth(1)).to_have_text(str(many // len(TENANTS)))
        share = page.locator(f'#tenant-shares [data-tenant="{tenant}"]')
        expect(share).to_have_text(re.compile(r"[45]\d\.\d %"))  # as many alike of each


def test_an_explanation_opens_by_click_and_by_keyboard(fleet: Cast, watched: Watched) -> None:
    page = watched.page
    before = int(watched.figure("completed"))
    with sending(fleet.url, asks("why", FEW)):
        pass
    settled(watched, before + FEW)
    dialog, shown = page.get_by_role("dialog"), page.locator('#requests [data-request^="why-"]')
    name = str(shown.first.get_attribute("data-request"))
    page.locator(f'#requests [data-request="{name}"]').click()
    told = http.get(f"{fleet.url}/makespan/v1/requests/{name}").json()
    expect(dialog.get_by_role("heading")).to_have_text(f"Request {name}")
    expect(dialog.locator("tr.chosen th")).to_have_text(f"{told['worker']} (chosen)")
    expect(dialog).to_contain_text(f"Window {told['choice']['plan']:,} planned it")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.locator("#find input").focus()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("heading")).to_have_text(f"Request {name}")
    page.keyboard.press("Escape")
    expect(page.locator("#find input")).to_be_focused()

    for _ in range(10):  # over the workers to the first request
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.request") is not None:
            break
    chosen = page.evaluate("document.activeElement.dataset.request")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("heading")).to_have_text(f"Request {chosen}")
    page.keyboard.press("Escape")
    focused = page.evaluate("document.activeElement.dataset.request")
    assert focused == chosen


def test_a_row_opens_and_closes_and_a_pause_holds_everything(fleet: Cast, watched: Watched) -> None:
    page = watched.page
    row = page.get_by_role("button", name="agent-1")
    expect(row).to_have_attribute("aria-expanded", "true")  # so few workers show all by themselves
    row.press("Enter")
    expect(row).to_have_attribute("aria-expanded", "false")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#status")).to_have_text("paused, 2 of 2 workers up")
    before = int(watched.figure("completed"))
    with sending(fleet.url, asks("paused", FEW)):
        pass
    with page.expect_response(re.compile("/makespan/v1/requests/paused-0")):
        page.locator("#find input").fill("paused-0")
        page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert int(watched.figure("completed")) == before
    page.get_by_role("button", name="Go on").click()
    settled(watched, before + FEW)


@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_nothing_is_drawn_beyond_a_screen(watched: Watched, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_is_dark(watched: Watched) -> None:
    watched.page.emulate_media(color_scheme="dark")
    surface = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert surface == "rgb(13, 17, 23)"


def test_who_goes_is_shown_with_the_reason_and_drawn_again_when_it_is_back(
    fleet: Cast, page_of: Watched
) -> None:
    page = page_of.page
    status, row = page.locator("#status"), page.locator("[data-worker=agent-1]")
    if row.get_by_role("button").get_attribute("aria-expanded") == "false":
        row.get_by_role("button").click()
    fleet.stop("agent-1")
    expect(status).to_have_text("live, 1 of 2 workers up")
    expect(row.locator(".reason")).to_contain_text(re.compile("^down: .{8}"))
    expect(row.locator("[data-figure=running]")).to_have_text("down")
    fleet.start("agent-1")
    expect(status).to_have_text("live, 2 of 2 workers up")
    expect(row.locator(".reason")).to_be_hidden()
    expect(row.locator("canvas")).to_have_attribute(
        "aria-label", "Slots of agent-1 now: 100.0 % empty"
    )
    assert fleet.stop("gateway") == 0  # an open page does not hold it up
    expect(page.get_by_role("alert")).to_contain_text("The gateway has not answered since")
    expect(status).to_have_text("not connected")
    fleet.start("gateway")
    expect(status).to_have_text("live, 2 of 2 workers up")
