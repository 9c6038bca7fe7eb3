"""Failures on request, so that those who depend on an engine can be tested.

An emulated engine that was started with ``--faults`` obeys the header ``x-makespan-fault``:
``latency=SECONDS`` before the request is queued, ``status=CODE`` instead of an answer, ``stall``
(no answer, ever), ``crash=N`` (the process dies after N tokens), ``break=N`` (the engine breaks
down instead of making one more than N tokens). Several go together by comma.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from router.http.errors import RequestError, RouterError

HEADER = b"x-makespan-fault"


class InjectedFault(RouterError):
    """An answer with the status that was asked for."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Injected fault: status {status}.", code="injected_fault")
        self.status = status


class InjectedBreakdown(Exception):
    """What an engine that was asked to break down raises."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is to go wrong with one request."""

    latency_s: float = 0.0
    status: int | None = None
    stall: bool = False
    crash_after: int | None = None
    break_after: int | None = None

    async def inject(self) -> None:
        """What goes wrong before the request is queued.

        Raises:
            InjectedFault: if it is to be answered with a status.
        """
        await asyncio.sleep(self.latency_s)
        if self.stall:
            await asyncio.Event().wait()
        if self.status is not None:
            raise InjectedFault(self.status)


NO_FAULTS = Faults()


def parse_faults(value: bytes | None) -> Faults:
    """Read the header.

    Raises:
        RequestError: naming the part that makes no sense.
    """
    if value is None:
        return NO_FAULTS
    latency, status, stall = 0.0, None, False
    after: dict[str, int] = {}
    for part in value.decode("latin-1").split(","):
        name, _, argument = part.strip().partition("=")
        try:
            if name == "latency":
                latency = _seconds(float(argument))
            elif name == "status":
                status = _status(int(argument))
            elif name == "stall" and not argument:
                stall = True
            elif name in ("crash", "break"):
                after[name] = int(argument)
            else:
                raise ValueError
        except ValueError as error:
            known = "latency=SECONDS, status=CODE, stall, crash=TOKENS or break=TOKENS"
            message = f"'{part}' is not {known}."
            raise RequestError(message, param=HEADER.decode()) from error
    return Faults(latency, status, stall, after.get("crash"), after.get("break"))


def _status(code: int) -> int:
    if not 400 <= code <= 599:
        raise ValueError
    return code


def _seconds(value: float) -> float:
    if not 0 <= value <= 3600:
        raise ValueError
    return value
