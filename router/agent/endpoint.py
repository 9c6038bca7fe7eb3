"""What is the same at all planned paths of an agent, whatever runs the model.

Rules:
- a request ends with one outcome, which is counted, and its trace with it;
- an error is the answer, or the last event of a stream that has begun; half of any other answer is
  none: the connection is closed;
- when the time to drain is over, who has no answer yet is told so, and an answer that has begun is
  broken off, so that another worker may go on with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod

from router.agent.attempts import Attempts
from router.agent.gateways import Gateways
from router.agent.request_trace import RequestTrace, begin_request_trace, end_request_trace
from router.http.apis import Api
from router.http.asgi import ClientDisconnected, Receive, Scope, Send, header, respond
from router.http.drain import Drain
from router.http.errors import Headers, NoCapacityError, Outcome, RouterError
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.wire import ATTEMPT, RECALLED, WORKER

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 << 20  # the gateway's limit is the one that users meet


class ClientResponse:
    """What goes back to the client.

    Attributes:
        own: the headers that every answer has, errors, too.
        events: of a stream, so far: the number of the next one.
    """

    def __init__(self, send: Send, api: Api, worker: str, request_id: str | None) -> None:
        self.send, self._api, self._request_id = send, api, request_id
        named = [] if request_id is None else api.named(request_id)
        self.own: Headers = [(WORKER, worker.encode()), *named]
        self.begun = self._streaming = False
        self.events = 0

    async def begin(self, status: int, headers: Headers, *, streaming: bool) -> None:
        """The head, with the headers that are our own in place of any others of their names."""
        names = {name for name, _ in self.own}
        headers = [pair for pair in headers if pair[0] not in names]
        self.begun, self._streaming = True, streaming
        start = {"type": "http.response.start", "status": status}
        await self.send({**start, "headers": [*headers, *self.own]})

    async def pass_on(self, chunk: bytes) -> None:
        """Some bytes of the body."""
        await self.send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, last: bytes = b"") -> None:
        """The body is complete."""
        await self.send({"type": "http.response.body", "body": last})

    async def send_error(self, error: RouterError) -> None:
        """The error as a response, or at the end of a stream that has begun.

        Raises:
            RouterError: itself, if half of another answer has gone: the server closes the
                connection then.
        """
        name = self._request_id or ""
        if not self.begun:
            recalled = [(RECALLED, b"1")] if error.outcome is Outcome.RECALLED else []
            headers = [*error.headers(), *recalled, *self.own]
            await respond(self.send, error.status, headers, self._api.error(error, name))
        elif self._streaming:
            await self.finish(self._api.last_event(error, self.events, name))
        else:
            log.warning("answer cut short")
            raise error


class Endpoint(ABC):
    """One of the planned paths, as raw ASGI; see the module."""

    def __init__(
        self,
        name: str,
        attempts: Attempts,
        gateways: Gateways,
        metrics: AgentMetrics,
        drain: Drain,
        tracing: Tracing,
        api: Api,
    ) -> None:
        self._name, self._api = name, api
        self._attempts, self._gateways = attempts, gateways
        self._metrics, self._drain, self._tracing = metrics, drain, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        trace = begin_request_trace(self._tracing, scope, self._name, chat=self._api.chat)
        answer = ClientResponse(send, self._api, self._name, trace.request_id)
        outcome = Outcome.FAILED
        try:
            if self._drain.begun:
                raise _shutting_down()
            outcome = await self._serve(scope, receive, answer, trace)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome, trace.status, trace.error = error.outcome, error.status, str(error)
            trace.ended_s = time.time()
            await answer.send_error(error)
        except asyncio.CancelledError:
            log.warning("cut short, as the time to drain is over")
            if not answer.begun:
                await answer.send_error(_shutting_down())
        finally:
            self._metrics.requests.labels(self._model, outcome.value).inc()
            end_request_trace(self._tracing, trace, outcome)

    @property
    @abstractmethod
    def _model(self) -> str:
        """The model that is served."""

    @abstractmethod
    async def _serve(
        self, scope: Scope, receive: Receive, answer: ClientResponse, trace: RequestTrace
    ) -> Outcome:
        """How it ends.

        Raises:
            ClientDisconnected: if its client leaves.
            RouterError: if it fails.
        """


def _shutting_down() -> NoCapacityError:
    return NoCapacityError("This worker is shutting down.", retry_after_s=1.0)


def attempt_of(scope: Scope) -> str | None:
    """The name that a gateway has given to its attempt."""
    return (header(scope, ATTEMPT) or b"").decode("latin-1") or None
