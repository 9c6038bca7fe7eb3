"""Lines at endpoints that answer badly: asked again where that may help, and never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router.gateway.batches import inside
from router.gateway.batches.inside import TRIES, Answer, Asked, ask
from router.http.asgi import Receive, Scope, Send
from router.http.errors import RequestError, WorkerFailed

pytestmark = pytest.mark.anyio  # here already, as the tests are in several forms
ASKED = Asked("batch_1.7", "/v1/completions", b"{}", "", {})
GOOD = (200, b'{"choices": []}')


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "PAUSE_S", 0.0)


class Endpoint:
    """Answers so, one time after the other; the last again and again. None: it breaks off."""

    def __init__(self, *answers: tuple[int, bytes] | None) -> None:
        self._answers: Sequence[tuple[int, bytes] | None] = answers
        self.asked = 0

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        assert isinstance(send, Answer)
        send.start(200 if answer is None else answer[0], [])
        if answer is None:
            send.write(b"{")
            raise WorkerFailed("it broke off")
        send.write(answer[1])


@pytest.mark.parametrize(
    "bad",
    [None, (500, b"{}"), (502, b"<html>"), (504, b""), (200, b""), (200, b"<html>"), (200, b"[]"),
     (204, b""), (200, b'{"a": ')],
)  # fmt: skip
async def test_what_may_have_broken_an_engine_is_asked_again_but_not_for_ever(
    bad: tuple[int, bytes] | None,
) -> None:
    twice = Endpoint(bad, bad, GOOD)
    answer = await ask(twice, ASKED)
    assert (answer.status, answer.told) == (200, {"choices": []})
    always = Endpoint(bad)
    await ask(always, ASKED)
    assert always.asked == TRIES


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 302])
async def test_what_is_wrong_with_a_line_is_its_answer(status: int) -> None:
    endpoint = Endpoint((status, b"<html>"))
    assert (await ask(endpoint, ASKED)).status == status
    assert endpoint.asked == 1


async def test_not_now_is_asked_again_however_often() -> None:
    endpoint = Endpoint(*[(status, b"") for status in (408, 429, 503)] * 5, GOOD)
    assert (await ask(endpoint, ASKED)).status == 200


async def test_an_answer_that_does_not_end_is_read_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inside, "MOST_ANSWER", 1 << 10)
    wrote = 0

    async def endless(_: Scope, __: Receive, send: Send) -> None:
        nonlocal wrote
        assert isinstance(send, Answer)
        left = asyncio.Event()
        send.when_gone(left.set)
        send.start(200, [])
        while not left.is_set():
            send.write(b" " * 100)
            wrote += 100

    with pytest.raises(RequestError, match="over the limit") as told:
        await ask(endless, ASKED)
    assert told.value.code == "answer_too_large"
    assert wrote <= (1 << 10) + 100
