"""Whoever is named as a peer may be anybody: at worst it is as if there were none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
from aiohttp import web

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.workers import Workers
from router.gateway.peers import ears
from router.gateway.peers import hearing as hearing_module
from router.gateway.peers.hearing import BURST_S, SHARE, Hearing
from router.gateway.peers.lines import LONGEST_LINE, SENDS_PATH, Anew, Gateway, Held, encode
from router.gateway.peers.lines import decode as decode_line
from router.gateway.peers.peers import Peers
from router.gateway.peers.sends import Sends
from router.http.connections import Connections
from router.http.secret import CHALLENGE, SECRET
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from solver.routing.sums import NOTHING

PLACE = "http://127.0.0.1:9"
HELLO = encode(Gateway("other")) + encode(Anew(0))
THERE = encode(Held(PLACE, 3, 0, 0, 0.0, 0.0, 0.0, 0, 0))
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Half:
    """A gateway that listens, without the rest of it."""

    def __init__(self, secret: bytes | None = None) -> None:
        settings = GatewaySettings(worker=(PLACE,))  # type: ignore[call-arg]
        self.connections = Connections(None, secret, "me")
        self.metrics = GatewayMetrics()
        sends = Sends("me")
        self.peers = Peers(sends)
        workers = Workers(settings, self.connections, self.metrics, None, self.peers, sends)
        workers.update([Endpoint(PLACE)])
        made = settings, self.connections, workers, sends, self.peers, self.metrics, None
        self.hearing = Hearing(*made)

    def lines(self, what: str) -> float:
        text = self.metrics.render().decode()
        name = f'makespan_peer_lines_total{{what="{what}"}} '
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].split()[-1]) if found else 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def before(self, *serves: Serve) -> AsyncIterator[None]:
        """Such peers, each at an address of its own."""
        runners = list[web.AppRunner]()
        urls = list[str]()
        for serve in serves:
            app = web.Application()
            app.router.add_post(SENDS_PATH, serve)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            runners.append(runner)
        self.connections.open()
        task = asyncio.create_task(self.hearing.run())
        self.hearing.update([Endpoint(url) for url in urls])
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.connections.close()
            for runner in runners:
                await runner.cleanup()


def saying(*parts: bytes, ends: bool = False) -> Serve:
    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            for part in parts:
                await response.write(part)
            if not ends:
                await asyncio.Event().wait()
        return response

    return serve


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long."""
    monkeypatch.setattr(ears, "STATE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(hearing_module, "PAUSES_S", (0.01, 3600.0))


ODD = {
    "garbage": saying(HELLO + THERE, b"garbage\n"),
    "a line without end": saying(HELLO + THERE, b"[" * (2 * LONGEST_LINE)),
    "nothing any more": saying(HELLO + THERE),
    "an end": saying(HELLO + THERE, ends=True),
    "figures that are none": saying(HELLO + THERE, b'["held","http://a",-1,0,0,0,0,0,0,0]\n'),
}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("odd", ODD)
def test_what_somebody_has_told_is_void_when_it_goes_wrong(odd: str) -> None:
    async def run() -> None:
        half = Half()
        async with half.before(ODD[odd]):
            await half.until(lambda: half.lines("heard") >= 3)
            await half.until(lambda: half.peers.held(PLACE) == NOTHING)
            await half.until(lambda: half.peers.count == 0)
            (told,) = half.hearing.told()
            assert not told["up"]
            assert told["reason"]
            assert (half.lines("garbage") > 0) == (odd not in ("nothing any more", "an end"))

    asyncio.run(run())


@pytest.mark.usefixtures("soon")
def test_the_others_are_heard_whoever_is_wrong() -> None:
    async def run() -> None:
        half = Half()
        good = saying(encode(Gateway("good")) + encode(Anew(0)) + THERE + b"\n")
        twin = saying(encode(Gateway("good")) + encode(Anew(0)) + THERE + b"\n")
        own = saying(encode(Gateway("me")) + encode(Anew(0)) + THERE)
        no_hello = saying(THERE)
        async with half.before(ODD["garbage"], good, twin, own, no_hello):
            await half.until(lambda: half.peers.count == 1 and half.lines("garbage") >= 2)
            assert half.peers.held(PLACE).sequences == 3, "once, and nothing of oneself"

    asyncio.run(run())


@pytest.mark.usefixtures("soon")
def test_who_is_to_decide_knows_what_has_been_told_though_the_loop_has_not_turned() -> None:
    """And nothing of it is lost, or taken twice, when the loop does; who goes wrong goes then."""
    wires = list[asyncio.Transport]()

    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(HELLO + THERE)
        wires.append(cast(asyncio.Transport, request.transport))
        await asyncio.Event().wait()
        return response

    async def run() -> None:
        half = Half()

        def at_once(text: bytes) -> bool:
            wires[0].write(b"%x\r\n%b\r\n" % (len(text), text))
            return any(half.hearing.catch_up() for _ in range(10_000))

        async with half.before(serve):
            await half.until(lambda: half.peers.held(PLACE).sequences == 3)
            for sequences in range(4, 9):
                line = encode(Held(PLACE, sequences, 0, 0, 0.0, 0.0, 0.0, 0, 0))
                assert not at_once(line[:20])
                assert at_once(line[20:])
                assert half.peers.held(PLACE).sequences == sequences
                assert not half.hearing.catch_up()
                await asyncio.sleep(0.01)
                assert half.lines("heard") == sequences
            assert not at_once(b"garbage\n")
            assert half.peers.held(PLACE).sequences == 8
            await half.until(lambda: half.peers.count == 0)
            assert half.peers.held(PLACE) == NOTHING

    asyncio.run(run())


def test_only_who_asks_for_the_secret_is_told_it() -> None:
    heard = list[str | None]()

    async def guarded(request: web.Request) -> web.StreamResponse:
        told = request.headers.get(SECRET.decode())
        heard.append(told)
        if told != "a secret of the fleet":
            name, value = (part.decode() for part in CHALLENGE)
            return web.Response(status=401, headers={name: value})
        return await saying(HELLO + THERE)(request)

    async def another(request: web.Request) -> web.StreamResponse:
        heard.append(request.headers.get(SECRET.decode()))
        return web.Response(status=401)

    async def run(serve: Serve) -> None:
        half = Half(b"a secret of the fleet")
        async with half.before(serve):
            if serve is guarded:
                await half.until(lambda: half.peers.held(PLACE).sequences == 3)
            else:
                await half.until(lambda: len(heard) > 0)

    asyncio.run(run(guarded))
    assert heard[:2] == [None, "a secret of the fleet"]
    heard.clear()
    asyncio.run(run(another))
    assert set(heard) == {None}


@pytest.mark.parametrize("beside_s", [0.0, 5.0])
def test_however_much_they_tell_they_have_a_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch, beside_s: float
) -> None:
    """By a clock of which every line takes a tenth of a second, while others have the core or not.

    What these take is nothing that peers have had, and they wait for none of it.
    """
    clock, took, rested = [0.0], [0.0], [0.0]
    sleep = asyncio.sleep

    def decode(text: bytes) -> object:
        clock[0] += 0.1 + beside_s
        took[0] += 0.1
        return decode_line(text)

    async def rest(seconds: float) -> None:
        if seconds < 60:  # the pauses after a stream that has ended
            rested[0] += seconds
            clock[0] += seconds
        await sleep(0)

    async def run() -> None:
        half = Half()
        flood = saying(HELLO, *[THERE * 1000] * 5, ends=True)
        async with half.before(flood):
            await half.until(lambda: half.lines("heard") >= 5000)

    monkeypatch.setattr(hearing_module, "decode", decode)
    monkeypatch.setattr("router.gateway.peers.hearing.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("router.gateway.peers.hearing.time.thread_time", lambda: took[0])
    monkeypatch.setattr(hearing_module, "PAUSES_S", (3600.0,))
    monkeypatch.setattr(hearing_module, "LOOK_S", 3600.0)
    monkeypatch.setattr("router.gateway.peers.hearing.asyncio.sleep", rest)
    asyncio.run(run())
    had = SHARE * (clock[0] if beside_s else took[0] + rested[0])
    assert took[0] <= had + 2 * BURST_S
    assert (rested[0] < took[0] / 10) == (beside_s > 0)
