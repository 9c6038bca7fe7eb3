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
from solver.batching.priority import WEIGHT, Priority
from solver.batching.targets import NO_TARGETS, Targets

# By which clients tell their keys, OpenAI's and Anthropic's; others' name it otherwise.
AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
KEY_HEADERS = frozenset((AUTHORIZATION, API_KEY, b"api-key", b"x-goog-api-key"))
# No clock here tells less apart than a microsecond, and nobody waits for longer than a week.
LEAST_TARGET_MS = 0.001
LONGEST_MS = 7 * 86_400_000
# No proxy closes what is silent for less; each comment costs some CPU.
LEAST_KEEPALIVE_S, LONGEST_KEEPALIVE_S = 0.1, 3600


@dataclass(slots=True)
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
    highest: Priority = Priority.INTERACTIVE,
) -> Urgency:
    """Priority, deadline and targets; `defaults` hold for what has no target of its own.

    `usual` is its priority where no header says one, `highest` what its key allows. A deadline
    ranks as an interactive request does, so only who may be interactive has one, and who may only
    be bulk has no targets of its own: bulk work waits for whoever has some.

    Raises:
        RequestError: naming the header that is wrong.
    """
    usual = _lower(usual, highest)
    if _URGENT.isdisjoint(fields(scope)):
        return _USUAL if defaults is None else Urgency(usual, targets=defaults[usual])
    priority = _lower(_priority(header(scope, PRIORITY), usual), highest)
    standard = NO_TARGETS if defaults is None else defaults[priority]
    targets = Targets(
        _target_s(scope, (TTFT_MS, SLO_TTFT_MS), standard.ttft_s),
        _target_s(scope, (TPOT_MS, SLO_TPOT_MS), standard.tpot_s),
    )
    deadline_s = _milliseconds(scope, DEADLINE_MS, "leave it out for none")
    if deadline_s is None or highest is not Priority.INTERACTIVE:
        deadline_s = inf
    return Urgency(priority, deadline_s, standard if highest is Priority.BULK else targets)


def _lower(asked: Priority, highest: Priority) -> Priority:
    return highest if WEIGHT[asked] > WEIGHT[highest] else asked


def read_tenant(scope: Scope) -> str:
    """Whose request it is; empty if it does not say.

    Raises:
        RequestError: if the name is too long.
    """
    value = header(scope, TENANT)
    if value is None:
        return ""
    tenant = value.decode("latin-1")
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
    if value is None or value.strip() in (b"0", b"0.0"):
        return default_s if value is None else 0.0
    least, most = LEAST_KEEPALIVE_S, LONGEST_KEEPALIVE_S
    what = f"a number of seconds from {least:g} to {most}, or 0 for none"
    return read_number(KEEPALIVE_S, value, least, most, what)


def read_number(name: bytes, value: bytes, least: float, most: float, what: str) -> float:
    """A header's number, within bounds that `what` tells: never one that is infinite, or none.

    Python alone would take ``1_000`` for one.

    Raises:
        RequestError: if it is none of those.
    """
    try:
        number = least - 1.0 if b"_" in value else float(value)
    except ValueError:
        number = least - 1.0
    if not least <= number <= most:
        raise RequestError(f"The header '{name.decode()}' must be {what}.", param=name.decode())
    return number


def _priority(value: bytes | None, usual: Priority) -> Priority:
    if value is None:
        return usual
    try:
        return Priority(value.decode("latin-1").strip())
    except ValueError as error:
        name = PRIORITY.decode()
        message = f"The header '{name}' must be one of {', '.join(Priority)}."
        raise RequestError(message, param=name) from error


def _target_s(scope: Scope, names: tuple[bytes, ...], default_s: float) -> float:
    """By the first of the headers that is there."""
    found = (_milliseconds(scope, name, "leave it out for the default") for name in names)
    return next((seconds for seconds in found if seconds is not None), default_s)


def _milliseconds(scope: Scope, name: bytes, otherwise: str) -> float | None:
    """Seconds; None if it is not there."""
    value = header(scope, name)
    if value is None:
        return None
    what = (
        f"a number of milliseconds from {LEAST_TARGET_MS:g} to {LONGEST_MS} (a week); {otherwise}"
    )
    return read_number(name, value, LEAST_TARGET_MS, LONGEST_MS, what) / 1000
