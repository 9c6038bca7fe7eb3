"""The dashboard's page by itself: what it makes of frames that a test gives it."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from router.gateway.dashboard.frames import _request
from router.gateway.explanations.choice import Choice
from router.gateway.explanations.plan_record import Seen
from router.gateway.explanations.request_record import RequestRecord
from solver.batching.targets import Targets
from solver.cost.profiles import PROFILES
from solver.routing.asked import Asked
from solver.routing.columns import numbers, row_of
from solver.routing.formulas import FIRST_TOKEN
from solver.routing.objective import TERMS, Term
from solver.routing.problem import Job, WorkerView
from tests.e2e.told import HERE, Told, names

NONE = "\u2013"


def test_workers_come_and_go_while_somebody_looks(fresh: Told) -> None:
    page = fresh.page
    fresh.fleet("a", "b")
    assert fresh.rows() == fresh.wanted() == ["a", "b"]
    page.get_by_role("button", name="b").focus()
    fresh.fleet("b", "c")
    assert fresh.rows() == fresh.wanted() == ["b", "c"]
    expect(page.get_by_role("button", name="b")).to_be_focused()
    fresh.fleet("a", "b", "c")
    assert fresh.rows() == ["a", "b", "c"]
    expect(page.get_by_role("button", name="b")).to_be_focused()
    expect(page.locator("#status")).to_have_text("live, 3 of 3 workers up")
    fresh.fleet(*names(20))
    assert fresh.rows() == names(20)
    assert fresh.wanted() == []
    fresh.fleet()
    assert fresh.rows() == []
    expect(page.get_by_role("alert")).to_contain_text("None is known")
    fresh.fleet("a")
    assert fresh.rows() == fresh.wanted() == ["a"]
    expect(page.get_by_role("alert")).to_be_hidden()


def test_what_is_opened_by_hand_stays_as_long_as_its_worker(fresh: Told) -> None:
    fresh.fleet(*names(20))
    for name in ("agent-07", "agent-03"):
        fresh.page.get_by_role("button", name=name).click()
    assert fresh.wanted() == ["agent-03", "agent-07"]
    fresh.fleet(*names(20)[5:])
    assert fresh.wanted() == ["agent-07"]
    fresh.fleet(*names(20))
    assert fresh.wanted() == ["agent-07"]


def test_sixty_four_workers_fit_and_are_walked_by_arrows(fresh: Told) -> None:
    page = fresh.page
    fresh.fleet(*names(64))
    page.get_by_role("button", name="Show 44 more workers").click()
    fresh.fleet(*names(64))
    box = page.locator("#fleet").bounding_box()
    assert box is not None
    assert box["height"] < 64 * 16 + 40
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    lane = page.locator("[data-worker=agent-63] canvas")
    expect(lane).to_have_attribute(
        "aria-label", "Slots of agent-63 now: 50.0 % decode, 50.0 % empty"
    )
    assert page.locator("#fleet button[tabindex='0']").count() == 1
    page.get_by_role("button", name="agent-00").focus()
    for key, name in (("ArrowDown", "01"), ("ArrowDown", "02"), ("ArrowUp", "01"), ("End", "63")):
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=f"agent-{name}")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#fleet :focus")).to_have_count(0)
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="agent-63")).to_be_focused()


def test_an_idle_page_says_what_to_do(fresh: Told) -> None:
    first = fresh.page.get_by_label("How to begin")
    fresh.fleet("a")
    expect(first).to_contain_text("No request has come yet. Send one")
    expect(first).to_contain_text(f"curl -s {HERE}/v1/completions")
    expect(first).to_contain_text(r"""'{"model":"it'\''s",""")
    fresh.fleet("a", running=1)
    expect(first).to_be_hidden()
    fresh.fleet("a", outcomes={"completed": 1})
    expect(first).to_be_hidden()
    fresh.at += 14
    fresh.fleet("a", outcomes={"completed": 1})  # it is still to be seen
    expect(first).to_be_hidden()
    fresh.fleet("a", outcomes={"completed": 1})
    expect(first).to_contain_text("Nothing is going on. Send a request")
    fresh.fleet("a", outcomes={"completed": 1}, running=1)
    expect(first).to_be_hidden()


def test_who_is_down_is_told_in_words_and_without_old_figures(told: Told) -> None:
    status = told.page.locator("#status")
    dot = "getComputedStyle(document.querySelector('#status'), '::before').backgroundColor"
    fleet, dots = names(16), set()
    for down in ((), ("agent-03",), fleet):
        told.fleet(*fleet, down=down)
        expect(status).to_have_text(f"live, {16 - len(down)} of 16 workers up")
        dots.add(told.page.evaluate(dot))
        line = told.page.locator("[data-worker=agent-03] td.number")
        figures = ["2 / 4", "0", "0.500 s", "50.0 %"]
        told.fleet(*fleet, down=down)
        expect(line).to_have_text(["down", *3 * [NONE]] if down else figures)
    assert len(dots) == 3
    alarm = expect(told.page.get_by_role("alert"))
    alarm.to_contain_text("Expected: dns://agents:8100, kubernetes://default/vllm:http")


def test_how_well_a_cache_is_known_is_told_where_its_engine_tells(told: Told) -> None:
    told.fleet(
        workers=[
            told.worker("a", cache="exact"),
            told.worker("b", cache="degraded"),
            told.worker("c"),
        ]
    )
    line = told.page.locator("[data-worker=a]")
    expect(line).to_contain_text("emulated, adaptive, cache exact")
    expect(told.page.locator("[data-worker=b]")).to_contain_text("cache degraded")
    expect(told.page.locator("[data-worker=c]")).not_to_contain_text("cache")


def test_what_was_served_is_told_in_figures_and_lines(told: Told) -> None:
    rows = [[told.at - 5 * k, 12.0, 0.5, 2_400.0, 0.25, 1.75, 4.0, 21.0] for k in (2, 1, 0)]
    told.lists(served=rows)
    for name, words in {
        "rate": "completed 12.0, not 0.50", "tokens": "tokens/s 2,400",
        "ttft": "p50 0.250 s, p99 1.75 s", "e2e": "p50 4.00 s, p99 21.0 s",
    }.items():  # fmt: skip
        expect(told.page.locator(f"#{name}")).to_have_attribute("aria-label", words)
        painted = f"""() => document.getElementById("{name}").getContext("2d")
            .getImageData(0, 0, 300, 60).data.some((part) => part > 0)"""
        assert told.page.evaluate(painted)
    told.lists(served=[[told.at, 0.0, 0.0, 0.0, None, None, None, None]])
    expect(told.page.locator("#ttft")).to_have_attribute("aria-label", f"p50 {NONE}, p99 {NONE}")


@pytest.mark.parametrize("width", [390, 1440])
def test_each_line_has_its_mark_beside_its_figure(told: Told, width: int) -> None:
    told.page.set_viewport_size({"width": width, "height": 844})
    rows = [
        [told.at - 5 * k, 12.7, 1.31, 1873.0, 0.816, 10.7, 5.81, 19.6] for k in range(20, 0, -1)
    ]
    told.lists(served=rows)
    expect(told.page.locator(".served .legend").nth(2)).to_contain_text("0.816 s")
    expect(told.page.locator(".served .legend i:visible")).to_have_count(7)
    cut = """() => [...document.querySelectorAll(".served .legend")]
        .filter((one) => one.scrollWidth > one.clientWidth).length"""
    assert told.page.evaluate(cut) == 0


def test_shares_show_where_there_are_several_tenants(told: Told) -> None:
    place = told.page.locator("#tenant-shares")
    rows = [[told.at - 5, 0, 0, 0], [told.at, 0.5, 0.3, 0.2]]
    told.lists(shares={"tenants": ["a", "", "(all others)"], "rows": rows})
    expect(place.locator("canvas")).to_have_attribute(
        "aria-label", "a 50.0 %, (none named) 30.0 %, (all others) 20.0 %"
    )
    told.lists()
    expect(place).to_be_hidden()


def test_who_is_not_well_is_first_with_the_reason_and_then_the_busiest(fresh: Told) -> None:
    def frame() -> None:
        workers = [fresh.worker(name, running=k % 5) for k, name in enumerate(names(64))]
        for k, health, why in ((33, "suspect", "nothing came"), (50, "down", "refused <b>")):
            changed = {"up": False, "health": health, "reason": why}
            workers[k] = fresh.worker(names(64)[k], up=False) | changed
        workers[60]["draining"] = True
        fresh.fleet(workers=workers)

    frame()
    shown = fresh.page.locator("tr[data-worker]:visible")
    expect(shown).to_have_count(20)
    assert fresh.rows()[:4] == ["agent-50", "agent-33", "agent-60", "agent-04"]
    expect(shown.nth(0).locator(".reason")).to_have_text("down: refused <b>")
    expect(shown.nth(1).locator(".reason")).to_have_text("suspect: nothing came")
    shown.nth(1).get_by_role("button").focus()
    for key, place in (("End", 19), ("Home", 0)):  # what is folded is no stop
        fresh.page.keyboard.press(key)
        expect(shown.nth(place).get_by_role("button")).to_be_focused()
    more = fresh.page.locator("#more")
    expect(more).to_contain_text("Show 44 more workers")
    expect(more).to_contain_text("and 0 queued there")
    more.get_by_role("button").click()
    expect(shown).to_have_count(64)
    fresh.page.evaluate("document.activeElement.blur()")
    frame()
    more.get_by_role("button", name="Show fewer").click()
    expect(shown).to_have_count(20)


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(told: Told, width: int) -> None:
    page = told.page
    page.set_viewport_size({"width": width, "height": 844})
    request = {
        "id": "0123456789abcdef" * 2, "tenant": "a tenant with a long name", "worker": "w" * 40,
        "outcome": "completed", "prompt_tokens": 123_456, "expected_tokens": 23_456.7,
        "output_tokens": 65_432, "received_at": told.at - 4321, "ended_at": told.at,
        "rival": "v" * 40, "lead_s": 1.5, "kept": True,
    }  # fmt: skip
    tally = {"in_flight": 1234, "completed": 123_456, "not_completed": 3, "slot_s": 1.0}
    tokens = {"prompt_tokens": 123_456_789, "output_tokens": 23_456_789}
    tenants = [f"tenant-{k}-of-{'many' * 9}" for k in range(10)]
    told.lists(
        requests=[request] * 24,
        tenants=[{"tenant": name, **tally, **tokens} for name in tenants],
        shares={"tenants": tenants[:6], "rows": [[told.at - 5, *[0.1] * 6]]},
        served=[[told.at, 123_456.7, 12_345.6, 12_345_678.9, 123.4, 1234.5, 1234.5, 12345.6]],
    )
    rows = page.locator("tr[data-worker]:visible")
    clipped = """() => [...document.querySelectorAll("#fleet [data-figure], #tiles dd, .reason")]
        .filter((one) => one.offsetParent && one.getBoundingClientRect().right > innerWidth)
        .length"""
    for many in (0, 4, 64):
        fleet = names(many)
        down = fleet[1::7]
        for _ in range(2):
            told.fleet(*fleet, down=down, outcomes={"rejected_no_capacity": 123_456_789})
        expect(rows).to_have_count(min(many, max(len(down), 8 if width < 640 else 20)))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(clipped) == 0


def test_goodput_is_that_of_the_last_minute(fresh: Told) -> None:
    tile = expect(fresh.page.locator('#tiles [data-figure="goodput"]'))
    fresh.fleet("a", targets={"kept": 100, "missed": 100})
    tile.to_have_text(NONE)  # nobody has ended since
    for kept, missed, share in ((103, 101, "75.0 %"), (103, 103, "50.0 %")):
        fresh.fleet("a", targets={"kept": kept, "missed": missed})
        tile.to_have_text(share)
    fresh.at += 58
    fresh.fleet("a", targets={"kept": 104, "missed": 103})
    tile.to_have_text("57.1 %")
    fresh.at += 2
    fresh.fleet("a", targets={"kept": 104, "missed": 103})
    tile.to_have_text("100.0 %")
    fresh.fleet("a", targets={"kept": 0, "missed": 1})  # the gateway was started anew
    tile.to_have_text(NONE)
    fresh.fleet("a", targets={"kept": 1, "missed": 1})
    tile.to_have_text("100.0 %")


def test_who_missed_a_target_is_told_in_words(told: Told) -> None:
    record = RequestRecord("late", "m", stream=True, received_s=told.at, targets=Targets(2.0, 0.1))
    record.outcome, record.first_token_s, record.ended_s = "completed", told.at + 3, told.at + 4
    record.ttft_s, record.tpot_s = 3.0, 0.05
    record.kept = {"ttft": False, "tpot": True, "both": False}
    told.page.route(
        "**/makespan/v1/requests/late", lambda route: route.fulfill(json=record.explain())
    )
    told.fleet("a")
    told.lists(requests=[_request(record)])
    expect(told.page.locator("#requests tbody td").last).to_have_text("completed, late")
    told.page.locator('[data-request="late"]').click()
    facts = expect(told.page.get_by_role("dialog").locator(".facts"))
    facts.to_contain_text("3.00 s (target 2.00 s, missed)")
    facts.to_contain_text("0.050 s (target 0.100 s, kept)")


def test_an_explanations_parts_add_up_to_the_cost_that_decides(told: Told) -> None:
    terms = np.zeros((len(TERMS), 2))
    terms[Term.PREFILL], terms[Term.DECODE] = (0.3, 1.0), (4.0, 3.5)
    terms[Term.OTHERS], terms[Term.LATE] = (0.2, 0.5), (0.0, 0.25)
    view = WorkerView(PROFILES["llama-2-70b-a100-tp4"].cost, 4, 0, 0.0, 0.0, None)
    asked = Asked([row_of(Job(100, 50.0), 0.0)], [numbers(view)] * 2, ([0.0, 0.0], [0.0, 0.0]), 1.0)
    seen = Seen(7, "in_turn", told.at, ("a", "b"), (0,), asked)
    choice = Choice(seen, 0)
    choice.__dict__["terms"] = terms  # as if it had been asked for
    record = RequestRecord("why", "m", stream=False, received_s=told.at, choice=choice)
    record.outcome = "completed"
    told.page.route(
        "**/makespan/v1/requests/why", lambda route: route.fulfill(json=record.explain())
    )
    told.page.locator("#find input").fill("why")
    told.page.keyboard.press("Enter")
    dialog = told.page.get_by_role("dialog")
    expect(dialog.locator("tbody tr")).to_have_count(2)
    heads = dialog.locator("thead th").all_inner_texts()
    for line, others, late, cost, done in (
        (0, "0.200 s", "0 s", "4.50 s", f"{4.0 + 0.3 / (1 + FIRST_TOKEN):.2f} s"),
        (1, "0.500 s", "0.250 s", "5.25 s", f"{3.5 + 1.0 / (1 + FIRST_TOKEN):.2f} s"),
    ):
        cells = dialog.locator("tbody tr").nth(line).locator("th, td").all_inner_texts()
        row = dict(zip(heads, cells, strict=True))
        assert (row["others"], row["late"], row["cost"], row["done in"]) == (
            others,
            late,
            cost,
            done,
        )
        assert dialog.locator("tbody tr").nth(line).locator(".counts").inner_text() == cost
    beyond = """() => {
        const right = (one) => one.getBoundingClientRect().right;
        const words = document.querySelectorAll("dialog[open] :is(p, h2, dt, dd)");
        return [...words].filter((one) => right(one) > right(one.closest("dialog"))).length;
    }"""
    for width in (390, 1440):
        told.page.set_viewport_size({"width": width, "height": 900})
        assert told.page.evaluate(beyond) == 0, "words can be read without scrolling"
    table = dialog.locator(".wide")
    assert table.evaluate("one => one.scrollWidth <= one.clientWidth"), "and on a desk all figures"


def test_long_names_leave_every_outcome_readable(told: Told) -> None:
    request = {
        "id": "0123456789abcdef" * 2, "tenant": "a tenant with a long name", "worker": "w" * 40,
        "outcome": "rejected_no_capacity", "prompt_tokens": 123_456, "expected_tokens": 23_456.7,
        "output_tokens": 65_432, "received_at": told.at - 4321, "ended_at": told.at,
        "rival": "v" * 40, "lead_s": 1.5,
    }  # fmt: skip
    told.fleet("a", outcomes={"rejected_no_capacity": 1})
    told.lists(requests=[request])
    last = told.page.locator("#requests tbody td").last
    expect(last).to_have_text("rejected no capacity")
    assert last.evaluate("(cell) => cell.scrollWidth <= cell.clientWidth")
    box = last.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] < 1280
    assert told.page.evaluate("document.documentElement.scrollWidth") == 1280


def test_a_hidden_page_asks_for_nothing(told: Told) -> None:
    told.fleet("a")
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    told.page.evaluate(hide, True)
    assert told.page.evaluate("EventSource.open") is None
    told.page.evaluate(hide, False)
    told.fleet("a", "b")
    assert told.rows() == ["a", "b"]


def test_the_keys_are_told_and_escape_closes_them(told: Told) -> None:
    page = told.page
    page.get_by_role("button", name="Keys").press("Enter")
    keys = page.locator("#keys")
    expect(keys).to_be_visible()
    expect(keys).to_contain_text("along the workers, requests or windows")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
