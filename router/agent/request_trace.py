"""A request at an agent: what its spans are made of, and the spans.

    chat llama-65b                 from its arrival until its answer was complete
    ├── queue                      until its prefill began
    ├── prefill                    until the prompt of its first choice was through
    └── decode                     until the last token was made

A server behind a sidecar shows only its bytes: there the prefill begins when the request is
released and ends with the first token, and of an answer without a stream only ``engine`` is known,
from its release to its end. What did not begin is not there; what did not end, ends with the
request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from router.http.asgi import Scope, header
from router.http.errors import Headers, Outcome
from router.http.schemas import CompletionRequest
from router.http.usage import ResponseInfo, Usage
from router.observe.genai import (
    answer_attributes,
    error_of,
    operation,
    request_attributes,
)
from router.observe.logs import bind_request
from router.observe.spans import Kind, Span, TraceContext, Value
from router.observe.tracing import Tracing
from router.wire import REQUEST_ID


@dataclass(eq=False, slots=True)
class RequestTimings:
    """When what happened to a request, in seconds on the monotonic clock.

    Attributes:
        queued_s: it was queued; `began_s`, its prefill began; `prefilled_s`, that was done; the
            first of its choices counts.
        first_token_s: the first token was made; `ended_s`, one of its choices has ended, for the
            reason in `reasons`.
        phases_visible: how its work divides can be seen.
    """

    queued_s: float | None = None
    began_s: float | None = None
    prefilled_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    phases_visible: bool = True

    def begin(self, now: float) -> None:
        """The prefill of one of its choices begins."""
        if self.began_s is None:
            self.began_s = now

    def prefilled(self, now: float) -> None:
        """The prefill of one of its choices is done."""
        if self.prefilled_s is None:
            self.prefilled_s = now

    def token(self, now: float) -> None:
        """A token was made."""
        if self.first_token_s is None:
            self.first_token_s = now

    def end(self, now: float, choice: int, reason: str) -> None:
        """The last token of a choice was made."""
        self.ended_s, self.reasons[choice] = now, reason

    def spans(self, epoch_s: float, end_s: float) -> list[Span]:
        """Its phases, one after the other; all of them within what ends at `end_s`."""
        phases = [("queue", self.queued_s), ("prefill", self.began_s), ("decode", self.prefilled_s)]
        if not self.phases_visible:
            phases[1:] = [("engine", self.began_s)]
        ends = [*(begun for _, begun in phases[1:]), self.ended_s]
        return [
            _phase(name, begun + epoch_s, end_s if ended is None else ended + epoch_s, end_s)
            for (name, begun), ended in zip(phases, ends, strict=True)
            if begun is not None
        ]


def _phase(name: str, start_s: float, end_s: float, last_s: float) -> Span:
    """From start to end, but no later than the request."""
    start_s = min(start_s, last_s)
    return Span(name, start_s, min(max(start_s, end_s), last_s))


@dataclass(eq=False, slots=True)
class RequestTrace:
    """One request, from its arrival to its end; `send` what it has noted when it is over."""

    context: TraceContext | None
    worker: str
    chat: bool
    request_id: str | None
    received_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    request: CompletionRequest | None = None
    timings: RequestTimings = field(default_factory=RequestTimings)
    status: int | None = None
    usage: Usage | None = None
    response_info: ResponseInfo | None = None
    error: str | None = None

    def expect(self, request: CompletionRequest | None) -> None:
        """It has been read, and is queued."""
        self.timings.queued_s, self.request = time.monotonic(), request

    def outgoing(self, headers: Headers) -> Headers:
        """The client's headers, for a server that may go on with the trace."""
        if self.context is None:
            return headers
        own = [(name.encode(), value.encode()) for name, value in self.context.outgoing().items()]
        return self.context.keep(headers) + own

    @property
    def recorded(self) -> bool:
        """Whether its span is wanted."""
        return self.context is not None and self.context.recorded

    def answered(self, usage: Usage | None, response_info: ResponseInfo) -> None:
        """Its answer is complete, and all or the last of it about to be sent."""
        self.status, self.usage, self.response_info = 200, usage, response_info
        if self.ended_s is None:
            self.ended_s = time.time()

    def span(self, outcome: Outcome) -> Span:
        """It has ended."""
        end_s = time.time() if self.ended_s is None else self.ended_s
        epoch_s = time.time() - time.monotonic()
        attributes: dict[str, Value] = {
            **request_attributes(self.request, chat=self.chat),
            **answer_attributes(self.request, outcome, self.status, self.usage, self.response_info),
            "makespan.outcome": outcome.value,
            "makespan.worker": self.worker,
        }
        if self.request_id is not None:
            attributes["makespan.request_id"] = self.request_id
        first_s = self.timings.first_token_s
        if first_s is not None and self.request is not None and self.request.stream:
            waited_s = first_s + epoch_s - self.received_s
            attributes["gen_ai.response.time_to_first_chunk"] = waited_s
        error = error_of(outcome, self.error)
        children = self.timings.spans(epoch_s, end_s)
        if children and outcome is not Outcome.COMPLETED:
            children[-1].error = error
        model = "other" if self.request is None else self.request.model
        name = f"{operation(chat=self.chat)} {model}"
        return Span(name, self.received_s, end_s, attributes, Kind.SERVER, error, children=children)


def begin_request_trace(tracing: Tracing, scope: Scope, worker: str, *, chat: bool) -> RequestTrace:
    """A request has come; log lines are about it from now on."""
    context = tracing.begin(scope["headers"])
    given = header(scope, REQUEST_ID)
    name = None if given is None else given.decode("latin-1")
    bind_request(name, None if context is None else context.id)
    return RequestTrace(context, worker, chat, name)


def end_request_trace(tracing: Tracing, request_trace: RequestTrace, outcome: Outcome) -> None:
    """It has ended."""
    if request_trace.context is not None and request_trace.recorded:
        tracing.end(request_trace.context, request_trace.span(outcome))
