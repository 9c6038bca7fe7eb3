"""Bytes of bodies are counted as they come, and no longer than they are held."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.asgi import ClientDisconnected, Message
from router.http.bodies import BodyMemory, BodyReader, Held
from router.http.errors import NoCapacityError, RequestError

LIMIT, MOST = 300, 500


async def read(parts: list[int], held: Held, *, leaves: bool = False) -> int:
    messages: list[Message] = [
        {"type": "http.request", "body": b" " * size, "more_body": True} for size in parts
    ]
    messages.append({"type": "http.disconnect"} if leaves else {"type": "http.request"})

    async def receive() -> Message:
        return messages.pop(0)

    scope = {"headers": [(b"content-type", b"application/json")]}
    return len(await BodyReader(LIMIT).read(scope, receive, held))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 200), max_size=4), st.booleans(), st.booleans()),
        max_size=12,
    )
)
def test_what_is_held_is_what_has_come_and_not_been_let_go(
    bodies: list[tuple[list[int], bool, bool]],
) -> None:
    memory = BodyMemory(MOST, lambda _: NoCapacityError("full", 1.0))
    kept: list[tuple[Held, int]] = []

    async def run() -> None:
        for parts, leaves, stays in bodies:
            held, before = Held(memory), memory.held
            try:
                size = await read(parts, held, leaves=leaves)
                assert size == sum(parts) <= LIMIT
                assert memory.held == before + size <= MOST
            except RequestError:
                assert sum(parts) > LIMIT
            except NoCapacityError:
                assert before + sum(parts) > MOST
            except ClientDisconnected:
                assert leaves
            if stays:
                kept.append((held, memory.held - before))
            else:
                held.let_go()
                assert memory.held == before
        assert memory.held == sum(count for _, count in kept)
        for held, _ in kept:
            held.let_go()
        assert memory.held == 0

    asyncio.run(run())


def test_one_too_many_is_refused_as_it_is_told_to_be() -> None:
    memory = BodyMemory(MOST, lambda _: NoCapacityError("full", 7.0))
    held = Held(memory)
    held.take(MOST)
    with pytest.raises(NoCapacityError) as error:
        Held(memory).take(1)
    assert error.value.retry_after_s == 7.0
    held.let_go()
    Held(memory).take(1)
