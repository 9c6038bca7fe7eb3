"""The event loop: requests arrive, a dispatcher gives them to workers, workers run stages.

Time jumps from event to event: an arrival, the end of a stage, a dispatcher's deadline. Events at
the same time are taken together, in this order: stages end, requests arrive, requests are
dispatched, stages begin. The same input gives the same schedule, always.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf

import numpy as np

from solver.arrays import FloatArray
from solver.errors import ProblemError
from solver.lengths.predictor import again_from
from solver.routing.dispatchers.base import Arrival, Dispatcher, Ended
from solver.sim.decoding import Running
from solver.sim.forecast import Forecast, LengthForecaster
from solver.sim.request import Request
from solver.sim.worker import Worker

Progressed = Callable[[int], None]


class Fleet:
    """Workers behind a dispatcher; `run` it once.

    Attributes:
        begun_s: (n,) seconds at which each request's prefill began.
        first_s, end_s: (n,) seconds at which it had its first token, and its last.
        stall_s: (n,) seconds of its longest gap between two tokens; 0 for a single token.
        placed: (n,) which worker served it.
        uncached: (n,) prompt tokens that its cache did not hold when the request came there.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        workers: Sequence[Worker],
        dispatcher: Dispatcher,
        forecaster: LengthForecaster,
    ) -> None:
        self._requests = sorted(requests, key=lambda request: request.arrival_s)
        self.workers, self._dispatcher, self._forecaster = workers, dispatcher, forecaster
        self._events: list[tuple[float, int]] = []  # ends of stages; outdated ones are skipped
        self._arrived = self._ended = 0
        n = len(requests)
        self.begun_s: FloatArray = np.full(n, inf)
        self.first_s: FloatArray = np.full(n, inf)
        self.end_s: FloatArray = np.full(n, inf)
        self.stall_s: FloatArray = np.zeros(n)
        self.placed = np.full(n, -1, dtype=np.int32)
        self.uncached = np.zeros(n, dtype=np.int64)
        for request in requests:
            _require_fitting(request, workers)

    @property
    def requests(self) -> Sequence[Request]:
        """In the order of arrival, as the arrays have them."""
        return self._requests

    def run(self, progressed: Progressed | None = None) -> None:
        """Until all requests have ended; `progressed` hears now and then how many have."""
        total, report = len(self._requests), max(1, len(self._requests) // 200)
        reported = 0
        while self._ended < total:
            self._step()
            if progressed is not None and self._ended - reported >= report:
                progressed(self._ended)
                reported = self._ended

    def _step(self) -> None:
        now = self._next_time()
        touched = self._end_stages(now)
        self._arrive(now)
        for worker in self.workers:
            worker.now_s = now
        for arrival, j in self._dispatcher.poll(now, self.workers):
            worker = self.workers[j]
            before = worker.stage_end_s
            request = self._requests[arrival.number]
            worker.submit(
                request,
                arrival.number,
                arrival.expected_tokens,
                now,
                arrival.lengths,
                ahead_s=arrival.ahead_s,
                held_back=arrival.held_back,
            )
            self.placed[arrival.number] = j
            touched.add(j)
            if worker.stage_end_s != before:
                heapq.heappush(self._events, (worker.stage_end_s, j))
        for j in sorted(touched):
            if self.workers[j].start(now):
                heapq.heappush(self._events, (self.workers[j].stage_end_s, j))

    def _next_time(self) -> float:
        events = self._events
        while events and self.workers[events[0][1]].stage_end_s != events[0][0]:
            heapq.heappop(events)  # its stage was cut short
        now = events[0][0] if events else inf
        if self._arrived < len(self._requests):
            now = min(now, self._requests[self._arrived].arrival_s)
        deadline = self._dispatcher.next_deadline()
        if deadline is not None:
            now = min(now, deadline)
        if now == inf:
            raise ProblemError("the dispatcher has stopped sending: requests are left over")
        return now

    def _end_stages(self, now: float) -> set[int]:
        touched: set[int] = set()
        while self._events and self._events[0][0] <= now:
            end, j = heapq.heappop(self._events)
            if self.workers[j].stage_end_s != end:
                continue
            touched.add(j)
            for running in self.workers[j].finish():
                self._end(running, j, end)
        return touched

    def _end(self, running: Running, j: int, end_s: float) -> None:
        self.begun_s[running.number] = running.begun_s
        self.first_s[running.number] = running.first_s
        self.stall_s[running.number] = running.stall_s
        self.end_s[running.number] = end_s
        self.uncached[running.number] = running.uncached
        output = running.request.output_tokens
        self._dispatcher.ended(Ended(running.number, j, running.uncached, output), end_s)
        self._forecaster.observe(running.request)
        self._ended += 1

    def _again(self, request: Request) -> Callable[[], Forecast | None]:
        """Predicts a request's length anew once there is more to learn from."""
        forecaster, known = self._forecaster, self._forecaster.learned

        def again() -> Forecast | None:
            nonlocal known
            if forecaster.learned < again_from(known):
                return None
            known = forecaster.learned
            return forecaster.forecast(request)

        return again

    def _arrive(self, now: float) -> None:
        while self._arrived < len(self._requests):
            request = self._requests[self._arrived]
            if request.arrival_s > now:
                return
            forecast = self._forecaster.forecast(request)
            arrival = Arrival(
                self._arrived,
                request.arrival_s,
                request.prompt_tokens,
                forecast.tokens,
                request.hash_ids,
                request.priority,
                request.due_s,
                forecast.lengths,
                request.targets,
                self._again(request),
                request.tenant,
            )
            self._dispatcher.arrive(arrival, now)
            self._arrived += 1


def _require_fitting(request: Request, workers: Sequence[Worker]) -> None:
    tokens = request.prompt_tokens + request.output_tokens
    if all(tokens > worker.setting.kv_tokens for worker in workers):
        most = max(worker.setting.kv_tokens for worker in workers)
        raise ProblemError(
            f"request {request.id} needs {tokens} KV tokens, more than a worker's {most:.0f}"
        )
