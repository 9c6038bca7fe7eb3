"""Headers of a request, as its client sends them and as its worker gets them."""

from __future__ import annotations

import re
import time
from math import inf
from random import getrandbits

from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.planning.ticket import Ticket
from router.http.asgi import Scope, fields, header
from router.http.errors import Headers
from router.http.model_field import with_field
from router.http.outline import LONGEST_SESSION, short_session
from router.http.request_headers import read_number, read_tenant
from router.kv_wire import FULL, REPORT_MODE, SESSION, XARGS, session_name
from router.wire import (
    ATTEMPT,
    DEADLINE_MS,
    EXPECTED_TOKENS,
    PACE,
    PRIORITY,
    REQUEST_ID,
    SESSIONS,
    TPOT_MS,
    TTFT_MS,
    TURN,
    WAITED_MS,
)
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS

_GOOD_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


# Lines of what some requests have, and of what every one has.
_LINES = {
    name: f"{name.decode()}: {value}\r\n"
    for name, value in (
        (REQUEST_ID, "%s"),
        (EXPECTED_TOKENS, "%.1f"),
        (ATTEMPT, "%s"),
        (WAITED_MS, "%.1f"),
        (PRIORITY, "%s"),
        (DEADLINE_MS, "%.1f"),
        (TTFT_MS, "%.1f"),
        (TPOT_MS, "%g"),
        (TURN, "%g"),
        (PACE, "%g"),
    )
}
_ALWAYS = "content-type: application/json\r\n" + "".join(
    _LINES[name] for name in (REQUEST_ID, EXPECTED_TOKENS, ATTEMPT, WAITED_MS)
)


def for_worker(ticket: Ticket, gateway: str) -> str:
    """Lines for a worker beside the client's own headers: of limits, what is left of them."""
    ticket.new_attempt(gateway)
    now, targets = time.monotonic(), ticket.job.targets
    waited_ms = (now - ticket.arrival_s) * 1000
    lines = _ALWAYS % (ticket.request_id, ticket.expected_tokens, ticket.attempt, waited_ms)
    if ticket.priority is not Priority.DEFAULT:
        lines += _LINES[PRIORITY] % ticket.priority.value
    if ticket.ahead_s is not None:
        lines += _LINES[TURN] % ticket.ahead_s
    if ticket.pace_s:
        lines += _LINES[PACE] % ticket.pace_s
    if ticket.job.due_s != inf:
        lines += _LINES[DEADLINE_MS] % _left_ms(ticket.due_s - now)
    if targets is NO_TARGETS:
        return lines
    if targets.ttft_s != inf:
        lines += _LINES[TTFT_MS] % _left_ms(ticket.arrival_s + targets.ttft_s - now)
    if targets.tpot_s != inf:
        lines += _LINES[TPOT_MS] % (targets.tpot_s * 1000)
    return lines


def named_for_cache(
    ticket: Ticket, cache: WorkerCache, headers: Headers, body: bytes
) -> tuple[Headers, str, bytes]:
    """Headers, lines and body by which an engine that tells of its cache tells of this request.

    It is a session of its own in the client's, and blocks that it finds are to be told of, too.
    """
    given = next((value for name, value in headers if name == SESSION), b"")
    client = given[:LONGEST_SESSION].decode("latin-1")
    name = session_name(client, ticket.attempt, ticket.beginnings)
    if given:
        headers = [pair for pair in headers if pair[0] != SESSION]
    if cache.reports:
        body = with_field(body, XARGS, {REPORT_MODE: FULL})
    return headers, f"{SESSION.decode()}: {name}\r\n", body


def _left_ms(seconds: float) -> float:
    """At least a millisecond: what has passed is still told."""
    return max(1.0, seconds * 1000)


def request_id(scope: Scope) -> str:
    """The client's id for its request if it is usable, else a new one."""
    given = header(scope, REQUEST_ID)
    if given is not None and _GOOD_ID.fullmatch(given):
        return given.decode()
    return f"req-{getrandbits(128):032x}"


def session_of(scope: Scope) -> str:
    """The conversation that it belongs to; empty if its headers do not say."""
    found = fields(scope)
    for name in SESSIONS:
        value = found.get(name)
        if value:
            return short_session(value.decode("latin-1"))
    return ""


def tenant_of(scope: Scope) -> str:
    """Whose request it is, by its key or, where there are no keys, by its own word.

    Raises:
        RequestError: if that is too long.
    """
    grant: Grant | None = scope.get(GRANT)
    return read_tenant(scope) if grant is None else grant.key.tenant


def read_hint(value: bytes | None) -> float | None:
    """The client's own guess at its output tokens.

    Raises:
        RequestError: if it is no number of tokens.
    """
    if value is None:
        return None
    return read_number(EXPECTED_TOKENS, value, 1, 1e9, "a number of tokens from 1 to 10^9")
