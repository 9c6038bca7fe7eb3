"""What each tenant has had, in sums that stay few however many tenants there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from router.gateway.explanations.request_record import RequestRecord
from router.http.errors import Outcome

MOST = 100  # tenants counted by name
OTHERS = "(others)"  # the rest of them


@dataclass(slots=True)
class Tally:
    """One tenant's requests that have ended, their tokens, and the engine time that they took."""

    completed: int = 0
    not_completed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    slot_s: float = 0.0


class Tenants:
    """Counts from the start; requests without a tenant count under the empty name."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def end(self, record: RequestRecord, outcome: Outcome) -> None:
        """A request has ended."""
        tally = self._tally(record.tenant)[1]
        if outcome is Outcome.COMPLETED:
            tally.completed += 1
        else:
            tally.not_completed += 1
        tally.prompt_tokens += record.prompt_tokens
        tally.output_tokens += record.output_tokens or 0

    def spend(self, tenant: str, slot_s: float) -> str:
        """It has had so many slot-seconds more; the name that it is counted by."""
        name, tally = self._tally(tenant)
        tally.slot_s += slot_s
        return name

    def _tally(self, tenant: str) -> tuple[str, Tally]:
        tally = self._tallies.get(tenant)
        if tally is not None:
            return tenant, tally
        name = tenant if len(self._tallies) < MOST else OTHERS
        return name, self._tallies.setdefault(name, Tally())

    def rows(self, running: Iterable[RequestRecord], most: int) -> list[dict[str, Any]]:
        """Those with most tokens first, and how many requests of each are in the gateway now."""
        in_flight: dict[str, int] = {}
        for record in running:
            in_flight[record.tenant] = in_flight.get(record.tenant, 0) + 1
        names = sorted(
            {*self._tallies, *in_flight},
            key=lambda name: (-self._tokens(name), -in_flight.get(name, 0), name),
        )
        return [
            {
                "tenant": name,
                "in_flight": in_flight.get(name, 0),
                **asdict(self._tallies.get(name, Tally())),
            }
            for name in names[:most]
        ]

    def _tokens(self, name: str) -> int:
        tally = self._tallies.get(name, Tally())
        return tally.prompt_tokens + tally.output_tokens
