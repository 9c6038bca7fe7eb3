"""What all planned paths of agents do around an answer: how errors and a shutdown end it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from router.agent.attempts import Attempts
from router.agent.endpoint import ClientResponse, Endpoint
from router.agent.gateways import Gateways
from router.agent.request_trace import RequestTrace
from router.http.apis import APIS
from router.http.asgi import Message, Receive, Scope
from router.http.drain import Drain
from router.http.errors import EngineFailed, Outcome, RecalledError, RouterError
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.wire import RECALLED, REQUEST_ID, WORKER

COMPLETIONS = next(api for api in APIS if api.path == "/v1/completions")
PLAIN = [(b"content-type", b"text/plain"), (WORKER, b"somebody else")]


class Nobody:
    """A queue in which nothing waits."""

    def withdraw(self, ids: object, why: Exception) -> bool:  # noqa: ARG002
        return False


class Ending(Endpoint):
    """Begins an answer or not, and then fails with an error, or waits until it is cut short."""

    def __init__(self, begins: str, error: RouterError | None) -> None:
        self.metrics, self.drain = AgentMetrics(), Drain()
        parts = Attempts(Nobody()), Gateways(), self.metrics, self.drain, Tracing()
        super().__init__("agent-0", *parts, COMPLETIONS)
        self._begins, self._error = begins, error
        self.waits = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    @property
    def _model(self) -> str:
        return "llama"

    async def _serve(
        self,
        scope: Scope,  # noqa: ARG002
        receive: Receive,  # noqa: ARG002
        answer: ClientResponse,
        trace: RequestTrace,  # noqa: ARG002
    ) -> Outcome:
        if self._begins:
            await answer.begin(200, PLAIN, streaming=self._begins == "stream")
        if self._error is not None:
            raise self._error
        self.waits.set()
        await asyncio.Event().wait()
        raise AssertionError

    def asked(self) -> asyncio.Task[None]:
        """One request under way."""

        async def send(message: Message) -> None:
            self.sent.append(dict(message))

        async def receive() -> Message:
            raise AssertionError

        return asyncio.create_task(self({"headers": [(REQUEST_ID, b"r-1")]}, receive, send))

    def ended(self, outcome: Outcome) -> float:
        """Requests that have ended so."""
        labels = {"model": "llama", "outcome": outcome.value}
        self.metrics.render()
        found = self.metrics.registry.get_sample_value("makespan_requests_total", labels)
        return found or 0.0


@pytest.mark.anyio
@pytest.mark.parametrize("error", [EngineFailed(), RecalledError()])
async def test_an_error_is_the_answer_where_none_has_begun(error: RouterError) -> None:
    endpoint = Ending("", error)
    await endpoint.asked()
    head, body = endpoint.sent
    assert head["status"] == error.status
    headers = dict(head["headers"])
    assert headers[WORKER] == b"agent-0"
    assert headers[REQUEST_ID] == b"r-1"
    assert (RECALLED in headers) is isinstance(error, RecalledError)
    assert body["body"] == error.body()
    assert endpoint.ended(error.outcome) == 1


@pytest.mark.anyio
async def test_an_error_is_the_last_event_of_a_stream_and_breaks_off_anything_else() -> None:
    stream = Ending("stream", EngineFailed())
    await stream.asked()
    head, last = stream.sent
    assert head["headers"].count((WORKER, b"agent-0")) == 1
    assert (WORKER, b"somebody else") not in head["headers"]
    assert b'"error"' in last["body"]
    assert not last.get("more_body")
    whole = Ending("whole", EngineFailed())
    with pytest.raises(EngineFailed):
        await whole.asked()
    assert len(whole.sent) == 1
    assert stream.ended(Outcome.FAILED) == whole.ended(Outcome.FAILED) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("begins", ["", "stream", "whole"])
async def test_who_is_cut_short_is_told_so_only_if_no_answer_has_begun(begins: str) -> None:
    endpoint = Ending(begins, None)
    task = endpoint.asked()
    await endpoint.waits.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [message.get("status") for message in endpoint.sent] == (
        [200] if begins else [503, None]
    )
    assert endpoint.ended(Outcome.FAILED) == 1


@pytest.mark.anyio
async def test_nothing_new_is_served_at_shutdown() -> None:
    endpoint = Ending("stream", None)
    endpoint.drain.begin()
    await endpoint.asked()
    assert endpoint.sent[0]["status"] == 503
    assert endpoint.ended(Outcome.REJECTED_NO_CAPACITY) == 1
