"""What peers hear of a worker's load is told now and then, and in the end as it is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.worker import Worker
from router.gateway.peers import sends as sends_module
from router.gateway.peers.peers import Peers
from router.gateway.peers.sends import Sends
from router.gateway.planning.sharing import IDLE_S, Sharing
from router.http.connections import Connections
from router.wire import STATE_EVERY_S
from solver.cost.profiles import PROFILES
from solver.routing.elsewhere import Elsewhere
from solver.routing.fair import FairShares
from solver.routing.problem import Job
from solver.routing.slots import PlainSlots
from solver.routing.sums import NOTHING, Backlog, LoadSums
from tests.router.gateway.test_peers import Link

URL, JOB = "http://a", Job(50, 20.5)


class Board:
    """What another process of the gateway has at workers."""

    def __init__(self) -> None:
        self.there = dict[str, LoadSums]()

    def held(self, url: str) -> LoadSums:
        return self.there.get(url, NOTHING)

    def __getattr__(self, name: str) -> Callable[..., object]:
        """Whatever else siblings are asked, they have nothing."""
        answers = {"backlog": Backlog(), "tenants": Elsewhere()}
        return lambda *_: answers.get(name, 0)


class Fleet(list[Worker]):
    """All workers."""

    on_shared = None


class Planning:
    """Nobody waits."""

    def __init__(self) -> None:
        self.backlog, self.shares = Backlog(), FairShares[Any](lambda _: 1.0)

    def tell_elsewhere(self, backlog: Backlog) -> None:
        """Nobody plans."""

    def reconsider(self) -> None:
        """Nobody waits."""


# What this process or its sibling does, that either is planned otherwise, and that time passes.
STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.sampled_from(["sent", "made", "ended"]), st.integers(0, 4)),
            st.tuples(st.sampled_from(["sibling", "rank"]), st.integers(0, 2)),
            st.tuples(st.sampled_from(["look", "read", "full"]), st.just(0)),
        ),
        st.sampled_from([0.0, 0.01, IDLE_S, STATE_EVERY_S]),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_changes_and_however_fast_peers_hear_in_the_end_what_is_there(
    steps: list[tuple[tuple[str, int], float]],
) -> None:
    """At the latest with the look after `STATE_EVERY_S`; and of what was there once, no more."""
    now_s = 100.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sends_module, "time", SimpleNamespace(monotonic=lambda: now_s))
        sends, board = Sends("one"), Board()
        siblings: Any = board
        link = Link(sends, most=3)
        worker = Worker(URL, PlainSlots(4), PROFILES["llama-65b-ascend"].cost)
        worker.siblings, worker.peers = siblings, Peers(sends)
        workers: Any = Fleet([worker])
        sharing = Sharing(workers, Planning(), Connections(), siblings, worker.peers)
        for (what, k), pause_s in steps:
            now_s += pause_s
            if what == "sent":
                worker.sent(k, JOB, 0, now_s, streamed=True)
            elif what == "made":
                worker.load.progress(k, 1)
            elif what == "ended":
                worker.ended(k)
            elif what == "sibling":
                board.there[worker.place] = LoadSums(k, k, 100 * k)
            elif what == "rank":
                worker.use_rank(k - 1 if k else None)
            elif what == "look":
                sharing.look(now_s)
            elif what == "read":
                link.read()
        board.there = {worker.place: board.held(worker.place)}
        now_s += STATE_EVERY_S
        sharing.look(now_s)
        link.read()
    there = worker.load.own + board.held(worker.place)
    assert link.heard.held == ({} if there == NOTHING else {worker.place: there})
