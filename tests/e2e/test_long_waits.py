"""Streams that wait, bodies that are compressed, and one line on why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests import http
from tests.e2e.test_other_apis import MESSAGES, RESPONSE, VERSION, Gateway
from tests.engine_server import EngineServer
from tests.router.http.test_encodings import COMPRESS
from tests.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGES,
}
Fleet = tuple[Gateway, EngineServer]


@pytest.fixture(scope="module", params=["hot", "asgi"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Pages of other origins have their answers by another way through the gateway."""
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("m"))
        flags: tuple[str, ...] = ("--sse-keepalive-s", "0.05", "--max-body-bytes", "100000")
        if request.param == "asgi":
            flags = (*flags, "--allowed-origins", "*")
        yield stack.enter_context(Gateway(server, flags=flags)), server


def held(fleet: Fleet, path: str) -> tuple[int, str, str]:
    """Status, request's id and text of a stream that the engine answers once a comment has come."""
    gateway, server = fleet
    server.holds = True
    body = {**PATHS[path], "stream": True}
    with http.stream("POST", gateway.url + path, json=body, headers=VERSION) as answer:
        parts = answer.iter_text()
        text = next(parts)
        server.holds = False
        text += "".join(parts)
        assert answer.headers["content-type"].startswith("text/event-stream")
        return answer.status_code, answer.headers["x-request-id"], text


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_waits_gets_comments(fleet: Fleet, path: str) -> None:
    gateway, _ = fleet
    body = {**PATHS[path], "stream": True}
    whole = gateway.ask(path, body, headers=VERSION).text
    status, _, text = held(fleet, path)
    assert (status, text[:9]) == (200, ": waiting")
    counts = [one.count("\n\n") - one.count(": waiting\n\n") for one in (whole, text)]
    assert counts[0] == counts[1] > 3


@pytest.mark.parametrize(
    ("stream", "headers"),
    [
        (True, {"x-makespan-keepalive-s": "0"}),
        (True, {"x-makespan-keepalive-s": "99"}),
        (False, {}),
    ],
)
def test_who_wants_none_gets_none(fleet: Fleet, stream: bool, headers: dict[str, str]) -> None:
    gateway, server = fleet
    with ThreadPoolExecutor(1) as pool:
        server.holds = True
        body = {**CHAT, "stream": stream}
        asked = pool.submit(gateway.ask, "/v1/chat/completions", body, headers=headers)
        held(fleet, "/v1/messages")  # which waits beside it, and lets both go
        assert ": waiting" not in asked.result().text


@pytest.mark.parametrize("path", PATHS)
def test_errors_after_a_comment_are_events(fleet: Fleet, path: str) -> None:
    gateway, server = fleet
    server.status = 422
    try:
        status, name, text = held(fleet, path)
    finally:
        server.status = 200
    assert (status, text[:9]) == (200, ": waiting")
    last = json.loads(text.rpartition("data: ")[2])
    assert last["error"]["message"] == "as asked"

    def outcome() -> object:
        record = gateway.ask(f"/makespan/v1/requests/{name}", method="GET").json()
        return record["outcome"]

    eventually(lambda: outcome() == "rejected_invalid")


@pytest.mark.parametrize("value", ["soon", "-1", "1e9", ""])
def test_a_wrong_keepalive_is_named(fleet: Fleet, value: str) -> None:
    gateway, _ = fleet
    headers = {"x-makespan-keepalive-s": value}
    answer = gateway.ask("/v1/chat/completions", {**CHAT, "stream": True}, headers=headers)
    assert answer.json()["error"]["param"] == "x-makespan-keepalive-s"


@pytest.mark.parametrize("path", [*PATHS, "/v1/embeddings"])
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_bodies_reach_engines_as_they_were(
    fleet: Fleet, path: str, encoding: str
) -> None:
    gateway, server = fleet
    asked = PATHS.get(path, {"model": "m", "input": "a"})
    body = json.dumps({**asked, "x": "x" * 9000}).encode()
    compress = COMPRESS[encoding]
    headers = {"content-type": "application/json", "content-encoding": encoding, **VERSION}
    answer = http.post(gateway.url + path, content=compress(body), headers=headers)
    assert answer.status_code == 200
    call = server.told[-1]
    assert call.body == body
    assert "content-encoding" not in call.head
    large = compress(body.replace(b"x", b"large" * 20))
    refused = http.post(gateway.url + path, content=large, headers=headers)
    assert refused.status_code == 413
    broken = http.post(gateway.url + path, content=body, headers=headers)
    assert broken.status_code == 400
    other = http.post(
        gateway.url + path, content=body, headers={**headers, "content-encoding": "br"}
    )
    assert other.status_code == 415


def test_one_line_says_why(fleet: Fleet) -> None:
    gateway, _ = fleet
    plain = gateway.ask("/v1/chat/completions", CHAT)
    assert "x-makespan-why" not in plain.headers
    told = gateway.ask("/v1/chat/completions", CHAT, headers={"x-makespan-why": "1"})
    name = told.headers["x-makespan-worker"]
    record = gateway.ask(
        f"/makespan/v1/requests/{told.headers['x-request-id']}", method="GET"
    ).json()
    line = f"{name} in {record['choice']['predicted_s']:.3f} s"
    assert told.headers["x-makespan-why"] == line
