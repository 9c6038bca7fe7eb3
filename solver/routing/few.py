"""Few requests on few workers: the same decisions as any plan's, in plain numbers.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf

from solver.routing import formulas
from solver.routing.asked import Asked
from solver.routing.formulas import NUMBERS, Figures

NOTHING = (0.0, 0.0, 0.0)


class FewPairs:
    """n requests on m workers, as `solver.routing.objective.Pairs`, a number at a time.

    `placed` is what sums up `sizes` on the worker.

    Attributes:
        n, m: how many.
        patience: (n,) whether somebody waits for its first token, and `formulas.patience`.
    """

    def __init__(self, asked: Asked) -> None:
        rows, self._eligible = asked.rows, asked.eligible
        self.n, self.m = len(rows), len(asked.known)
        self._workers: list[Figures] = []
        self._rooms: list[Figures] = []
        placed = [None] * self.m if asked.placed is None else asked.placed.T.tolist()
        typical, each, all_s = fsum([row[1] for row in rows]) / self.n, [], []
        for known, lately, more in zip(asked.known, asked.lately, placed, strict=True):
            load, ahead_s = formulas.load_of(known, lately, more, NUMBERS)
            figures, left = formulas.worker_figures(load, typical, NUMBERS)
            self._workers.append(figures)
            self._rooms.append(formulas.rooms(load, NUMBERS))
            each.append((load, left))
            all_s.append(ahead_s)
        self._pairs = [self._pair_figures(asked, i, each) for i in range(self.n)]
        self._sequences: list[float] = []
        self._requests: list[Figures] = []
        self._at_first: list[list[Figures]] = []
        self._soon_s: list[float] = []
        self.patience: list[tuple[bool, float]] = []
        for i, row in enumerate(rows):
            self._see(i, row)
        best = [self._at_best_s(i) for i in range(self.n)]
        scale_s = formulas.tail_scale_s(
            fsum(all_s),
            fsum([expected_s for expected_s, _ in best]),
            fsum([load[5] for load, _ in each]),
            self.n,
        )
        self._requests = [
            (*figures, max(asked.level_s, long_s), row[4] / (2.0 * scale_s), variance)
            for (*figures, variance), row, (_, long_s) in zip(
                self._requests, rows, best, strict=True
            )
        ]

    def _pair_figures(
        self, asked: Asked, i: int, workers: Sequence[tuple[Figures, float]]
    ) -> list[Figures]:
        """Of a request and each worker, by what is known of that."""
        prompt, output = asked.rows[i][:2]
        if asked.cached is None:
            uncached = [float(prompt)] * self.m
        else:
            uncached = [asked.uncached(i, j) for j in range(self.m)]
        least = min(uncached)
        return [
            formulas.pair_figures(known, left, tokens, tokens - least, prompt, output, NUMBERS)
            for (known, left), tokens in zip(workers, uncached, strict=True)
        ]

    def _see(self, i: int, row: Figures) -> None:
        """A request, and what it would feel on each worker where nothing is placed yet."""
        prompt, output, overrun, sequences, weight, waited_s, ttft_s, tpot_s = row
        asked = prompt, output, overrun, weight, ttft_s - waited_s, tpot_s
        self._requests.append(formulas.request_figures(asked, NUMBERS))
        self._sequences.append(sequences)
        self.patience.append((ttft_s < inf, formulas.patience(ttft_s, overrun, output, NUMBERS)))
        self._soon_s.append(formulas.soon_s(ttft_s, waited_s, NUMBERS))
        self._at_first.append(
            [
                formulas.seconds(worker, prompt, own_s, NOTHING, NUMBERS)
                for worker, (own_s, _, _, _) in zip(self._workers, self._pairs[i], strict=True)
            ]
        )

    def _at_best_s(self, i: int) -> tuple[float, float]:
        """Seconds until it would end where that is soonest: expected, at a high quantile."""
        _, output, long = self._requests[i][:3]
        expected_s = long_s = inf
        for j, (_, first, rest) in enumerate(self._at_first[i]):
            if self._eligible is None or j in self._eligible[i]:
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
        if self._eligible is not None and j not in self._eligible[i]:
            return inf
        worker, request, pair = self._workers[j], self._requests[i], self._pairs[i][j]
        if placed is NOTHING:
            felt = self._at_first[i][j]
        else:
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

    def is_soon(self, i: int, j: int, placed: tuple[float, float, float]) -> bool:
        """Whether its first token comes in time on a worker, or as soon as people expect it."""
        request, own_s = self._requests[i], self._pairs[i][j][0]
        _, first, _ = formulas.seconds(self._workers[j], request[0], own_s, placed, NUMBERS)
        return bool(first <= self._soon_s[i])

    def is_open(self, j: int, placed: tuple[float, float, float]) -> bool:
        """Whether a worker may be sent something."""
        return bool(formulas.is_open(self._rooms[j], placed))
