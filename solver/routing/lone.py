"""One request on many workers: itself in plain numbers, the workers in arrays.

It comes to the figures of `solver.routing.few` and `solver.routing.objective`, to the last bit.
"""

from __future__ import annotations

from math import fsum, inf

import numpy as np

from solver.arrays import BoolArray
from solver.routing import formulas
from solver.routing.asked import Asked
from solver.routing.few import AllPairs
from solver.routing.formulas import ARRAYS, NOTHING, NUMBERS, Figures


class _Of(dict[int, Figures]):
    """What arrays say of the workers that are looked at."""

    def __init__(self, arrays: Figures) -> None:
        self.arrays = arrays

    def __missing__(self, j: int) -> Figures:
        found = self[j] = [array.item(j) for array in self.arrays]
        return found


class LonePairs(AllPairs):
    """The pairs of one request, the only one of what is asked."""

    _workers: _Of
    _rooms: _Of

    def __init__(self, asked: Asked) -> None:
        (self._only,), self.n, self.m = asked.rows, 1, len(asked.known)
        prompt, output, overrun, _, weight, waited_s, ttft_s, tpot_s = self._only
        lately = np.array(asked.lately)
        load, ahead_s = formulas.load_of(asked.columns, lately, asked.placed, ARRAYS)
        workers, left = formulas.worker_figures(load, output, ARRAYS)
        uncached, twice = float(prompt), 0.0
        if asked.cached is not None:
            uncached = np.maximum(0.0, prompt - asked.cached[0])
            twice = uncached - uncached.min()
        pair = formulas.pair_figures(load, left, uncached, twice, prompt, output, ARRAYS)
        there = formulas.standing(workers, NOTHING, ARRAYS)
        felt = formulas.seconds(there, prompt, pair[0], ARRAYS)
        *figures, variance = formulas.request_figures(
            (prompt, output, overrun, weight, ttft_s - waited_s, tpot_s), NUMBERS
        )
        forbidden = self._forbidden(asked)
        _, first, rest = felt
        expected_s, long_s = (
            float((ends if forbidden is None else np.where(forbidden, inf, ends)).min())
            for ends in (first + output * rest, first + figures[2] * rest)
        )
        in_flight = fsum(workers[0].tolist())
        scale_s = formulas.tail_scale_s(fsum(ahead_s.tolist()), expected_s, in_flight, 1)
        tail = weight / (2.0 * scale_s)
        request = *figures, max(asked.level_s, long_s), tail, variance
        costs = formulas.cost_s(there, request, pair, felt, ARRAYS)
        if forbidden is not None:
            costs = np.where(forbidden, inf, costs)
        self.costs_s = [costs.tolist()]
        self._standing = {}
        self._workers, self._rooms = _Of(workers), _Of(formulas.rooms(load, ARRAYS))
        self._requests, self._pairs = [request], _Of(pair)

    def _forbidden(self, asked: Asked) -> BoolArray | None:
        if asked.eligible is None:
            return None
        forbidden = np.ones(self.m, dtype=np.bool_)
        forbidden[list(asked.eligible[0])] = False
        return forbidden

    def _pair(self, i: int, j: int) -> Figures:  # noqa: ARG002
        return self._pairs[j]

    def _row(self, i: int) -> Figures:  # noqa: ARG002
        return self._only

    def open_at_first(self) -> list[bool]:
        """(m,) as `is_open`, with nothing placed."""
        return formulas.is_open(self._rooms.arrays, NOTHING).tolist()  # type: ignore[no-any-return]

    def all_wait_at_first(self) -> list[bool]:
        """(m,) as `waits`, with nothing placed."""
        return formulas.waits(self._workers.arrays, NOTHING).tolist()  # type: ignore[no-any-return]
