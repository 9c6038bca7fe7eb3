"""Who goes first of a tenant's line, as a worker has the beginning of its prompt.

Rules:
- whose prompt is held by some worker goes before its equals of the same line that came up to
  `WARM_S` sooner, who finds a part that much of it: by the time of its turn others' prompts
  would have pushed out what it finds now, and all would wait for its prefill. Nobody is passed by
  for longer, and tenants' turns are as they were;
- whether that worker has room now is not asked: where it goes is the plan's to say;
- more urgent ones are not passed, and the places that it takes keep their ranks;
- looked at are the first `LOOK` of a line, each again after `AGAIN_S`: thousands may wait.

Only where several tenants take turns, as lines then last: with one tenant, bursts of prompts that
all begin alike came out worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from solver.arrays import FloatArray
from solver.batching.priority import Priority
from solver.routing.grouped_queue import Entry
from solver.routing.lines import Urgent

# Two minutes: where more comes than can be served, a conversation's next prompt waits for minutes,
# and memory is full of others' after one. Half of it finds a fifth less.
WARM_S = 120.0
LOOK, AGAIN_S = 64, 1.0

R = TypeVar("R", bound=Urgent)
# (n, m) prompt tokens of requests that workers hold; None: nothing of any.
Cached = Callable[[Sequence[R]], FloatArray | None]


class Warm(Generic[R]):
    """See the module."""

    def __init__(self) -> None:
        # When each is to be looked at again, and by how much it is taken to have come sooner.
        self._known: dict[R, tuple[float, float]] = {}

    def forget(self, requests: Iterable[R]) -> None:
        """They wait no longer; unknown ones are ignored."""
        for request in requests:
            self._known.pop(request, None)

    def first(
        self, line: Sequence[Entry[R]], most: int, cached: Cached[R], now: float
    ) -> list[Entry[R]]:
        """The first so many of a line, by who finds most."""
        head = list(line[: max(LOOK, most)])
        if len(head) < 2:
            return head
        self._look([entry[2] for entry in head[:LOOK]], cached, now)
        sooner_s = [self._known.get(entry[2], (0.0, 0.0))[1] for entry in head]
        if not any(sooner_s):
            return head[:most]
        ranks = [entry[0] - more for entry, more in zip(head, sooner_s, strict=True)]
        places: dict[Priority, list[int]] = {}
        for k, entry in enumerate(head):
            places.setdefault(entry[2].priority, []).append(k)
        found = head.copy()
        for mine in places.values():
            for k, turn in zip(mine, sorted(mine, key=ranks.__getitem__), strict=True):
                found[k] = (*head[k][:2], head[turn][2])
        return found[:most]

    def _look(self, requests: Sequence[R], cached: Cached[R], now: float) -> None:
        due = [one for one in requests if self._known.get(one, (now, 0.0))[0] <= now]
        found = cached(due) if due else None
        for i, one in enumerate(due):
            held = 0.0 if found is None else float(found[i].max(initial=0.0))
            share = min(1.0, held / max(1, one.job.prompt_tokens))
            self._known[one] = now + AGAIN_S, WARM_S * share
