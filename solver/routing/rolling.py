"""Rolling horizon and late binding: what is unsent is planned again and again, and sent late.

Rules:
- planned together are the first `WINDOW` of what is unsent, or as many as workers have room for a
  few times over, by what they cost all together (`solver.routing.objective`), on top of what the
  workers still have to do;
- sent is only what a worker can start soon (`solver.routing.assign`); who is held back for a better
  worker stands in a line of its own (`solver.routing.held`), and the rest stays and is planned
  again; its length is predicted again as others end, and with it its place in the order;
- bulk work and what somebody waits for are planned apart, whichever is first in the order first,
  as they find different workers where engines let bulk work step back (`WorkerView.online`);
- they are looked at in the order of `solver.routing.order`; nobody who could start stands behind
  those who cannot: each group of requests that the same workers may serve takes part with its own
  first; where several tenants wait, they take turns (`solver.routing.fair`), each with who finds
  its prompt in a cache first (`solver.routing.warm`), and who comes back is planned before the
  others, on workers that have any room;
- a single worker gets everything, as there is nothing to decide; live, where it may die or others
  may join, it does not (`hold_back`).

The simulator's dispatcher and the live gateway drive the same object: they add requests, `select`
what to plan, let a planner assign it, and carry out what `bind` then yields, one by one. Unsent
requests are kept by who may serve them, so that thousands cost no more than the few that are
planned; whoever changes what workers may serve says so (`regroup`). Who comes while nobody waits
can be planned without a place in any queue (`select_alone`, `bind_alone`), to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from math import inf
from typing import Generic, Protocol, TypeVar

from solver.arrays import FloatArray
from solver.routing.asked import Asked
from solver.routing.assign import Assignment
from solver.routing.charges import Size
from solver.routing.columns import Load, Requests, row_of
from solver.routing.fair import BACK_S, FairShares, TenantsQueue, Weight, alike
from solver.routing.fleet import Fleet
from solver.routing.grouped_queue import Entry, Members, merged
from solver.routing.held import Held, placed_by
from solver.routing.lines import Group
from solver.routing.order import Late, Timed, Unsent, moves_s, place_in_order
from solver.routing.problem import Job, WorkerView
from solver.routing.sums import Backlog
from solver.routing.warm import Warm
from solver.routing.window import CloseReason, Window, WindowPolicy

# Windows as the gateway has them by default.
WINDOW_WAIT_S, WINDOW_SIZE = 0.02, 512
# Requests planned together, and how many for each that a worker has room for: who comes later would
# be planned again before it could go.
WINDOW, WINDOW_ROOMS = 64, 4
# With each plan so many of all that wait are predicted again and find their place anew: who came
# before anything was known would else stand behind all who came later, were they alike.
AGAIN = 8
# Beyond its slots a worker is sent this share of them ahead, so that none falls idle and its own
# policy sees who would join a stage.
LEAD = 1 / 8
# While several tenants wait it is no more than that, but for who comes back: what has been sent
# ahead is in the way of whoever's turn comes next. A quarter of it is company enough for a policy
# to share stages.
SHARED_LEAD = 1 / 32


def lead(slots: int, least: int = 0) -> int:
    """Requests that a worker is sent beyond its slots; one of few slots only what it can start.

    Live that is one at `least`, as messages take their time while a slot stands empty.
    """
    return max(least, int(LEAD * slots))


class Target(Timed, Hashable, Protocol):
    """A worker, as far as its load goes."""

    @property
    def room(self) -> int:
        """Requests that it could start soon: free slots and a lead, 0 where memory is full."""
        ...

    @property
    def online_room(self) -> int:
        """The same of requests for which bulk work, and what is paced, steps back there."""
        ...

    @property
    def divides(self) -> bool:
        """Whether the answers of one request take turns there with others'."""
        ...

    def room_for(self, job: Job) -> int:
        """The same of one request; one of several answers may wait for its tenant's last."""
        ...

    def view(self, now: float) -> WorkerView:
        """As the planner sees it."""
        ...


R = TypeVar("R", bound=Unsent)
W = TypeVar("W", bound=Target)
# The indices of the workers that may serve a request; None: all of them.
Eligible = Callable[[R, Sequence[W]], Members]
# (n, m) prompt tokens of each request that each worker holds in its prefix cache.
Cached = Callable[[Sequence[R], Sequence[W]], FloatArray | None]

# Output tokens that a worker has made of a request by now; None: nobody sees them.
Made = Callable[[R, W], float | None]


@dataclass(slots=True, eq=False)
class Selection(Generic[R, W]):
    """What is planned together: request i and worker j are row i and column j of `sizes`.

    `load` is what the workers have; `views` the same as they told it; `asked` all of it in plain
    numbers; `window` is the last one that closed; `single_worker`: there is one worker, and it gets
    everything; `ahead_s`: by how much sooner their turns count as having come; None: tenants do not
    take turns.
    """

    requests: Sequence[R]
    workers: Sequence[W]
    views: Sequence[WorkerView]
    asked: Asked
    window: Window[R] | None
    single_worker: bool = False
    ahead_s: float | None = None

    @property
    def sizes(self) -> Requests:
        """As arrays."""
        return self.asked.requests

    @property
    def load(self) -> Load:
        """As arrays."""
        return self.asked.load


NOBODY = frozenset[int]()


class RollingHorizon(Generic[R, W]):
    """See the module.

    Attributes:
        elsewhere: what waits at other senders for the same workers; here it is not planned.
        shares: what each tenant has had; whoever knows what a request took at its end settles it.
    """

    def __init__(
        self,
        *,
        max_wait_s: float = WINDOW_WAIT_S,
        max_size: int = WINDOW_SIZE,
        hold_back: bool = False,
        eligible: Eligible[R, W] = lambda _, __: None,
        cached: Cached[R, W] = lambda _, __: None,
        made: Made[R, W] = lambda _, __: None,
        weight: Weight = alike,
    ) -> None:
        self.elsewhere = Backlog()
        self.shares: FairShares[R] = FairShares(weight)
        self._hold_back, self._eligible, self._cached = hold_back, eligible, cached
        self._made = made
        self._windows: WindowPolicy[R] = WindowPolicy(max_wait_s, max_size)
        self._unsent: TenantsQueue[R] = TenantsQueue(self.shares)
        self._stale = False
        self._closed: Window[R] | None = None
        self._fleet: Fleet[W] = Fleet()
        self._held: dict[bool, Held[R, W]] = {False: Held(), True: Held()}  # of bulk work, or not
        self._late: Late[R] = Late()
        self._warm: Warm[R, Group] = Warm()

    def __len__(self) -> int:
        """Requests that have not been sent."""
        held = self._held
        return len(self._windows) + len(self._unsent) + len(held[False]) + len(held[True])

    @property
    def unplanned(self) -> int:
        """Of these, those that are not held back for a worker in particular."""
        return len(self._windows) + len(self._unsent)

    def add(self, request: R, now: float) -> None:
        """It joins the open window."""
        self.shares.see(request.job.tenant)
        self._windows.add(request, now)

    def discard(self, request: R) -> None:
        """Its client has left; unknown ones are ignored."""
        self._late.forget((request,))
        self._warm.forget((request,))
        self.shares.leave(request)
        held = self._held[request.job.bulk]
        if not (self._unsent.discard(request) or held.discard(request)):
            self._windows.discard(request)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself, or who is held back should look around again."""
        held = (one.next_deadline() for one in self._held.values())
        every = self._windows.next_deadline(), *held
        return min((at_s for at_s in every if at_s is not None), default=None)

    def regroup(self) -> None:
        """The workers, or what they may serve, have changed."""
        self._stale = True

    def pop_ineligible(self) -> list[R]:
        """Those out of closed windows that nobody may serve, as of `select`; they are let go."""
        gone = self._unsent.pop_members(NOBODY)
        for request in gone:
            self.shares.leave(request)
        self._late.forget(gone)
        self._warm.forget(gone)
        return gone

    def select(self, now: float, workers: Sequence[W]) -> Selection[R, W] | None:
        """Close windows that are due; what to plan, if somebody has room for it."""
        if not len(self):
            return None
        alone = len(workers) == 1 and not (self._hold_back or self.shares.several)
        free = alone or any(worker.online_room > 0 for worker in workers)
        if self._stale:
            for held in self._held.values():
                for request, rank in held.release(now, (), (), 0):
                    self._unsent.put_for(request, rank, None)
            self._unsent.regroup_members(lambda request: self._eligible(request, workers))
            self._stale = False
        self._close(now, workers, free=free)
        if not free:
            for held in self._held.values():
                held.put_off(now)
            return None
        if alone and len(self._unsent):
            self._fleet.look(workers, now)
            # A single worker's in the order of arrival: it has an order of its own.
            requests = self._unsent.by_arrival()
            return self._selection(now, workers, requests, single_worker=True)
        return self._select_kind(now, workers)

    def select_alone(self, request: R, now: float, workers: Sequence[W]) -> Selection[R, W] | None:
        """As `add` and `select` for one who comes while nobody waits; it stays the caller's.

        None where it is to be added: no worker of its has room, or there is more to weigh.
        """
        shares, job, more = self.shares, request.job, self.elsewhere
        shares.see(job.tenant)
        weighed = job.bulk or job.sequences > 1 or shares.several or shares.in_turns(now)
        if self._stale or weighed or len(self):
            return None
        self._fleet.look(workers, now)
        self._fleet.closed = ()
        room, members = self._fleet.room, self._eligible(request, workers)
        if not any(room if members is None else [room[j] for j in members]):
            return None
        self._closed = Window((request,), now, now, CloseReason.WORKER_FREE)
        waiting = (
            1 + more.requests,
            job.prompt_tokens + more.prompt_tokens,
            job.expected_tokens + more.output_tokens,
        )
        request.predict_again()
        columns = None if members is None else [members]
        return self._ask(now, workers, [request], columns, waiting, None)

    def bind_alone(self, selection: Selection[R, W], plan: Assignment, now: float) -> W | None:
        """Where the one of `select_alone` is sent at once; None: it is to be added."""
        j = plan.workers[0]
        if not (plan.go[0] and self._fleet.room[j] > 0):
            return None
        self._fleet.sent(j, selection.asked.prefill_s(0, j), now)
        return selection.workers[j]

    def _select_kind(self, now: float, workers: Sequence[W]) -> Selection[R, W] | None:
        """Some of bulk work, or of other, if any worker is open for them."""
        for bulk in self._kinds(now):
            if some := self._some(now, workers, bulk=bulk):
                selection = self._selection(now, workers, some, single_worker=False)
                if selection.asked.open:
                    return selection
        return None

    def _kinds(self, now: float) -> list[bool]:
        """Whether bulk work waits, and other.

        Whichever has somebody held who is to look around comes first, or else whichever is first in
        the order: so nobody's turn to look waits for others who cannot be sent.
        """
        first: dict[bool, float] = {bulk: inf for bulk, held in self._held.items() if len(held)}
        for key, entries in self._unsent.groups.items():
            if entries:
                first[key.bulk] = min(entries[0][0], first.get(key.bulk, inf))
        late = {bulk: self._held[bulk].is_late(now) for bulk in first}
        return sorted(first, key=lambda bulk: (not late[bulk], first[bulk], bulk))

    def _some(self, now: float, workers: Sequence[W], *, bulk: bool) -> Sequence[R]:
        """The first of bulk work, or of other, that somebody has room for."""
        if bulk and not any(worker.room > 0 for worker in workers):
            self._held[bulk].put_off(now)
            return ()
        self._fleet.look(workers, now, bulk=bulk)
        kept = self._kept_free() if self.shares.contended else ()
        self._fleet.closed = kept
        self._release(now, workers, bulk=bulk)
        if kept and self.shares.any_back:
            self._fleet.closed = ()
            if back := list(takewhile(self._is_back, self._first(now, bulk=bulk))):
                return back
            self._fleet.closed = kept
        return self._first(now, bulk=bulk)

    def _is_back(self, request: R) -> bool:
        return self.shares.is_back(request) and not request.job.bulk

    def _close(self, now: float, workers: Sequence[W], *, free: bool) -> None:
        """Close the windows that are due."""
        prompt_s, round_s = 0.0, 0.0
        if workers and len(self._windows):
            prompt_s, round_s = workers[0].cost.beta_p_s, workers[0].round_s
        while (window := self._windows.poll(now, worker_free=free)) is not None:
            self._closed = window
            for request in window.items:
                rank = place_in_order(request, prompt_s, round_s) if workers else now
                members = self._eligible(request, workers)
                whole = self._is_whole(request, members, workers)
                self.shares.join(request, request.job.tenant, whole=whole)
                self._unsent.put_for(request, rank, members)
        self._place_again(workers)

    def _place_again(self, workers: Sequence[W]) -> None:
        """The next `AGAIN` of all that wait, with what has been learnt of their lengths."""
        if not workers:
            return
        for _ in range(min(AGAIN, len(self._unsent))):
            request = self._unsent.next_in_turn()
            request.predict_again()
            if grown := self._unsent.grown(request):
                self._unsent.move(request, moves_s(request.job, grown, workers[0].round_s))

    def _release(self, now: float, workers: Sequence[W], *, bulk: bool) -> None:
        """Who was held back, and may go now or should look around again."""
        held = self._held[bulk]
        if not len(held):
            return
        for request, rank in held.release(now, set(workers), set(self._fleet.open()), WINDOW):
            self._unsent.put_for(request, rank, self._eligible(request, workers))

    def _kept_free(self) -> list[int]:
        """(m,) places of each worker's lead that nobody is sent to while tenants take turns."""
        return [lead(view.slots) - int(SHARED_LEAD * view.slots) for view in self._fleet.views]

    def _first(self, now: float, *, bulk: bool) -> list[R]:
        """The first of each group that somebody has room for, in order; tenants take turns."""
        room, groups = self._fleet.room, self._unsent.groups
        places = {
            members: sum(room) if members is None else sum(room[j] for j in members)
            for members in dict.fromkeys(
                key.members for key in groups if key.bulk is bulk and groups[key]
            )
        }
        counts = {members: min(WINDOW, WINDOW_ROOMS * n) for members, n in places.items() if n}
        mine = {key: entries for key, entries in groups.items() if key.bulk is bulk and entries}
        keys = [key for key in mine if key.members in counts]
        for key in keys:
            self._late.let_pass(self._unsent, groups[key][:WINDOW], now)
        most = max(1, WINDOW // max(1, len(counts)))
        each = {members: min(count, most) for members, count in counts.items()}
        if not self.shares.contended:
            return merged([groups[key][: each[key.members]] for key in keys])
        lines = {
            key: self._not_behind_their_own(
                self._warm.first(key, groups[key], each[key.members], self._held_tokens, now)
            )
            for key in keys
        }
        return self.shares.in_turn(
            lines, each, self._slot_s, now, lambda request: self._at_once_s(request, now)
        )

    def _held_tokens(self, requests: Sequence[R]) -> FloatArray | None:
        return self._cached(requests, self._fleet.workers)

    def _not_behind_their_own(self, line: list[Entry[R]]) -> list[Entry[R]]:
        """Without those of several answers that nobody has room for: they are in nobody's way."""
        if all(entry[2].job.sequences == 1 for entry in line):
            return line
        return [
            entry
            for entry in line
            if entry[2].job.sequences == 1
            or any(worker.room_for(entry[2].job) > 0 for worker in self._fleet.workers)
        ]

    def _slot_s(self, request: R) -> float:
        """What it is expected to take."""
        return _size(self._typical(request), request).slot_s

    def _at_once_s(self, request: R, now: float) -> float:
        """What comes of it beyond a first answer before anybody else's, if it goes now.

        For as long as it would keep others waiting they may go before; then it has waited enough.
        """
        members = self._unsent.key(request).members
        if not self._is_whole(request, members, self._fleet.workers):
            return 0.0
        size = _size(self._typical(request), request)
        if now > request.came_s + size.lasts_s:
            return 0.0
        return size.slot_s * (1 - 1 / size.answers)

    @staticmethod
    def _is_whole(request: R, members: Members, workers: Sequence[W]) -> bool:
        """Whether it has several answers, and nobody who may serve it can divide them."""
        if request.job.sequences == 1:
            return False
        able = workers if members is None else [workers[j] for j in members]
        return not any(worker.divides for worker in able)

    def _typical(self, request: R) -> WorkerView:
        """The first worker that may serve it: by it is counted what the request takes."""
        return self._fleet.views[min(self._unsent.key(request).members or (0,))]

    def _selection(
        self, now: float, workers: Sequence[W], requests: Sequence[R], *, single_worker: bool
    ) -> Selection[R, W]:
        for request in requests:
            request.predict_again()
        unsent, more = self._unsent, self.elsewhere
        held = [one for one in self._held.values() if len(one)]
        waiting = (
            len(unsent) + sum(map(len, held)) + more.requests,
            unsent.prompt_tokens + sum(one.prompt_tokens for one in held) + more.prompt_tokens,
            unsent.output_tokens + sum(one.output_tokens for one in held) + more.output_tokens,
        )
        if held and not requests[0].job.bulk:  # bulk work that is held is in nobody's way
            held = [self._held[False]]
        in_turn, back = self.shares.in_turns(now), self._is_back(requests[0])
        columns = self._columns(requests, len(workers))
        found = self._ask(now, workers, requests, columns, waiting, placed_by(held, workers))
        found.ahead_s = (BACK_S if back else 0.0) if in_turn else None
        found.single_worker = single_worker
        return found

    def _ask(
        self,
        now: float,
        workers: Sequence[W],
        requests: Sequence[R],
        columns: Sequence[frozenset[int]] | None,
        waiting: tuple[int, float, float],
        placed: FloatArray | None,
    ) -> Selection[R, W]:
        """On the fleet as it was looked at last."""
        rows = [row_of(request.job, max(0.0, now - request.came_s)) for request in requests]
        cached = self._cached(requests, workers)
        asked = self._fleet.asked(rows, cached, columns, waiting, placed, now)
        return Selection(requests, workers, tuple(self._fleet.views), asked, self._closed)

    def _columns(self, requests: Sequence[R], workers: int) -> Sequence[frozenset[int]] | None:
        """For each request who may serve it; None if all may."""
        if all(key.members is None for key in self._unsent.groups):
            return None
        everybody = frozenset(range(workers))
        found = (self._unsent.key(request).members for request in requests)
        return [everybody if members is None else members for members in found]

    def go_on(self, plan: Assignment, sent: int, before: int) -> bool:
        """Whether to plan others at once: some have not been, and this plan led to something.

        `before` were unplanned before its selection.
        """
        left = self.unplanned
        return plan.planned == len(plan.workers) and left > 0 and (sent > 0 or left < before)

    def bind(
        self, selection: Selection[R, W], plan: Assignment, now: float
    ) -> Iterator[tuple[int, W]]:
        """Who is sent, by place in the selection, and where, as long as there is room.

        The rest stays. Each is to be carried out before the next one is asked for.
        """
        closed, unsent, sent = self._fleet.closed, self._unsent, list[R]()
        try:
            for i, (request, j) in enumerate(zip(selection.requests, plan.workers, strict=True)):
                goes = selection.single_worker or plan.go[i]
                if not (goes or i < plan.planned) or request not in unsent:
                    continue
                worker, seconds = selection.workers[j], selection.asked.prefill_s(i, j)
                if not goes:
                    rank = unsent.rank(request)
                    unsent.discard(request)
                    self._held[request.job.bulk].put(request, rank, worker, seconds, now)
                    continue
                kept = closed[j] if closed else 0
                if selection.single_worker or worker.room_for(request.job) > kept:
                    if self.shares.several:
                        self._charge(request, selection, (i, j), now)
                    self.shares.leave(request)
                    unsent.discard(request)
                    sent.append(request)
                    self._fleet.sent(j, seconds, now)
                    yield i, worker
        finally:
            self._late.forget(sent)
            self._warm.forget(sent)

    def _charge(
        self, request: R, selection: Selection[R, W], at: tuple[int, int], now: float
    ) -> None:
        """It is sent to the worker that is `at` that row and column."""
        worker, view = selection.workers[at[1]], selection.views[at[1]]
        uncached = selection.asked.uncached(*at)
        size = _size(self._typical(request), request, uncached)
        lasts_s = _size(view, request, uncached).lasts_s
        made = partial(self._made, request, worker)
        self.shares.charge(request, request.job.tenant, size, now, lasts_s, made)


def _size(view: WorkerView, request: Unsent, uncached: float | None = None) -> Size:
    """As it is charged; `uncached` tokens of its prompt, if that is known."""
    job = request.job
    prompt = float(job.prompt_tokens if uncached is None else uncached)
    return Size(view.cost, view.slots, prompt, job.charged_tokens, job.sequences)
