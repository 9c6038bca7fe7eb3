"""What a tenant pays: for what was made, whoever hangs up and whatever an engine says of it."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from router.settings.keys import Key, hash_of
from tests import http
from tests.faulty_server import MODEL, Answer, Call, FaultyServer, chunk, good, never
from tests.helpers import Process
from tests.waiting import eventually

TOKENS = 8
SECRETS = {name: f"mk-{name}-{'x' * 40}" for name in ("ops", "cut", "limited", "wide")}
KEYS = (
    Key(sha256=hash_of(SECRETS["ops"]), tenant="ops", admin=True),
    Key(sha256=hash_of(SECRETS["cut"]), tenant="cut"),
    Key(sha256=hash_of(SECRETS["limited"]), tenant="limited", tokens_per_minute=12),
    Key(sha256=hash_of(SECRETS["wide"]), tenant="wide", tokens_per_minute=1e6),
)
BODY: dict[str, Any] = {"model": MODEL, "prompt": "How many clips?", "max_tokens": TOKENS}
CONTEXT = 4096


async def models(call: Call) -> None:
    row = {"id": MODEL, "object": "model", "max_model_len": CONTEXT}
    body = json.dumps({"object": "list", "data": [row]}).encode()
    await call.answer(200, body, content_type="application/json")


class Gateway(Process):
    """With keys, before a server."""

    def __init__(self, server: FaultyServer, keys: Path) -> None:
        keys.write_text("\n".join(key.to_toml() for key in KEYS))
        super().__init__("gateway", "--port", "0", "--worker", server.url, "--keys", str(keys),
                         "--retries", "0")  # fmt: skip
        self.url = self.wait_for(r"listening url=(\S+)")
        self.wait_for(r"(worker is up)")

    def ask(self, name: str, key: str = "ops", **more: object) -> int:
        headers = {"authorization": f"Bearer {SECRETS[key]}", "x-request-id": name}
        answer = http.post(self.url + "/v1/completions", json={**BODY, **more}, headers=headers)
        return answer.status_code

    def why(self, name: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {SECRETS['ops']}"}
        found = http.get(f"{self.url}/makespan/v1/requests/{name}", headers=headers)
        told: dict[str, Any] = found.json() if found.status_code == 200 else {}
        return told

    def cut(self, name: str, key: str, server: FaultyServer, after_s: float) -> None:
        """Ask, and leave so long after the server has been asked."""
        calls, body = server.calls, json.dumps(BODY).encode()
        parts = urlsplit(self.url)
        lines = (
            "POST /v1/completions HTTP/1.1", "host: x", f"x-request-id: {name}",
            f"authorization: Bearer {SECRETS[key]}", "content-type: application/json",
            f"content-length: {len(body)}",
        )  # fmt: skip
        with socket.create_connection((parts.hostname, parts.port or 80)) as client:
            client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            eventually(lambda: server.calls > calls)
            client.settimeout(after_s)
            with pytest.raises(TimeoutError):
                client.recv(1)
        eventually(lambda: self.why(name).get("outcome") == "cancelled")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(models=models) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(server: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(server, tmp_path_factory.mktemp("keys") / "keys.toml") as made:
        yield made


def test_who_hangs_up_pays_for_what_should_have_been_made(
    gateway: Gateway, server: FaultyServer
) -> None:
    """Once there was time for all of it, as much as for the answer; its key's minute as well."""
    server.answer = good
    assert gateway.ask("full") == 200
    full = gateway.why("full")["slot_s"]
    server.answer = never
    paid = []
    for k, after_s in enumerate((0.5, 1.0, 2.0, 4.0, 8.0)):
        gateway.cut(f"cut-{k}", "cut", server, after_s)
        paid.append(gateway.why(f"cut-{k}")["slot_s"])
        if paid[-1] >= 0.5 * full:
            break
    assert 0.5 * full <= paid[-1] <= 1.5 * full
    assert paid == sorted(paid)
    gateway.cut("limited", "limited", server, after_s)
    server.answer = good
    assert gateway.ask("next", "limited") == 429


def test_nobody_pays_for_a_worker_that_fails(gateway: Gateway, server: FaultyServer) -> None:
    async def fail(call: Call) -> None:
        call.reset()

    server.answer = fail
    assert gateway.ask("failed") == 502
    assert gateway.why("failed")["slot_s"] == 0.0
    server.answer = good
    eventually(lambda: gateway.ask("again") == 200)


WAYS: list[dict[str, Any]] = [
    *({"n": four} for four in (4, "4", 4.0)),
    {"n_cmpl": 4},
    *({"n_predict": most} for most in (4 * TOKENS, -1)),
    {"max_completion_tokens": str(4 * TOKENS)},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_no_way_to_ask_for_more_makes_it_cheaper(
    gateway: Gateway, server: FaultyServer, way: dict[str, Any]
) -> None:
    server.answer = lying(TOKENS, 4 * TOKENS)
    name = f"way-{WAYS.index(way)}"
    assert gateway.ask(name, **way) == 200
    assert gateway.why(name)["output_tokens"] == 4 * TOKENS


def lying(prompt: int, output: int, cached: int = 0) -> Answer:
    """It counts so many tokens, as an answer in one piece or as a stream."""
    usage = {"prompt_tokens": prompt, "completion_tokens": output,
             "prompt_tokens_details": {"cached_tokens": cached}}  # fmt: skip

    async def lie(call: Call) -> None:
        choice = {"index": 0, "text": " w", "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        if not json.loads(call.body).get("stream"):
            return await call.answer(200, body, content_type="application/json")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        await call.send(head + b"transfer-encoding: chunked\r\n\r\n")
        await call.send(chunk(b"data: " + body + b"\n\n"), chunk(b"data: [DONE]\n\n"), chunk(b""))
        return None

    return lie


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
def test_what_an_engine_says_is_bounded_by_what_was_asked(
    gateway: Gateway, server: FaultyServer, stream: bool, choices: int
) -> None:
    """It is no more than the limit for each answer, or than a context holds."""
    server.answer = lying(TOKENS, TOKENS * choices)
    assert gateway.ask("true", stream=stream, n=choices) == 200
    most = gateway.why("true")["slot_s"]
    for k, told in enumerate(((2**30 - 1, 2**30 - 1), (9, 2**29, 2**29), (2**20, 1, 2**20))):
        server.answer = lying(*told)
        assert gateway.ask(f"lie-{k}", stream=stream, n=choices) == 200
        found = gateway.why(f"lie-{k}")
        assert found["output_tokens"] <= TOKENS * choices
        assert found["cached_tokens"] <= CONTEXT * choices
        assert found["slot_s"] <= 4 * most  # its speed is learnt meanwhile
    server.answer = lying(TOKENS, TOKENS)
    assert gateway.ask("afterwards", max_tokens=None, stop="x") == 200
    assert gateway.why("afterwards")["expected_tokens"] <= CONTEXT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_nobody_can_read_is_none(
    gateway: Gateway, server: FaultyServer, stream: bool, status: int
) -> None:
    """It is compressed, though nobody has asked for that; its client is told in plain JSON."""

    async def squeeze(call: Call) -> None:
        body = gzip.compress(b'{"choices":[],"error":null}')
        kind = "text/event-stream" if stream else "application/json"
        await call.answer(status, body, content_type=kind, content_encoding="gzip")

    server.answer = squeeze
    headers = {"authorization": f"Bearer {SECRETS['ops']}"}
    told = http.post(gateway.url + "/v1/completions", json={**BODY, "stream": stream},
                     headers=headers)  # fmt: skip
    assert (told.status_code, told.headers.get("content-encoding")) == (502, None)
    assert "compressed" in told.json()["error"]["message"]
    server.answer = good
    eventually(lambda: gateway.ask("again") == 200)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_of_limits_a_client_hears_its_keys_alone(
    gateway: Gateway, server: FaultyServer, path: str
) -> None:
    async def limit(call: Call) -> None:
        left = {f"x_ratelimit_{what}_{of}": "9" for what in ("limit", "remaining", "reset")
                for of in ("requests", "tokens", "images")}  # fmt: skip
        await call.answer(200, b"{}", content_type="application/json", **left)

    server.answer = server.others = limit
    for name in ("wide", "ops"):  # the first has a limit, on tokens
        headers = {"authorization": f"Bearer {SECRETS[name]}"}
        told = http.post(gateway.url + path, json=BODY, headers=headers)
        found = [name for name, _ in told.headers.multi_items() if name.startswith("x-ratelimit")]
        assert len(found) == (3 if name == "wide" else 9)
