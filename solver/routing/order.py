"""In which order the unsent are looked at: by arrival, short ones sooner, and late ones behind.

Rules:
- who has somebody waiting goes before by half a second for each second that it takes less, bulk
  work by a second for each that it takes more. So short answers are not stuck behind long ones,
  bulk ends together, and nobody waits for ever;
- where a line has become too long for all to have their first token in time, those that still can
  go first: who has waited for half of its target stands behind who comes in the next `LATE_S`, and
  no longer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import isfinite
from typing import Generic, Protocol, TypeVar

from solver.batching.queue import Sized, effective_arrival_s
from solver.cost.model import CostModel
from solver.routing.formulas import LOST_S
from solver.routing.grouped_queue import Entry, GroupedQueue, Waiting
from solver.routing.problem import Job

# Half of the way from first come first served to shortest first: typical answers come sooner, and
# a request of a minute lets others pass for half a minute only.
SHORT_FIRST = 0.5
# Bulk work is longest first, as the last to end is what counts: the paper's order.
LONG_FIRST = -1.0
# Who has waited for so many times its target for a first token shows that the line is too long for
# all to be in time; from then on whoever has waited for half of its target, as what is left is for
# its prefill, goes behind those that came up to `LATE_S` later: until half of what it can
# lose by being late is lost. A longer time carries a longer rush, and starves those who ask one
# after another, of whom the lucky come again and again: what lasts is for admission to refuse.
TOO_LONG, HALF, LATE_S = 2.0, 0.5, LOST_S


class Unsent(Sized, Waiting, Protocol):
    """A request to be placed."""

    @property
    def came_s(self) -> float:
        """When it came, by the clock of `now`."""
        ...

    def predict_again(self) -> None:
        """Its length again, if enough has ended since the last time."""
        ...


class Timed(Protocol):
    """A worker, as far as it tells what a request takes."""

    @property
    def cost(self) -> CostModel:
        """Its iteration times."""
        ...

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        ...


R = TypeVar("R", bound=Unsent)
K = TypeVar("K", bound=Hashable)


def place_in_order(request: Unsent, prompt_s: float, round_s: float) -> float:
    """Its rank, in seconds: when it came, head start and due time in it, and for its length.

    A worker's prompt token takes `prompt_s`, and a decode round at full slots `round_s`.
    """
    job = request.job
    prefill_s = prompt_s * job.prompt_tokens / job.sequences
    takes_s = prefill_s + request.expected_tokens * round_s
    return effective_arrival_s(request, round_s) + _share(job) * takes_s


def moves_s(job: Job, tokens: float, round_s: float) -> float:
    """Seconds by which its rank is higher as so many more output tokens are expected of it."""
    return _share(job) * tokens / job.sequences * round_s


def _share(job: Job) -> float:
    """How many seconds later a request stands that takes a second more."""
    return SHORT_FIRST if isfinite(job.targets.ttft_s) else LONG_FIRST


class Late(Generic[R]):
    """Those that stand behind others, as they are late; see the module."""

    def __init__(self) -> None:
        self._all: set[R] = set()

    def __len__(self) -> int:
        return len(self._all)

    def forget(self, requests: Iterable[R]) -> None:
        """They wait no longer, late or not."""
        self._all.difference_update(requests)

    def let_pass(self, queue: GroupedQueue[R, K], entries: Sequence[Entry[R]], now: float) -> None:
        """Put those of the first `entries` of a group behind others that are late by now, once.

        As long as somebody is late, or the first of them shows that the line is too long.
        """
        if not self._all and _waited(entries[0][2], now) < TOO_LONG:
            return
        for rank, _, request in entries:
            if request not in self._all and _waited(request, now) > HALF:
                key = queue.key(request)
                queue.discard(request)
                queue.put(request, rank + LATE_S, key)
                self._all.add(request)


def _waited(request: Unsent, now: float) -> float:
    """For how many times its target for a first token it has waited; 0 without one."""
    return (now - request.came_s) / request.job.targets.ttft_s
