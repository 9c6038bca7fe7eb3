"""Who ends requests far sooner than others do for the like: it gets no more than its even share.

A worker that finds fault with all that it is sent, or says next to nothing, is free at once, and
would be given the next request, too. No single end tells: a request may be at fault, and an answer
short. So ends are compared with those of others.

Rules:
- an end counts by how likely it was to come later, as its request was predicted: half, on average,
  whatever lengths there are; 1, if its worker has found fault with it and made nothing;
- a worker stands out where the mean of its `LATEST` ends is above that of others that serve the
  same by `SIGMAS` standard deviations, and for as long as it is by half of them. What predictions
  are wrong by, and what clients ask that nobody would answer, all of them have alike;
- who stands out, and has been sent more since then than others on average, stands back: it gets
  nothing new while they can serve;
- others that have ended hardly any (`HEARD`) may be hung if they have something to do, and answer
  none of it yet: until they do, or have shown what is usual, only who has found fault with
  everything stands back for them;
- who is alone is compared with nobody.

Must not know: what a status or an answer means, and who goes where.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, sqrt

from router.gateway.fleet.health import Health
from router.gateway.fleet.worker import Worker

# Enough to see who does so with every second request: of as many from 0 to 1 the mean is known to
# 0.036, and the mean of the half that counts 1 and the half that counts as usual is 0.75.
LATEST = 64
# By chance one in thirty thousand is so far off; six ends that all count 1 are, and so many are to
# be known of others, too.
SIGMAS, HEARD = 4.0, 6
_USUAL, _VARIANCE = 0.5, 1 / 12  # of numbers that are as likely as each other from 0 to 1


@dataclass(slots=True)
class _Ends:
    """The latest of one worker."""

    latest: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    total: float = 0.0

    def add(self, later: float) -> None:
        if len(self.latest) == LATEST:
            self.total -= self.latest[0]
        self.latest.append(later)
        self.total += later

    @property
    def are_all_at_fault(self) -> bool:
        """Whether it has found fault with all of them."""
        return self.total == len(self.latest)

    def is_above(self, usual: float, others: int, sigmas: float) -> bool:
        """Whether their mean is by more than chance; `others` have told what is usual, or none."""
        count = len(self.latest)
        variance = _VARIANCE * (1 / count + (1 / others if others else 0.0))
        return self.total / count - usual > sigmas * sqrt(variance)


@dataclass(slots=True)
class _Out:
    """A worker that stands out, and what has been sent since: there, and to who serves the same."""

    worker: Worker
    own: int = 0
    others: int = 0


class Evenness:
    """Of all `workers`; `stand` is told who stands out, and how much more that may be sent."""

    def __init__(
        self, workers: Iterable[Worker], stand: Callable[[Worker, bool, float], None]
    ) -> None:
        self._workers, self._stand = workers, stand
        self._ends: dict[Health, _Ends] = {}
        self._count, self._total = 0, 0.0  # of all of them
        self._out: dict[Health, _Out] = {}

    def ended(self, worker: Worker, later: float) -> None:
        """A request has ended there, that should have ended `later` with that probability."""
        ends = self._ends.get(worker.health)
        if ends is None:
            ends = self._ends[worker.health] = _Ends()
        self._total -= ends.total
        self._count -= len(ends.latest)
        out = self._out.get(worker.health)
        ends.add(later)
        usual = self._total / self._count if self._count >= HEARD else 0.0
        suspicious = ends.is_above(min(usual, _USUAL), 0, SIGMAS / 2)
        self._total += ends.total
        self._count += len(ends.latest)
        if suspicious or out is not None:
            self._compare(worker, ends, out)

    def _compare(self, worker: Worker, ends: _Ends, out: _Out | None) -> None:
        """With those who serve the same."""
        beside = self._beside(worker)
        found = [one for one in map(self._ends.get, {one.health for one in beside}) if one]
        count, sigmas = sum(len(one.latest) for one in found), SIGMAS / 2 if out else SIGMAS
        if count >= HEARD:
            told = ends.is_above(sum(one.total for one in found) / count, count, sigmas)
        else:
            may_be_hung = any(len(one.load) and not one.stall_guard.answers for one in beside)
            knows = bool(beside) and (not may_be_hung or ends.are_all_at_fault)
            told = knows and ends.is_above(_USUAL, 0, sigmas)
        if not told:
            self._let_go(worker)
        elif out is None:
            self._out[worker.health] = _Out(worker)
            self._stand(worker, True, 1)

    def sent(self, worker: Worker, model: str) -> None:
        """A request for a model goes there."""
        for health, out in self._out.items():
            if health is worker.health:
                out.own += 1
            elif model in out.worker.models:
                out.others += 1
            else:
                continue
            others = len({one.health for one in self._beside(out.worker)})
            more = 1 + out.others // others - out.own if others else inf
            self._stand(out.worker, True, more)

    def forget(self, worker: Worker) -> None:
        """It is down, or gone: who comes up there may be another."""
        ends = self._ends.pop(worker.health, None)
        if ends is not None:
            self._total -= ends.total
            self._count -= len(ends.latest)
        self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        if self._out.pop(worker.health, None) is not None:
            self._stand(worker, False, inf)

    def _beside(self, worker: Worker) -> list[Worker]:
        """Others that serve something that it serves, and are well."""
        models = worker.models.keys()
        return [
            one
            for one in self._workers
            if one.health is not worker.health and one.up and not models.isdisjoint(one.models)
        ]
