"""The gateway's spans of a request, made at its end from what was noted meanwhile.

    chat llama-65b                 from its arrival to its last byte
    ├── window                     until its window closed, the request being in
    ├── plan                       the plan that sent it
    └── dispatch                   from sending it to a worker to the end of the answer

The last three come again for each worker that was tried. A request that ended unsent has a window
alone. Names of attributes are OpenTelemetry's for generative AI where it has one.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from router.gateway.explanations.request_record import RequestRecord
from router.gateway.forwarding.attempt import Attempt
from router.gateway.forwarding.exchange import Exchange
from router.http.errors import Outcome
from router.observe.genai import (
    answer_attributes,
    error_of,
    operation,
    request_attributes,
)
from router.observe.spans import Kind, Span, Value


def request_span(exchange: Exchange, outcome: Outcome) -> Span:
    """A request that has ended, with all that it went through."""
    record = exchange.record
    assert record.ended_s is not None
    epoch_s = time.time() - time.monotonic()
    span = Span(
        f"{operation(chat=exchange.api.chat)} {record.model}",
        record.received_s,
        record.ended_s,
        _attributes(exchange, outcome),
        Kind.SERVER,
        error_of(outcome, record.error),
    )
    since_s = exchange.received + epoch_s
    for one in exchange.attempts:
        sent_s = one.sent_s + epoch_s
        ended_s = record.ended_s if one.ended_s is None else one.ended_s + epoch_s
        planned_s = min(max(one.planned_s, since_s), sent_s)
        closed_s = min(max(planned_s - one.took_s, since_s), planned_s)
        span.children += [
            Span("window", since_s, closed_s, one.window),
            Span("plan", closed_s, planned_s, one.plan),
            _dispatch(one, sent_s, min(ended_s, record.ended_s), record, outcome),
        ]
        since_s = ended_s
    accepted = record.expected_tokens > 0
    if exchange.between_attempts or (accepted and not exchange.attempts):
        start_s = min(since_s, record.ended_s)
        span.children.append(Span("window", start_s, record.ended_s, error=span.error))
    return span


def _dispatch(
    one: Attempt, sent_s: float, ended_s: float, record: RequestRecord, outcome: Outcome
) -> Span:
    address = urlsplit(one.url)
    attributes: dict[str, Value] = {
        "makespan.worker": one.worker,
        "makespan.predicted_s": one.predicted_s,
        "server.address": address.hostname or "",
    }
    if address.port is not None:
        attributes["server.port"] = address.port
    if one.why is not None:
        attributes["makespan.ended_by"] = one.why
    if one.ended_s is None:
        error = error_of(outcome, record.error)
    else:
        error = one.why if one.failed else None
    return Span("dispatch", sent_s, ended_s, attributes, Kind.CLIENT, error, one.id)


def _attributes(exchange: Exchange, outcome: Outcome) -> dict[str, Value]:
    record = exchange.record
    found: dict[str, Value] = {
        **request_attributes(exchange.request, chat=exchange.api.chat),
        **answer_attributes(
            exchange.request, outcome, record.status, exchange.usage, exchange.response_info
        ),
        "makespan.request_id": record.id,
        "makespan.outcome": outcome.value,
        "makespan.priority": record.priority,
        "makespan.predicted_tokens": record.expected_tokens,
        "makespan.plans": record.planned,
        "makespan.recalled": record.recalled,
    }
    if record.tenant:
        found["makespan.tenant"] = record.tenant
    if record.worker is not None:
        found["makespan.worker"] = record.worker
    if record.output_tokens is not None:
        found["gen_ai.usage.output_tokens"] = record.output_tokens
    if record.stream and record.first_token_s is not None and record.status == 200:
        found["gen_ai.response.time_to_first_chunk"] = record.first_token_s - record.received_s
    return found
