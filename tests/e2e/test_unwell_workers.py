"""Workers that are not well, beside one that is: who is served, by whom, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests import http
from tests.faulty_server import (
    MODEL,
    STREAM_HEAD,
    Answer,
    Call,
    FaultyServer,
    after,
    chunk,
    good,
    models,
    never,
    status,
)
from tests.helpers import Process, scrape
from tests.waiting import eventually

BODY: dict[str, Any] = {"model": MODEL, "prompt": "How many clips?", "max_tokens": 8}


@dataclass
class Gateway:
    """One that runs, and what it says."""

    url: str
    process: Process

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        return found

    def worker(self, server: FaultyServer) -> dict[str, Any]:
        return next(one for one in self.workers() if one["url"] == server.url)

    def ask(self, name: str = "", **body: object) -> httpx.Response:
        headers = {"x-request-id": name} if name else {}
        return http.post(self.url + "/v1/completions", json={**BODY, **body}, headers=headers)

    def explain(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = http.get(f"{self.url}/makespan/v1/requests/{name}").json()
        return told

    def lines(self, *words: str) -> list[str]:
        return [line for line in self.process.lines if all(word in line for word in words)]


@contextmanager
def gateway(
    *servers: FaultyServer | str, up: int = -1, flags: tuple[str, ...] = ()
) -> Iterator[Gateway]:
    """Before these; `up` of them are to be up, unless told all."""
    urls = ",".join(one if isinstance(one, str) else one.url for one in servers)
    with Process("gateway", "--port", "0", "--worker", urls, *flags) as process:
        made = Gateway(process.wait_for(r"listening url=(\S+)"), process)
        wanted = len(servers) if up < 0 else up
        eventually(lambda: sum(one["up"] for one in made.workers()) == wanted)
        yield made


async def reset(call: Call) -> None:
    call.reset()


async def no_http(call: Call) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    call.reset()


async def half_a_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    call.reset()


async def head_alone(call: Call) -> None:
    await call.send(STREAM_HEAD)
    call.reset()


async def empty_stream(call: Call) -> None:
    await call.send(STREAM_HEAD, chunk(b""))


async def web_page(call: Call) -> None:
    await call.answer(200, b"<html><title>It works!</title></html>", content_type="text/html")


async def error_at_once(call: Call) -> None:
    """With a 200, as engines tell of what went wrong once they had to begin."""
    if json.loads(call.body).get("stream"):
        await call.send(STREAM_HEAD, chunk(ERROR_EVENT), chunk(DONE), chunk(b""))
    else:
        await call.answer(200, ERROR, content_type="application/json")


ERROR = b'{"error": {"message": "out of memory", "type": "server_error", "code": 500}}'
ERROR_EVENT, DONE = b"data: " + ERROR + b"\n\n", b"data: [DONE]\n\n"
WORD = b'data: {"choices": [{"index": 0, "text": " w", "finish_reason": null}]}\n\n'

FAULTS: dict[str, Answer] = {
    "204": status(204),
    "202": status(202),
    "page": web_page,
    "error": error_at_once,
    "500": status(500),
    "502": status(502),
    "504": status(504),
    "307": status(307, location="http://10.0.0.9/v1/completions"),
    "reset": reset,
    "no_http": no_http,
    "half_a_head": half_a_head,
    "head_alone": head_alone,
    "empty_stream": empty_stream,
}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Gateway, FaultyServer, FaultyServer]]:
    """Two servers behind one gateway, well at first."""
    with FaultyServer() as bad, FaultyServer() as sound, gateway(bad, sound) as made:
        yield made, bad, sound


@pytest.mark.parametrize("fault", FAULTS)
def test_who_fails_at_once_is_ejected_and_no_client_sees_it(fault: str) -> None:
    with (
        FaultyServer(FAULTS[fault]) as bad,
        FaultyServer(after(0.05)) as sound,
        gateway(bad, sound) as made,
        ThreadPoolExecutor(4) as pool,
    ):

        def ejected() -> bool:
            asked = list(pool.map(lambda k: made.ask(stream=bool(k % 2)), range(8)))
            assert [answer.status_code for answer in asked] == [200] * 8
            return bool(made.worker(bad)["health"] == "ejected")

        eventually(ejected)
        assert bad.calls <= 16
        worker = made.worker(bad)
        assert worker["reason"]
        assert not worker["up"]
        assert made.lines("worker is ejected", worker["name"], "why=")
        name = f'makespan_worker_health{{standing="ejected",worker="{worker["name"]}"}}'
        assert scrape(made.url).values[name] == 1


def stream(*events: bytes) -> Answer:
    async def answer(call: Call) -> None:
        await call.send(STREAM_HEAD, *map(chunk, events))

    return answer


def whole(body: bytes, missing: int = 0) -> Answer:
    async def answer(call: Call) -> None:
        length = f"content-length: {len(body) + missing}\r\n\r\n"
        head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\n" + length
        await call.send(head.encode(), body)
        if missing:
            call.reset()

    return answer


# What their clients have had some of, or all: by what it is.
NO_ANSWERS: dict[str, Answer] = {
    "half a body": whole(b'{"choices": [', missing=50),
    "no choices": whole(b'{"choices": []}'),
    "empty": whole(b'{"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}'),
    "nothing": whole(b"{}"),
    "no events": stream(DONE, b""),
    "half a stream": stream(WORD),
    "ends too soon": stream(WORD, b""),
    "error later": stream(WORD, ERROR_EVENT, DONE, b""),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_who_answers_nothing_does_not_draw_the_traffic(kind: str) -> None:
    async def bad_answer(call: Call) -> None:
        await NO_ANSWERS[kind](call)
        call.writer.close()

    with (
        FaultyServer(bad_answer) as bad,
        FaultyServer(after(0.05)) as sound,
        gateway(bad, sound) as made,
        ThreadPoolExecutor(4) as pool,
    ):

        def asked(_: int) -> bool:
            try:
                return made.ask(stream=True).is_success
            except httpx.HTTPError:
                return False

        def ejected() -> bool:
            list(pool.map(asked, range(8)))
            return bool(made.worker(bad)["health"] == "ejected")

        eventually(ejected)
        assert bad.calls <= 16
        assert made.worker(bad)["reason"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "too long", "code": 400}}',
        b'{"error": {"message": "too long", "type": "invalid_request_error"}}',
        b'{"choices": [{"text": "", "finish_reason": "length"}]}',
        b'{"choices": [{"text": ""}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}',
    ],
)
def test_what_the_request_is_to_blame_for_passes_and_counts_against_nobody(
    pair: tuple[Gateway, FaultyServer, FaultyServer], body: bytes
) -> None:
    made, *servers = pair
    for server in servers:
        server.answer = whole(body)
    assert [made.ask().content for _ in range(12)] == [body] * 12
    assert all(one["health"] == "up" for one in made.workers())


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_what_is_the_requests_fault_counts_against_nobody(
    pair: tuple[Gateway, FaultyServer, FaultyServer], code: int
) -> None:
    made, *servers = pair
    for server in servers:
        server.answer = status(code)
    calls = sum(server.calls for server in servers)
    for _ in range(6):
        answer = made.ask()
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            code,
            f"as asked: {code}",
        )
    assert sum(server.calls for server in servers) == calls + 6, "nor is it tried again"
    assert all(one["health"] == "up" for one in made.workers())


@pytest.mark.parametrize("odd", [status(400), status(404)])
def test_who_ends_at_once_what_others_work_on_gets_no_more_than_its_share(odd: Answer) -> None:
    """Each of its answers may be the request's own fault, or short: all of them are not."""
    count = 90
    with (
        FaultyServer(odd) as quick,
        FaultyServer(after(0.3)) as first,
        FaultyServer(after(0.3)) as second,
        gateway(quick, first, second) as made,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: made.ask(max_tokens=64), range(count)))
        assert all(answer.content for answer in answers)
        # Of whom nobody has heard anything it gets some more.
        assert quick.calls <= count / 3 + 16
        assert all(one["health"] == "up" for one in made.workers())
        assert not made.worker(first)["reason"]
        assert not made.worker(second)["reason"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_client_is_sent_to_an_address_behind_the_gateway(code: int) -> None:
    inner = "http://10.0.0.9/v1"
    leads = status(code, location=inner)
    with FaultyServer(leads, others=leads) as bad, gateway(bad) as made:
        for path in ("/v1/embeddings", *["/v1/completions"] * 6):
            body = {"model": MODEL, "prompt": "?", "input": "?", "max_tokens": 4}
            answer = http.post(f"{made.url}{path}", json=body)
            assert (answer.status_code, "location" in answer.headers) == (502, False)
            assert "10.0.0.9" not in answer.text
        assert made.lines(f"it redirects a request to {inner}: name that server instead")


def test_full_workers_are_planned_again_and_not_ejected() -> None:
    """Each refuses what is beyond two at once, as vLLM with ``--max-num-queued-reqs``."""

    def server() -> FaultyServer:
        async def two_at_once(call: Call) -> None:
            await (status(503) if made.waiting > 2 else after(0.05))(call)

        made = FaultyServer(two_at_once)
        return made

    with server() as one, server() as other, gateway(one, other) as made:
        with ThreadPoolExecutor(16) as pool:
            asked = list(pool.map(lambda _: made.ask(), range(48)))
        assert [answer.status_code for answer in asked] == [200] * 48
        assert not made.lines("worker is ejected")


def test_loading_workers_do_not_use_up_the_tries() -> None:
    with (
        FaultyServer(status(503)) as a,
        FaultyServer(status(503)) as b,
        FaultyServer(status(503)) as c,
        FaultyServer() as sound,
        gateway(a, b, c, sound) as made,
    ):
        assert [made.ask().status_code for _ in range(20)] == [200] * 20


def test_who_limits_its_requests_gets_none_until_it_says_so() -> None:
    with FaultyServer(status(429, retry_after="3600")) as bad, FaultyServer() as sound:
        with gateway(bad, sound) as made:
            assert [made.ask().status_code for _ in range(20)] == [200] * 20
            assert bad.calls <= 1
        with gateway(bad) as made:
            answer = made.ask()
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "3600")


def only(beginning: bytes) -> Answer:
    """A head, and then nothing that says anything, for ever."""

    async def answer(call: Call) -> None:
        kind = b"event-stream" if json.loads(call.body).get("stream") else b"json"
        await call.send(STREAM_HEAD.replace(b"event-stream", kind))
        while True:
            await call.send(chunk(beginning))
            await asyncio.sleep(0.1)

    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hang", [never, only(b": ping\n\n"), only(b" ")])
def test_who_hangs_gets_nothing_new_and_keeps_nobody(hang: Answer, stream: bool) -> None:
    """It accepts and never answers; its models it tells."""
    if hang is not never and not stream:
        hang = only(b" ")
    with (
        FaultyServer(hang) as bad,
        FaultyServer(after(0.05)) as sound,
        gateway(bad, sound) as made,
    ):
        names = [f"ask-{k}" for k in range(12)]
        for name in names:
            assert made.ask(name, stream=stream).status_code == 200
        told = [made.explain(name) for name in names]
        kept = [one for one in told if one["failed_workers"]]
        assert len(kept) == bad.calls <= 3
        assert made.worker(bad)["health"] in ("suspect", "ejected")
        assert "no byte" in made.worker(bad)["reason"]


def test_a_hung_worker_keeps_its_slots_worth_at_most_and_the_last_one_is_waited_for() -> None:
    with FaultyServer(never) as bad, FaultyServer(after(0.05)) as sound:
        with gateway(bad, sound, flags=("--plain-slots", "4")) as made:
            with ThreadPoolExecutor(16) as pool:
                asked = list(pool.map(lambda _: made.ask(), range(48)))
            assert [answer.status_code for answer in asked] == [200] * 48
            assert bad.most_waiting <= 5  # and a lead of one
        with gateway(bad, flags=("--silence-timeout-s", "3")) as made:
            assert made.ask().status_code == 502


def test_a_connection_that_the_server_has_closed_is_no_failure_of_the_server() -> None:
    """As if it had closed it while the request was on its way."""

    async def once_a_connection(call: Call) -> None:
        if call.first_on_connection:
            await good(call)
        else:
            call.reset()

    with FaultyServer(once_a_connection) as server, gateway(server) as made:
        assert [made.ask().status_code for _ in range(6)] == [200] * 6
        assert made.worker(server)["health"] == "up"


def test_a_slow_look_takes_nobody_down() -> None:
    with FaultyServer() as server, gateway(server) as made:
        server.models = after(2.6, server.models)
        looks = server.looks
        eventually(lambda: server.looks >= looks + 3)
        assert [made.ask().status_code for _ in range(10)] == [200] * 10
        assert http.get(made.url + "/ready").status_code == 200


async def unwell(call: Call) -> None:
    await status(503 if call.path == "/health" else 404)(call)


async def nonsense(call: Call) -> None:
    await call.answer(200, json.dumps({"data": "soon"}).encode(), content_type="application/json")


async def endless(call: Call) -> None:
    await call.send(STREAM_HEAD)
    while True:
        await call.send(chunk(b" " * 65_536))


NEVER_UP: dict[str, tuple[Answer, Answer, str]] = {
    "401": (status(401), status(401), "asks for a key"),
    "404": (status(404), status(404), "answers 404"),
    "500": (status(500), status(500), "answers 500"),
    "loading": (status(503), status(503), "answers 503 (Service Unavailable): "),
    "page": (web_page, web_page, "is a web page"),
    "nonsense": (nonsense, nonsense, "not OpenAI's list of models"),
    "redirect": (
        status(307, location="http://10.0.0.9/v1/models"),
        status(404),
        "redirects to http://10.0.0.9/v1/models",
    ),
    "no_http": (no_http, no_http, ""),
    "endless": (endless, status(404), "answers more than 1048576 bytes"),
    "unwell": (models, unwell, "its /health answers 503"),
}


def test_workers_that_were_never_up_say_why() -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(FaultyServer(models=listed, others=others))
            for listed, others, _ in NEVER_UP.values()
        ]
        made = stack.enter_context(gateway(*servers, "http://127.0.0.1:9", up=0))
        first = "it has not answered yet"
        eventually(lambda: all(one["reason"] != first for one in made.workers()))
        told = made.workers()
        for row, (_, _, words) in zip(told, NEVER_UP.values(), strict=False):
            assert words in row["reason"]
            assert row["health"] == "down"
            assert len(made.lines("worker is down", row["name"])) == 1
        assert "cannot be reached: Connection refused" in told[-1]["reason"]


@pytest.mark.parametrize("others", [web_page, status(500), status(404), status(401)])
def test_what_lists_models_is_a_plain_server_whatever_it_says_elsewhere(others: Answer) -> None:
    with FaultyServer(others=others) as server, gateway(server.url + "/v1") as made:
        assert made.ask().status_code == 200
        assert made.workers()[0]["kind"] == "openai"


def test_a_fleet_may_come_up_after_its_requests() -> None:
    with (
        FaultyServer(models=status(503)) as server,
        gateway(server, up=0, flags=("--wait-for-worker-s", "100")) as made,
        ThreadPoolExecutor(4) as pool,
    ):
        asked = [pool.submit(made.ask) for _ in range(4)]
        eventually(lambda: scrape(made.url).values["makespan_unsent_requests{}"] == 4)
        server.models = models
        assert [answer.result().status_code for answer in asked] == [200] * 4


def test_nobody_waits_for_a_worker_for_ever_nor_without_end() -> None:
    flags = ("--wait-for-worker-s", "2", "--wait-for-worker-requests", "2")
    with gateway("http://127.0.0.1:9", up=0, flags=flags) as made, ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: made.ask(), range(4)))
        assert [answer.status_code for answer in asked] == [503] * 4
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in asked)
        assert max(one.elapsed for one in asked).total_seconds() >= 2


def test_who_finds_the_door_shut_before_the_looks_do_has_lost_nothing() -> None:
    """Many at once are sent to an address where nobody listens any more: they wait, as all do."""
    flags = ("--wait-for-worker-s", "1", "--retry-share", "0")
    serving = ExitStack()
    server = serving.enter_context(FaultyServer())
    with serving, gateway(server, flags=flags) as made:
        assert made.ask().status_code == 200
        serving.close()
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda k: made.ask(f"k{k}"), range(40)))
        assert {answer.status_code for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
