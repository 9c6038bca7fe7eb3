"""What a request's headers say of its urgency and its owner, to gateways and agents alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from router.http.asgi import Scope, fields, header
from router.http.errors import RequestError
from router.settings.keys import LONGEST_TENANT
from router.wire import (
    DEADLINE_MS,
    KEEPALIVE_S,
    PRIORITY,
    SLO_TPOT_MS,
    SLO_TTFT_MS,
    TENANT,
    TPOT_MS,
    TTFT_MS,
)
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets

# By which clients tell their keys, OpenAI's and Anthropic's; others' name it otherwise.
AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
KEY_HEADERS = frozenset((AUTHORIZATION, API_KEY, b"api-key", b"x-goog-api-key"))
# No clock here tells less apart than a microsecond, and nobody waits for longer than a week.
LEAST_TARGET_MS = 0.001
LONGEST_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Urgency:
    """How urgent a request is; `deadline_s` and the first token's target count from its arrival."""

    priority: Priority = Priority.DEFAULT
    deadline_s: float = inf
    targets: Targets = NO_TARGETS


_URGENT = frozenset((PRIORITY, DEADLINE_MS, TTFT_MS, SLO_TTFT_MS, TPOT_MS, SLO_TPOT_MS))
_USUAL = Urgency()
# OpenAI's tiers of service; what others there are, is the engine's business.
TIERS: Mapping[str, Priority] = {
    "priority": Priority.INTERACTIVE,
    "default": Priority.DEFAULT,
    "flex": Priority.BULK,
}


def read_urgency(
    scope: Scope,
    defaults: Mapping[Priority, Targets] | None = None,
    usual: Priority = Priority.DEFAULT,
) -> Urgency:
    """Priority, deadline and targets; `defaults` hold for what has no target of its own.

    `usual` is its priority where no header says one.

    Raises:
        RequestError: naming the header that is wrong.
    """
    if _URGENT.isdisjoint(fields(scope)):
        return _USUAL if defaults is None else Urgency(usual, targets=defaults[usual])
    priority = _priority(header(scope, PRIORITY), usual)
    deadline = header(scope, DEADLINE_MS)
    standard = NO_TARGETS if defaults is None else defaults[priority]
    targets = Targets(
        _target_s(scope, (TTFT_MS, SLO_TTFT_MS), standard.ttft_s),
        _target_s(scope, (TPOT_MS, SLO_TPOT_MS), standard.tpot_s),
    )
    return Urgency(priority, inf if deadline is None else _deadline_s(deadline), targets)


def read_tenant(scope: Scope) -> str:
    """Whose request it is; empty if it does not say.

    Raises:
        RequestError: if the name is too long.
    """
    tenant = (header(scope, TENANT) or b"").decode("latin-1")
    if len(tenant) > LONGEST_TENANT:
        name = TENANT.decode()
        message = f"The header '{name}' must have at most {LONGEST_TENANT} characters."
        raise RequestError(message, param=name)
    return tenant


def read_keepalive(scope: Scope, default_s: float) -> float:
    """Seconds between comments of a stream that waits; 0: none.

    Raises:
        RequestError: if the header is no number of seconds.
    """
    value = header(scope, KEEPALIVE_S)
    if value is None:
        return default_s
    seconds = 0.0 if value.strip() in (b"0", b"0.0") else _number(value)
    if seconds < 0 or (not seconds and value.strip() not in (b"0", b"0.0")) or seconds > 3600:
        name = KEEPALIVE_S.decode()
        message = f"The header '{name}' must be a number of seconds up to 3600, or 0 for none."
        raise RequestError(message, param=name)
    return seconds


def _priority(value: bytes | None, usual: Priority) -> Priority:
    if value is None:
        return usual
    try:
        return Priority(value.decode("latin-1").strip())
    except ValueError as error:
        name = PRIORITY.decode()
        message = f"The header '{name}' must be one of {', '.join(Priority)}."
        raise RequestError(message, param=name) from error


def _deadline_s(value: bytes) -> float:
    number = _number(value)
    if not 0 < number <= LONGEST_MS:
        name = DEADLINE_MS.decode()
        message = f"The header '{name}' must be a number of milliseconds above 0, at most a week."
        raise RequestError(message, param=name)
    return number / 1000


def _target_s(scope: Scope, names: tuple[bytes, ...], default_s: float) -> float:
    """By the first of the headers that is there."""
    for name in names:
        value = header(scope, name)
        if value is None:
            continue
        number = _number(value)
        if not LEAST_TARGET_MS <= number <= LONGEST_MS:
            raise RequestError(
                f"The header '{name.decode()}' must be a number of milliseconds from "
                f"{LEAST_TARGET_MS:g} to {LONGEST_MS} (a week); leave it out for the default.",
                param=name.decode(),
            )
        return number / 1000
    return default_s


def _number(value: bytes) -> float:
    """Of a header; 0 where it is none. Python alone would take ``1_000`` for one."""
    try:
        return 0.0 if b"_" in value else float(value)
    except ValueError:
        return 0.0
