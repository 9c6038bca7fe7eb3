"""Few requests on few workers: the same decisions as any plan's, in plain numbers.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from solver.routing import formulas
from solver.routing.columns import Load, Requests
from solver.routing.formulas import NUMBERS, Figures

# Beyond so many pairs of a request and a worker, or so many workers, arrays are quicker.
MOST_PAIRS, MOST_WORKERS = 32, 16
NOTHING = (0.0, 0.0, 0.0)


def are_few(requests: Requests, load: Load) -> bool:
    """Whether they are for here."""
    n, m = len(requests), len(load.slots)
    return 0 < n * m <= MOST_PAIRS and m <= MOST_WORKERS


class FewPairs:
    """n requests on m workers, as `solver.routing.objective.Pairs`, a number at a time.

    `placed` is what sums up `sizes` on the worker.
    """

    def __init__(self, requests: Requests, load: Load) -> None:
        known = zip(*[column.tolist() for column in formulas.load_figures(load)], strict=True)
        typical = float(requests.output.mean())
        workers = [(column, *formulas.worker_figures(column, typical, NUMBERS)) for column in known]
        self._workers = [figures for _, figures, _ in workers]
        self._rooms = [formulas.rooms(column, NUMBERS) for column, _, _ in workers]
        self._allowed = None if requests.forbidden is None else (~requests.forbidden).tolist()
        slack_s = requests.ttft_s - requests.waited_s
        columns = (
            *(requests.prompt, requests.output, requests.overrun, requests.weight),
            *(slack_s, requests.tpot_s),
        )
        rows = list(zip(*[column[:, 0].tolist() for column in columns], strict=True))
        self._pairs = [
            [
                formulas.pair_figures(column, left, uncached, row[0], row[1], NUMBERS)
                for (column, _, left), uncached in zip(workers, uncached_row, strict=True)
            ]
            for row, uncached_row in zip(rows, requests.uncached.tolist(), strict=True)
        ]
        self._sequences = requests.sequences[:, 0].tolist()
        self._requests: list[Figures] = [formulas.request_figures(row, NUMBERS) for row in rows]
        best = [self._at_best_s(i) for i in range(len(rows))]
        expected_s = float(np.array([expected for expected, _ in best]).sum())
        in_flight = float(load.in_flight.sum())
        scale_s = formulas.tail_scale_s(load.left_s, expected_s, in_flight, len(rows))
        self._requests = [
            (*figures, max(load.level_s, long_s), row[3] / (2.0 * scale_s), variance)
            for (*figures, variance), row, (_, long_s) in zip(
                self._requests, rows, best, strict=True
            )
        ]

    def _at_best_s(self, i: int) -> tuple[float, float]:
        """Seconds until it would end where that is soonest: expected, at a high quantile."""
        prompt, output, long = self._requests[i][:3]
        expected_s = long_s = inf
        for j, worker in enumerate(self._workers):
            if self._allowed is None or self._allowed[i][j]:
                own_s = self._pairs[i][j][0]
                _, first, rest = formulas.seconds(worker, prompt, own_s, NOTHING, NUMBERS)
                expected_s = min(expected_s, first + output * rest)
                long_s = min(long_s, first + long * rest)
        return expected_s, long_s

    def sizes(self, i: int, j: int) -> tuple[float, float, float]:
        """What a request adds to a worker: sequences, seconds of prefill, prompt tokens."""
        return self._sequences[i], self._pairs[i][j][0], self._requests[i][0]

    def costs(self, i: int, placed: Sequence[tuple[float, float, float]]) -> list[float]:
        """(m,) what a request costs on each worker; infinite where it must not go."""
        return [self._cost(i, j, one) for j, one in enumerate(placed)]

    def _cost(self, i: int, j: int, placed: tuple[float, float, float]) -> float:
        if self._allowed is not None and not self._allowed[i][j]:
            return inf
        worker, request, pair = self._workers[j], self._requests[i], self._pairs[i][j]
        felt = formulas.seconds(worker, request[0], pair[0], placed, NUMBERS)
        return float(formulas.cost_s(worker, request, pair, placed, felt, NUMBERS))

    def waits(self, j: int, placed: tuple[float, float, float]) -> bool:
        """Whether one more finds no free slot on a worker."""
        return bool(formulas.waits(self._workers[j], placed))

    def in_time(self, i: int, j: int, placed: tuple[float, float, float]) -> bool:
        """Whether a request keeps its targets on a worker, as expected."""
        request, own_s = self._requests[i], self._pairs[i][j][0]
        felt = formulas.seconds(self._workers[j], request[0], own_s, placed, NUMBERS)
        return bool(formulas.late_s(request, felt, NUMBERS) <= 0.0)

    def is_open(self, j: int, placed: tuple[float, float, float]) -> bool:
        """Whether a worker may be sent something."""
        return bool(formulas.is_open(self._rooms[j], placed))
