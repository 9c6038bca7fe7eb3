"""One request on many workers: itself in plain numbers, the workers in arrays.

It comes to the figures of `solver.routing.few` and `solver.routing.objective`, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf

import numpy as np

from solver.arrays import BoolArray
from solver.routing import formulas
from solver.routing.asked import Asked
from solver.routing.columns import OUTPUT, WEIGHT
from solver.routing.few import NOTHING, AllPairs, Columns, Placed
from solver.routing.formulas import ARRAYS, NUMBERS, Figures


class LonePairs(AllPairs):
    """The pairs of one request, the only one of what is asked."""

    def __init__(self, asked: Asked) -> None:
        (self._only,), self.n, self.m = asked.rows, 1, len(asked.known)
        prompt, output, overrun, _, weight, waited_s, ttft_s, tpot_s = self._only
        load, ahead_s = formulas.load_of(asked.columns, asked.rates, asked.placed, ARRAYS)
        workers, left = formulas.worker_figures(load, self._only[OUTPUT], ARRAYS)
        uncached, twice = float(prompt), 0.0
        if asked.cached is not None:
            uncached = np.maximum(0.0, prompt - asked.cached[0])
            twice = uncached - uncached.min()
        pair = formulas.pair_figures(load, left, uncached, twice, prompt, output, ARRAYS)
        felt = formulas.seconds(workers, prompt, pair[0], NOTHING, ARRAYS)
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
        tail = self._only[WEIGHT] / (2.0 * scale_s)
        request = *figures, max(asked.level_s, long_s), tail, variance
        costs = formulas.cost_s(workers, request, pair, NOTHING, felt, ARRAYS)
        if forbidden is not None:
            costs = np.where(forbidden, inf, costs)
        self._costs: list[float] = costs.tolist()
        self._figures, self._limits, self._of_pairs = workers, formulas.rooms(load, ARRAYS), pair
        self._workers, self._rooms = Columns(workers), Columns(self._limits)
        self._requests = [request]

    def _forbidden(self, asked: Asked) -> BoolArray | None:
        if asked.eligible is None:
            return None
        forbidden = np.ones(self.m, dtype=np.bool_)
        forbidden[list(asked.eligible[0])] = False
        return forbidden

    def _pair(self, i: int, j: int) -> Figures:  # noqa: ARG002
        return [figure.item(j) for figure in self._of_pairs]

    def _row(self, i: int) -> Figures:  # noqa: ARG002
        return self._only

    def costs_at_first(self, i: int) -> list[float]:  # noqa: ARG002
        """(m,) what it costs on each worker; infinite: it must not go there."""
        return self._costs

    def open_at_first(self) -> list[bool]:
        """(m,) as `is_open`, with nothing placed."""
        return formulas.is_open(self._limits, NOTHING).tolist()  # type: ignore[no-any-return]

    def all_wait(self, placed: Sequence[Placed]) -> list[bool]:
        """(m,) as `waits`."""
        return formulas.waits(self._figures, np.array(placed).T).tolist()  # type: ignore[no-any-return]
