"""Who goes first of a tenant's line, as a worker has the beginning of its prompt.

Rules:
- whose prompt is held by some worker goes before its equals of the same line that came up to
  `WARM_S` sooner, who finds a part that much of it: by the time of its turn others' prompts
  would have pushed out what it finds now, and all would wait for its prefill. Nobody is passed by
  for longer, and tenants' turns are as they were;
- whether that worker has room now is not asked: where it goes is the plan's to say;
- more urgent ones are not passed, and the places that it takes keep their ranks;
- looked at are the first `LOOK` of a line, and again after `AGAIN_S`: thousands may wait.

Only where several tenants take turns, as lines then last: with one tenant, bursts of prompts that
all begin alike came out worse.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from solver.arrays import FloatArray
from solver.batching.priority import Priority
from solver.routing.grouped_queue import Entry
from solver.routing.lines import Urgent

# Two minutes: where more comes than can be served, a conversation's next prompt waits for minutes,
# and memory is full of others' after one. Half of it finds a fifth less.
WARM_S = 120.0
LOOK, AGAIN_S = 64, 1.0
# Of so many it is kept when they were looked at.
MOST_LINES = 1024

R = TypeVar("R", bound=Urgent)
K = TypeVar("K", bound=Hashable)
# (n, m) prompt tokens of requests that workers hold; None: nothing of any.
Cached = Callable[[Sequence[R]], FloatArray | None]


class Warm(Generic[R, K]):
    """See the module; lines are told by their keys."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}  # when each line is to be looked at again
        self._sooner: dict[R, float] = {}  # by how much each counts as having come sooner; none: 0

    def forget(self, requests: Iterable[R]) -> None:
        """They wait no longer; unknown ones are ignored."""
        for request in requests:
            self._sooner.pop(request, None)

    def first(
        self, key: K, line: Sequence[Entry[R]], most: int, cached: Cached[R], now: float
    ) -> list[Entry[R]]:
        """The first so many of a line, by who finds most."""
        if len(line) < 2:
            return list(line)
        if self._due.get(key, now) <= now:
            if len(self._due) >= MOST_LINES:
                self._due.clear()
            self._due[key] = now + AGAIN_S
            self._look([entry[2] for entry in line[:LOOK]], cached)
        if not self._sooner:
            return list(line[:most])
        head = line[: max(LOOK, most)]
        ranks = [entry[0] - self._sooner.get(entry[2], 0.0) for entry in head]
        places: dict[Priority, list[int]] = {}
        for k, entry in enumerate(head):
            places.setdefault(entry[2].priority, []).append(k)
        found = list(head)
        for mine in places.values():
            for k, turn in zip(mine, sorted(mine, key=ranks.__getitem__), strict=True):
                found[k] = (*head[k][:2], head[turn][2])
        return found[:most]

    def _look(self, requests: Sequence[R], cached: Cached[R]) -> None:
        found = cached(requests)
        for i, one in enumerate(requests):
            held = 0.0 if found is None else float(found[i].max(initial=0.0))
            if held > 0:
                self._sooner[one] = WARM_S * min(1.0, held / max(1, one.job.prompt_tokens))
            else:
                self._sooner.pop(one, None)
