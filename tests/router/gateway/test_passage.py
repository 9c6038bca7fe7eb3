"""A request that goes without a task of its own ends as one in a task, whatever becomes of it.

Which way it goes shows in nothing but how it came: with its body at once, or after it.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable

import pytest

from tests.faulty_server import (
    MODEL,
    STREAM_HEAD,
    Answer,
    Call,
    FaultyServer,
    chunk,
    good,
    never,
    status,
)
from tests.router.gateway.test_garbage import elsewhere, ends_early, gateway, resets
from tests.waiting import until

REQUESTS = 3
# Of one run's own: how long something took, ports, and in which pieces a stream has come.
OWN = re.compile(rb"(x-makespan-overhead-ms: )[\d.]+|(retry-after: |127.0.0.1:)\d+", re.IGNORECASE)
PIECES = re.compile(rb"(?:\r\n)?(?<=\n)[0-9a-f]+\r\n|\r\n(?=[0-9a-f]+\r\n)")
COUNTED = re.compile(r"^makespan_(?:requests|retries|slo_requests|worker_up)\S* \S+$", re.MULTILINE)


def unlike(text: bytes) -> bytes:
    """What must not differ from run to run."""
    return PIECES.sub(b"", OWN.sub(rb"\1\2", text))


async def half_of_it(call: Call) -> None:
    """An answer that breaks off in its body."""
    await call.send(b'HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"choices": [')
    call.reset()


async def no_http(call: Call) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.6\r\n")


async def stalls(call: Call) -> None:
    """The beginning of a stream, and nothing more."""
    await call.send(STREAM_HEAD, chunk(b'data: {"choices": []}\n\n'))
    await never(call)


async def closes(call: Call) -> None:
    """Well, and over: the connection is not to be used again, though nothing said so."""
    await good(call)
    call.writer.close()


def asked(stream: bool) -> bytes:
    body = {"model": MODEL, "prompt": "?", "max_tokens": 4, "stream": stream}
    text = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"x-request-id: same\r\ncontent-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """One, to its end or to the connection's."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None:
            return head + await reader.readexactly(int(length[1]))
        return head + await reader.readuntil(b"0\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial


async def page(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    answer = await read_answer(reader)
    writer.close()
    return answer.decode()


Client = Callable[[asyncio.StreamReader], Awaitable[bytes]]


async def leaves_at_once(_: asyncio.StreamReader) -> bytes:
    await asyncio.sleep(0.05)  # it may be anywhere by then: it is to end well there
    return b""


async def leaves_early(reader: asyncio.StreamReader) -> bytes:
    return (await reader.read(9))[:9]


async def told(
    answer: Answer, client: Client, stream: bool, at_once: bool
) -> tuple[list[bytes], list[str], str]:
    """What some requests got, what was counted of them, and what their worker still has."""
    answers: list[bytes] = []
    with FaultyServer(answer, others=elsewhere) as server:
        async with gateway(server.url) as (port, busy):
            while f'"{MODEL}"' not in await page(port, "/v1/models"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(REQUESTS):
                if reader.at_eof() or client is not read_answer:
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                text = asked(stream)
                if not at_once:
                    writer.write(text[:-9])
                    for _ in range(30):
                        await asyncio.sleep(0.001)
                writer.write(text if at_once else text[-9:])
                answers.append(unlike(await client(reader)))
                if client is not read_answer:
                    writer.transport.abort()
            writer.close()
            await until(lambda: not busy())
            metrics = unlike((await page(port, "/metrics")).encode()).decode()
            counted = sorted(COUNTED.findall(metrics))
            workers = await page(port, "/makespan/v1/workers")
    in_flight = re.search(r'"in_flight":\d+', workers)
    assert in_flight is not None
    return answers, counted, in_flight[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "client"),
    [
        pytest.param(good, read_answer, id="good"),
        pytest.param(closes, read_answer, id="closes"),
        pytest.param(status(400), read_answer, id="at fault"),
        pytest.param(status(401), read_answer, id="no key"),
        pytest.param(status(302, location="/"), read_answer, id="elsewhere"),
        pytest.param(status(200, content_encoding="gzip"), read_answer, id="compressed"),
        pytest.param(half_of_it, read_answer, id="half"),
        pytest.param(ends_early, read_answer, id="broken off"),
        pytest.param(resets, read_answer, id="reset"),
        pytest.param(no_http, read_answer, id="no HTTP"),
        pytest.param(never, leaves_at_once, id="left waiting"),
        pytest.param(stalls, leaves_at_once, id="left in the middle"),
        pytest.param(good, leaves_early, id="left at its beginning"),
    ],
)
def test_it_ends_as_in_a_task_and_nothing_is_left(
    answer: Answer, client: Client, stream: bool
) -> None:
    both = [asyncio.run(told(answer, client, stream, at_once)) for at_once in (True, False)]
    if client is not leaves_early:  # which may find all of it there, and then has not left
        assert both[0] == both[1]
    assert both[0][2] == both[1][2] == '"in_flight":0'
    assert any("makespan_requests_total" in line for line in both[0][1])


@pytest.mark.parametrize("answer", [status(500), never], ids=["failed", "silent"])
def test_comments_end_with_their_stream(answer: Answer) -> None:
    """A stream that has had some, and then an error: nothing comes after its end."""
    asyncio.run(comments_end(answer))


async def comments_end(answer: Answer) -> None:
    heard = threading.Event()

    async def once_heard(call: Call) -> None:
        while not heard.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await answer(call)

    with FaultyServer(once_heard, others=elsewhere) as server:
        async with gateway(server.url) as (port, busy):
            while f'"{MODEL}"' not in await page(port, "/v1/models"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                asked(True).replace(b"\r\n\r\n", b"\r\nx-makespan-keepalive-s: 0.1\r\n\r\n")
            )
            told = await reader.readuntil(b": waiting")
            heard.set()
            if answer is never:
                writer.transport.abort()
            else:
                told += await reader.readuntil(b"0\r\n\r\n")
                assert b'"error"' in told
                with pytest.raises(TimeoutError):  # longer than between comments
                    await asyncio.wait_for(reader.read(1), 0.3)
                writer.close()
            await until(lambda: not busy())
