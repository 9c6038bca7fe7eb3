"""Targets from the client to the engine, and what became of them, with real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.test_gateway import MODEL, TEXT
from tests.e2e.test_sidecar import PLAIN, Plain, sidecar, url_of
from tests.helpers import Fleet, Process, scrape
from tests.http import post, stream
from tests.waiting import eventually

TTFT, TPOT = "x-makespan-ttft-ms", "x-makespan-tpot-ms"
# No engine makes a token in a microsecond, and none takes a week for one.
NEVER, ALWAYS = "0.001", "604800000"
EASY = {TTFT: ALWAYS, TPOT: ALWAYS}
KEPT = {"ttft": True, "tpot": True, "both": True}


@pytest.fixture(scope="module")
def queueing() -> Iterator[Fleet]:
    with Fleet("--targets-default", "ttft=1h,tpot=1h", "--agents", "1") as running:
        yield running


@pytest.fixture(scope="module")
def shedding() -> Iterator[Fleet]:
    with Fleet("--admission", "shed", "--agents", "1", "--slots", "1", "--speed", "1") as running:
        yield running


@pytest.fixture
def plain() -> Iterator[Plain]:
    server = Plain()
    yield server
    server.kill()


def ask(url: str, headers: Mapping[str, str], **body: object) -> httpx.Response:
    content = json.dumps({**TEXT, **body}).encode()
    return post(url + "/v1/completions", content=content, headers=dict(headers))


def counted(fleet: Fleet) -> dict[tuple[str, bool], float]:
    """Requests by target, and whether it was met."""
    values = scrape(fleet.url).values
    return {
        (target, met): values[
            f'makespan_slo_requests_total{{met="{str(met).lower()}",target="{target}"}}'
        ]
        for target, met in product(("ttft", "tpot", "both"), (True, False))
    }


@pytest.mark.parametrize(
    ("headers", "stream", "kept"),
    [
        ({}, True, KEPT),
        (EASY, True, KEPT),
        ({**EASY, "x-slo-tpot-ms": NEVER}, True, KEPT),
        ({**EASY, TTFT: NEVER}, True, {"ttft": False, "tpot": True, "both": False}),
        ({"x-slo-tpot-ms": NEVER}, True, {"ttft": True, "tpot": False, "both": False}),
        (EASY, False, {"both": True}),
        ({TTFT: NEVER, TPOT: NEVER}, False, {"both": False}),
        ({"x-makespan-priority": "bulk"}, True, {}),
        ({"x-makespan-priority": "bulk", TPOT: NEVER}, True, {"tpot": False, "both": False}),
    ],
)
def test_who_keeps_targets_is_counted_and_explained(
    queueing: Fleet, headers: dict[str, str], stream: bool, kept: dict[str, bool]
) -> None:
    before = counted(queueing)
    answer = ask(queueing.url, {**headers, "x-request-id": "one"}, stream=stream)
    assert answer.status_code == 200
    eventually(lambda: explained(queueing, "one")["outcome"] == "completed")
    found = {key: count - before[key] for key, count in counted(queueing).items()}
    assert {target: met for (target, met), count in found.items() if count == 1} == kept
    assert sum(found.values()) == len(kept)
    told = explained(queueing, "one")["slo"]
    assert {name: row["met"] for name, row in told.items() if row["met"] is not None} == kept
    assert (told["ttft"]["actual_s"] is not None) == stream


def explained(fleet: Fleet, name: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.get(f"/makespan/v1/requests/{name}").json()
    return found


@pytest.mark.parametrize("name", [TTFT, TPOT, "x-slo-ttft-ms", "x-slo-tpot-ms"])
def test_bad_targets_are_refused_by_name(queueing: Fleet, name: str) -> None:
    before = counted(queueing)
    for url in (queueing.url, *queueing.agents):
        answer = ask(url, {name: "0"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
    assert counted(queueing) == before, "nobody could have served it"


def test_a_server_is_told_what_is_left_of_the_targets(plain: Plain) -> None:
    with Process("gateway", "--port", "0", "--worker", plain.url) as gateway:
        url = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for(r"worker is (up)")
        told = received(plain, url, {"x-slo-ttft-ms": "5000", "x-slo-tpot-ms": "40.5"})
        assert 0 < float(told[TTFT]) < 5000
        assert told[TPOT] == "40.5"
        assert "x-slo-ttft-ms" not in told, "it is told by one name, as far as it may be"
        told = received(plain, url, {TTFT: NEVER})
        assert (told[TTFT], told[TPOT]) == ("1.0", "100"), "out of reach, and the default"
        told = received(plain, url, {"x-makespan-priority": "bulk"})
        assert not {TTFT, TPOT} & told.keys()


def test_a_sidecar_passes_targets_on(plain: Plain) -> None:
    with sidecar(plain.url) as agent:
        told = received(plain, url_of(agent), {TTFT: "5000", "x-slo-tpot-ms": "40"})
        assert (told[TTFT], told["x-slo-tpot-ms"]) == ("5000", "40")
        assert post(url_of(agent) + "/v1/completions", json=PLAIN, headers={TPOT: "-1"}).json()[
            "error"
        ]["param"] == (TPOT)


def received(plain: Plain, url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with which a request reached the server."""
    answer = post(url + "/v1/completions", json=PLAIN, headers=dict(headers))
    assert answer.status_code == 200
    return {name.lower(): value for name, value in plain.seen()["headers"].items()}


def test_what_no_worker_can_keep_is_refused_as_the_sdk_expects(shedding: Fleet) -> None:
    """It does not try again of itself, though it would after any other 503."""
    before = counted(shedding)
    with (
        OpenAI(base_url=shedding.url + "/v1", api_key="-", max_retries=5) as client,
        pytest.raises(openai.InternalServerError, match="No worker makes a token every") as refused,
    ):
        client.completions.create(
            model=MODEL, prompt="a", max_tokens=9, extra_headers={TPOT: NEVER}
        )
    assert (refused.value.status_code, refused.value.code) == (503, "target_out_of_reach")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    after = counted(shedding)
    for target in ("ttft", "tpot", "both"):
        assert after[target, False] == before[target, False] + 1
        assert after[target, True] == before[target, True]
    answer = ask(shedding.url, {TPOT: NEVER, "x-makespan-priority": "bulk"}, max_tokens=1)
    assert answer.status_code == 200, "a single token has no time between"


def test_while_a_slot_is_surely_held_others_are_told_when_to_come(shedding: Fleet) -> None:
    """One slot, and an answer that must go on: at once, with the time that is left of it."""
    body = {**TEXT, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    url = shedding.url + "/v1/completions"
    with stream("POST", url, json=body) as long:
        lines = long.iter_lines()  # the answer is read as long as they are
        next(lines)
        refused = ask(shedding.url, {})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "target_out_of_reach"
        assert "first token can come within 2000 ms" in refused.json()["error"]["message"]
        assert 20 < int(refused.headers["retry-after"]) < 90
        assert "x-should-retry" not in refused.headers
    assert ask_when_idle(shedding).status_code == 200


def test_who_waits_at_an_agent_in_vain_is_taken_back(shedding: Fleet) -> None:
    """The answer in the way might end with any token, but goes on and on."""
    body = {**TEXT, "max_tokens": 1900, "ignore_eos": True, "stream": True, "stop": "no such word"}
    url = shedding.url + "/v1/completions"
    with stream("POST", url, json=body) as long:
        lines = long.iter_lines()
        next(lines)
        refused = ask(shedding.url, {TTFT: "400", "x-request-id": "vain"}, stream=True)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "target_out_of_reach"
    told = explained(shedding, "vain")
    assert (told["worker"], told["recalled"], told["failed_workers"]) == ("agent-0", 1, [])
    assert (told["outcome"], told["slo"]["both"]["met"]) == ("rejected_no_capacity", False)
    assert ask_when_idle(shedding).status_code == 200


def ask_when_idle(fleet: Fleet) -> httpx.Response:
    eventually(lambda: fleet.get("/makespan/v1/workers").json()["workers"][0]["in_flight"] == 0)
    return ask(fleet.url, {})
