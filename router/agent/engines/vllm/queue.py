"""vLLM's waiting queue, in our order.

Rules:
- those who were preempted go first, the last one before the others, as vLLM has it; but bulk work,
  which waits again as it did at first;
- the rest by rank: longest first, within the head starts of their priorities
(`solver.batching.queue`);
- who is put back because it cannot start yet keeps its rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from router.agent.engines.vllm.known import KnownRequests
from solver.batching.online import OnlineHere
from solver.batching.outside.follow import Follower
from solver.batching.queue import LongestFirstQueue
from solver.batching.sequence import Sequence


class RankedRequestQueue(RequestQueue):
    """By rank; see the module. Iterating gives all, not in order of their ranks."""

    def __init__(self, follower: Follower, known: KnownRequests, online: OnlineHere) -> None:
        """`online` hears who waits."""
        self._follower, self._known, self._online = follower, known, online
        self._preempted: deque[Request] = deque()
        self._queue = LongestFirstQueue(follower.rank)
        self._waiting: dict[str, tuple[Request, Sequence]] = {}
        self._planned: deque[Request] = deque()

    def next_of(self, count: int) -> list[Request]:
        """The first `count`, in the order in which they are popped until something changes.

        Bulk work among them that others wait behind has its turn.
        """
        ranked = self._follower.next_of(self._queue, count - len(self._preempted))
        self._online.take_turns(ranked)
        self._planned = deque(self._waiting[sequence.id][0] for sequence in ranked)
        return [*self._preempted, *self._planned][:count]

    def add_request(self, request: Request) -> None:
        """It has come, or may start at last."""
        sequence = self._known.refreshed(request)
        self._queue.add(sequence)
        self._online.queued(sequence, 1)
        self._waiting[sequence.id] = request, sequence
        self._planned.clear()

    def prepend_request(self, request: Request) -> None:
        """It is put back."""
        lost = request.status is RequestStatus.PREEMPTED
        if lost and not self._known.refreshed(request).is_bulk:
            self._preempted.appendleft(request)
        else:
            self.add_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """They are put back, the last one first."""
        for request in requests:
            self.prepend_request(request)

    def peek_request(self) -> Request:
        """Who is next."""
        if self._preempted:
            return self._preempted[0]
        if not self._planned:
            if not self._waiting:
                raise IndexError("peek from an empty queue")
            first = self._queue.head([0], self._follower.progress.remaining)[0]
            self._planned.append(self._waiting[first.id][0])
        return self._planned[0]

    def pop_request(self) -> Request:
        """Who is next leaves."""
        request = self.peek_request()
        if self._preempted:
            return self._preempted.popleft()
        self._planned.popleft()
        self._drop(request)
        return request

    def remove_request(self, request: Request) -> None:
        """It leaves, wherever it stands."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """They leave; those that are not here are ignored."""
        for request in requests:
            if request in self._preempted:
                self._preempted.remove(request)
            elif self._waiting.get(request.request_id, (None,))[0] is request:
                self._planned.clear()
                self._drop(request)

    def _drop(self, request: Request) -> None:
        _, sequence = self._waiting.pop(request.request_id)
        self._queue.discard(sequence)
        self._online.queued(sequence, -1)

    def __bool__(self) -> bool:
        return bool(self._preempted or self._waiting)

    def __len__(self) -> int:
        return len(self._preempted) + len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        yield from self._preempted
        for request, _ in self._waiting.values():
            yield request
