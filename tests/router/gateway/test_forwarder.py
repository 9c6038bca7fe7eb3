"""What a worker gets of a request's head."""

from __future__ import annotations

import asyncio

import pytest

from router.agent.queue_position import read_hint, read_queue_position
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.forwarder import Forwarder
from router.http.asgi import FIELDS, Scope
from router.http.connections import Connections
from router.http.errors import Headers
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.wire import KEEPALIVE_S, SESSIONS, TENANT, TOLD, WHY
from solver.routing.slots import PlainSlots
from tests.faulty_server import FaultyServer

BODY = b'{"max_tokens":1}'


class Heads(FaultyServer):
    """Keeps the lines of heads that it was sent, in lower case."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def heard(self, head: str) -> None:
        self.lines += head.split("\r\n")


class Asked(dict[bytes, bytes]):
    """Headers, all of them a 1, that notes which are asked for."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((*TOLD, b"x-other"), b"1"))
        self.names = set[bytes]()

    def get(self, name: bytes, _: object = None) -> bytes:
        self.names.add(name)
        return b"bulk" if name.endswith(b"priority") else b"1"


async def send(url: str, headers: Headers, *, planned: bool = True) -> int:
    connections = Connections()
    connections.open()
    try:
        settings = GatewaySettings(worker=url)  # type: ignore[arg-type,call-arg]
        forwarder = Forwarder(settings, connections)
        worker = Worker(url, PlainSlots(1), hardware("llama-65b-ascend").cost)
        if planned:
            asking = forwarder.send(url + "/v1/completions", headers, "", BODY, worker=worker)
        else:
            asking = forwarder.relay("POST", url + "/v1/score", headers, "r", BODY, worker)
        reply = await asking
        reply.close()
        return reply.status
    finally:
        await connections.close()


def test_values_go_on_as_the_bytes_that_came() -> None:
    values = ["José".encode(), "José".encode("latin-1"), b"\xff\xfe", b"a  b\tc", b""]
    with Heads() as server:
        headers = [(b"x-user", value) for value in values]
        assert asyncio.run(send(server.url, headers)) == 200
        seen = [line for line in server.lines if line.startswith("x-user")]
        assert seen == [f"x-user: {value.decode('latin-1')}".lower() for value in values]


def test_what_is_between_client_and_gateway_stays_there() -> None:
    with Heads() as server:
        headers = [(b"connection", b"x-hop, close"), (b"x-hop", b"1"), (b"x-kept", b"2")]
        headers += [(b"te", b"trailers"), (b"content-length", b"99"), (b"upgrade", b"h2c")]
        assert asyncio.run(send(server.url, headers)) == 200
        names = {line.partition(":")[0] for line in server.lines}
        assert "x-kept" in names
        assert not names & {"x-hop", "te", "upgrade"}
        assert f"content-length: {len(BODY)}" in server.lines


@pytest.mark.parametrize("planned", [True, False])
def test_no_client_says_what_gateways_tell_agents(planned: bool) -> None:
    """Else it could take its own turn, and of two the first counts, which is a client's."""
    asked = Asked()
    scope: Scope = {FIELDS: asked}
    assert read_queue_position(scope).pace_s == 1.0
    assert read_hint(scope) == 1.0
    assert asked.names <= TOLD
    passed = {WHY, KEEPALIVE_S, TENANT, SESSIONS[0]}
    with Heads() as server:
        headers = [(name, b"1") for name in (*TOLD, *passed)]
        assert asyncio.run(send(server.url, headers, planned=planned)) in (200, 404)
        names = {line.partition(":")[0].encode() for line in server.lines}
        assert names & (TOLD | passed) == passed
