"""What others than this process have at a worker: its siblings, and gateways elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from router.wire import Beside
from solver.routing.elsewhere import Elsewhere, Tenant
from solver.routing.sums import Backlog, LoadSums


class Siblings(Protocol):
    """The other processes of this gateway, by what each tells of itself."""

    def tell(self, url: str, own: LoadSums) -> None:
        """This process has this in flight at a worker."""
        ...

    def wait(self, backlog: Backlog) -> None:
        """What waits in this process for room."""
        ...

    def held(self, url: str) -> LoadSums:
        """What the others have in flight at a worker, all together."""
        ...

    def wanting(self) -> int:
        """In how many others requests wait for room."""
        ...

    def backlog(self) -> Backlog:
        """What waits in the others, all together."""
        ...

    def tell_tenants(self, tenants: Sequence[Tenant], now: float) -> None:
        """What tenants have had of this process, and who waits in it."""
        ...

    def tenants(self, known: Collection[str], now: float) -> Elsewhere:
        """What they have had of the others, and who waits there; by name those that are known."""
        ...

    def content(self, url: str) -> int:
        """Sequences at a worker of those whose requests do not wait."""
        ...


class Peers(Protocol):
    """Gateways elsewhere, as far as they tell each other what they send.

    Attributes:
        count: how many of them do.
        wanting, backlog: in how many of them requests wait for room, and how much.
    """

    count: int
    wanting: int
    backlog: Backlog

    def tell(self, place: str, held: LoadSums) -> None:
        """This gateway has this in flight at a worker that tells of none of it."""
        ...

    def wait(self, backlog: Backlog) -> None:
        """What waits in this gateway for room."""
        ...

    def held(self, place: str) -> LoadSums:
        """What they have in flight at a worker, all together."""
        ...


def sums_of(beside: Beside) -> LoadSums:
    """Others' requests at an agent, as a load has them."""
    return LoadSums(
        sequences=beside.sequences,
        prefills=max(0, beside.sequences - beside.begun),
        prompt_tokens=max(0, beside.prompt_tokens - beside.prefilled),
        output_tokens=beside.left,
        kv_tokens=beside.prefilled + beside.made,
        kv_reserved=beside.prompt_tokens + beside.made + beside.left,
    )
