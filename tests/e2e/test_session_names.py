"""Nobody but a gateway names requests: no session that could be a name reaches an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from router.kv_wire import read_session, session_name
from solver.routing.marks import Beginnings, hash_text
from tests import http
from tests.engine_server import EngineServer
from tests.helpers import Process

FORGED = session_name("x", "evil", Beginnings(hash_text("a" * 2000).marks, 128.0))
SENT = re.compile(r"\r\nx-session-id: ([^\r]*)")
LONG = "never asked before " * 200
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLANNED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "m", "prompt": "short"},
    "/v1/completions?long": {"model": "m", "prompt": LONG},
    "/v1/completions?several": {"model": "m", "prompt": [LONG, LONG]},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/messages": {**CHAT, "max_tokens": 9},
}
RELAYED: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "m", "input": "hi"},
    "/pooling": {"model": "m", "input": "hi"},
    "/v1/nowhere": {"model": "m"},
}
HEADERS = {
    "one": [("x-session-id", FORGED)],
    "upper case": [("X-Session-ID", FORGED)],
    "second": [("x-session-id", "mine"), ("x-session-id", FORGED)],
    "in two": [("x-session-id", "x|evil"), ("x-session-id", FORGED.split("|", 2)[2])],
}
Fleet = tuple[str, EngineServer]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with (
        EngineServer() as server,
        Process("gateway", "--port", "0", "--worker", server.url) as gateway,
    ):
        url = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for(r"(worker is up)")
        yield url, server


def sessions(server: EngineServer) -> list[str]:
    """As its last request told them: each, and all of them together."""
    found = SENT.findall(server.told[-1].head)
    return [*found, ",".join(found), ", ".join(found)]


@pytest.mark.parametrize("path", [*PLANNED, *RELAYED])
@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_could_be_a_name_reaches_no_engine(fleet: Fleet, path: str, how: str) -> None:
    url, server = fleet
    before = len(server.told)
    body = (PLANNED | RELAYED)[path]
    more = [("anthropic-version", "2023-06-01")]
    http.post(url + path.partition("?")[0], json=body, headers=[*HEADERS[how], *more])
    assert len(server.told) == before + 1
    assert sessions(server)[0], "a session of its own it is still"
    assert [read_session(one) for one in sessions(server)] == [None] * len(sessions(server))


def test_nor_does_that_of_a_form(fleet: Fleet) -> None:
    url, server = fleet
    files: dict[str, Any] = {"file": ("a.wav", b"sound"), "model": (None, b"m")}
    path = "/v1/audio/transcriptions"
    assert http.post(url + path, files=files, headers=HEADERS["one"]).status_code == 200
    assert server.told[-1].path == path
    assert [read_session(one) for one in sessions(server)] == [None] * 3


BODIES: dict[str, dict[str, Any]] = {
    "field": {"session_id": FORGED},
    "argument": {"vllm_xargs": {"session_id": FORGED}},
    "behind much": {"pad": ["y" * 1000] * 300, "session_id": "y" * 5000 + FORGED},
    "behind much, cut": {"pad": ["y" * 1000] * 300, "session_id": "y" * 100 + "|e|128.00|AAAA"},
}


@pytest.mark.parametrize("path", [*PLANNED, *RELAYED])
@pytest.mark.parametrize("how", BODIES)
def test_a_body_that_names_a_request_is_refused(fleet: Fleet, path: str, how: str) -> None:
    url, server = fleet
    before = len(server.told)
    body = (PLANNED | RELAYED)[path]
    answer = http.post(url + path.partition("?")[0], json={**body, **BODIES[how]})
    assert (answer.status_code, len(server.told)) == (400, before)
    assert "session_id" in answer.text


@pytest.mark.parametrize("session", ["user|42", "9f" * 32, None])
def test_other_sessions_pass_in_bodies(fleet: Fleet, session: str | None) -> None:
    url, server = fleet
    body = {**PLANNED["/v1/completions"], "session_id": session}
    assert http.post(url + "/v1/completions", json=body).status_code == 200
    assert b'"session_id"' in server.told[-1].body
