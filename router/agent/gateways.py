"""Whose requests are here: several gateways may send to one agent, and none sees the others.

Rules:
- each gateway is told what others have here (`beside`), so that each plans with the whole load;
- who comes to a full worker, slots and lead taken, is refused if several send: each had sent only
  what it saw room for, and may plan it anew;
- a gateway whose requests wait, and which has found no room here, says so, and for `WANTS_S` the
  others are told: they leave it its share (`solver.routing.share`).

Whatever comes from no gateway is somebody else's for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.http.errors import WorkerFullError
from router.wire import WANTS_S, Beside, Want, gateway_of
from solver.routing.rolling import lead

# Who has not asked for so long is gone: even of a busy machine twice a second is seldom so late.
FORGET_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A request here; `made` tells its output tokens so far."""

    gateway: str
    sequences: int
    prompt_tokens: int
    expected_tokens: float
    made: Callable[[], int]


class Gateways:
    """See the module."""

    def __init__(self) -> None:
        self._held: set[_Held] = set()
        self._asked_s: dict[str, float] = {}  # when each has last asked for the state
        self._wants: dict[str, tuple[float, Want]] = {}

    @contextmanager
    def hold(
        self,
        attempt: str | None,
        sequences: int,
        prompt_tokens: int,
        expected_tokens: float,
        made: Callable[[], int],
    ) -> Iterator[None]:
        """For as long as a request is here; both figures are those of all its sequences."""
        held = _Held(gateway_of(attempt), sequences, prompt_tokens, expected_tokens, made)
        self._held.add(held)
        try:
            yield
        finally:
            self._held.discard(held)

    def check_room(self, attempt: str | None, slots: int) -> None:
        """Whether a gateway's request may come.

        One that does not say who it is when it asks for the state knows of no refusals.

        Raises:
            WorkerFullError: if others have requests here, too, and all together fill it.
        """
        gateway = gateway_of(attempt)
        if gateway not in self._asked_s:
            return
        if all(held.gateway == gateway for held in self._held):
            return
        if sum(held.sequences for held in self._held) >= slots + lead(slots, 1):
            raise WorkerFullError

    def want(self, gateway: str, want: Want) -> None:
        """It would send so much more if there was room."""
        now = time.monotonic()
        fresh = {name: told for name, told in self._wants.items() if now - told[0] <= WANTS_S}
        self._wants = {**fresh, gateway: (now, want)}

    def beside(self, gateway: str) -> Beside:
        """What all others have here."""
        now = time.monotonic()
        if gateway not in self._asked_s:  # they come and go
            since_s = now - FORGET_S
            self._asked_s = {name: at for name, at in self._asked_s.items() if at > since_s}
        self._asked_s[gateway] = now
        others = [held for held in self._held if held.gateway != gateway]
        made = [held.made() for held in others]
        left = (
            max(1.0, one.expected_tokens - done) for one, done in zip(others, made, strict=True)
        )
        begun = [(one, done) for one, done in zip(others, made, strict=True) if done]
        wants = [
            want
            for name, (since_s, want) in self._wants.items()
            if name != gateway and now - since_s <= WANTS_S
        ]
        return Beside(
            sequences=sum(one.sequences for one in others),
            begun=sum(one.sequences for one, _ in begun),
            prompt_tokens=sum(one.prompt_tokens for one in others),
            prefilled=sum(one.prompt_tokens for one, _ in begun),
            made=sum(made),
            left=float(round(sum(left))),
            wanting=len(wants),
            wanted=sum(want.requests for want in wants),
            wanted_prompt=sum(want.prompt_tokens for want in wants),
            wanted_output=sum(want.output_tokens for want in wants),
        )
