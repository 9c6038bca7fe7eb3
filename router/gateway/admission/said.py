"""What the head of a request says, found out once for all that come with the same head.

What it says depends on what its key allows: once that has changed, it is found out anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.headers import read_hint, session_of, tenant_of
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.forwarding.remembered import Remembered
from router.http.asgi import SAID, Scope, fields
from router.http.bodies import check_type
from router.http.encodings import HEADER as CONTENT_ENCODING
from router.http.request_headers import Urgency, read_keepalive, read_urgency
from router.settings.keys import Key
from router.wire import EXPECTED_TOKENS, WHY
from solver.batching.priority import Priority
from solver.batching.targets import Targets


@dataclass(slots=True)
class Said:
    """The same for all that come with the same head.

    Attributes:
        urgency: of who has no tier of service.
        tenant: whose they are.
        hint: output tokens as their client guesses them.
        session: the conversation that they belong to; empty if only their bodies may say.
        why: whether their client wants to know why each went where it went.
        keepalive_s: seconds between comments of a stream that waits; 0: none.
        headers: for their workers.
        encoded: whether their bodies are to be decoded.
    """

    urgency: Urgency
    tenant: str
    hint: float | None
    session: str
    why: bool
    keepalive_s: float
    headers: Remembered
    encoded: bool


def highest(grant: Grant | None) -> Priority:
    """What a request may be at most."""
    return Priority.INTERACTIVE if grant is None else grant.key.priority


def said_in(
    scope: Scope, defaults: Mapping[Priority, Targets], keepalive_s: float, record: RequestRecord
) -> Said:
    """What a request's head says; also who is refused for that is of a tenant, and has targets.

    Raises:
        RequestError: naming the header that is wrong.
    """
    kept: dict[str, tuple[Key | None, Said]] | None = scope.get(SAID)
    grant: Grant | None = scope.get(GRANT)
    key = None if grant is None else grant.key
    of, found = kept[SAID] if kept else (None, None)
    if found is None or of is not key:
        found = _read(scope, defaults, keepalive_s, record)
        if kept is not None:
            kept[SAID] = key, found
    record.targets, record.tenant = found.urgency.targets, found.tenant
    return found


def _read(
    scope: Scope, defaults: Mapping[Priority, Targets], keepalive_s: float, record: RequestRecord
) -> Said:
    told, grant = fields(scope), scope.get(GRANT)
    urgency = read_urgency(scope, defaults, highest=highest(grant))
    record.targets = urgency.targets
    record.tenant = tenant_of(scope)
    check_type(scope)
    return Said(
        urgency,
        record.tenant,
        read_hint(told.get(EXPECTED_TOKENS)),
        session_of(scope),
        WHY in told,
        read_keepalive(scope, keepalive_s),
        Remembered(scope["headers"]),
        CONTENT_ENCODING in told,
    )
