"""What a worker gets of a request's head."""

from __future__ import annotations

import asyncio

from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.forwarder import Forwarder
from router.http.connections import Connections
from router.http.errors import Headers
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
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


async def send(url: str, headers: Headers) -> int:
    connections = Connections()
    connections.open()
    try:
        settings = GatewaySettings(worker=url)  # type: ignore[arg-type,call-arg]
        forwarder = Forwarder(settings, connections)
        worker = Worker(url, PlainSlots(1), hardware("llama-65b-ascend").cost)
        reply = await forwarder.send(url + "/v1/completions", headers, "", BODY, worker=worker)
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
