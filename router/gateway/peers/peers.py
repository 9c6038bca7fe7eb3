"""All gateways that tell, together: what they have at workers, and what waits in them for room."""

from __future__ import annotations

from router.gateway.peers.heard import Books, Heard
from router.gateway.peers.sends import Sends
from solver.routing.sums import NOTHING, Backlog, LoadSums


class Peers:
    """Gateways elsewhere that tell, by what they have told; what this one has, `sends` tells them.

    Attributes:
        count: how many they are.
        wanting, backlog: in how many requests wait for room, and how much.
    """

    def __init__(self, sends: Sends) -> None:
        self._sends, self._all = sends, dict[str, Heard]()
        self._held = dict[str, LoadSums]()
        self.count, self.wanting, self.backlog = 0, 0, Backlog()

    def tell(self, place: str, held: LoadSums) -> None:
        """This gateway has this in flight at a worker."""
        self._sends.hold(place, held)

    def wait(self, backlog: Backlog) -> None:
        """What waits in this gateway for room."""
        self._sends.wait(backlog)

    def held(self, place: str) -> LoadSums:
        """What they have in flight at a worker, all together."""
        return self._held.get(place, NOTHING)

    def join(self, gateway: str, books: Books) -> Heard | None:
        """Somebody begins to tell; None: that gateway does already."""
        if gateway in self._all:
            return None
        heard = self._all[gateway] = Heard(books, self._add_up)
        self.look()
        return heard

    def leave(self, gateway: str) -> None:
        """It tells no more."""
        self._all.pop(gateway).forget()
        self.look()

    def look(self) -> None:
        """They, and what waits in them, may be others since the last time."""
        self.count = len(self._all)
        waiting = [one.waiting for one in self._all.values()]
        self.wanting = sum(one.requests > 0 for one in waiting)
        self.backlog = sum(waiting, Backlog())

    def _add_up(self, place: str) -> None:
        found = NOTHING
        for one in self._all.values():
            found = found + one.held.get(place, NOTHING)
        if found == NOTHING:
            self._held.pop(place, None)
        else:
            self._held[place] = found
