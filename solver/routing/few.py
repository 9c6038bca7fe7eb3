"""Pairs of a request and a worker, one at a time, in plain numbers.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them; and of a larger plan only few pairs are looked at again (`solver.routing.found`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, inf

from solver.arrays import FloatArray
from solver.routing import formulas
from solver.routing.asked import Asked
from solver.routing.columns import OUTPUT, OVERRUN, TTFT
from solver.routing.formulas import NUMBERS, Figures
from solver.routing.objective import Pairs

# What sums up `OneByOne.sizes` on a worker, and what it is where there is nothing.
Placed = tuple[float, float, float]
NOTHING: Placed = (0.0, 0.0, 0.0)


class OneByOne:
    """n requests on m workers, as `solver.routing.objective.Pairs`, a number at a time.

    Attributes:
        n, m: how many.
    """

    n: int
    m: int
    _workers: Sequence[Figures] | Mapping[int, Figures]
    _rooms: Sequence[Figures] | Mapping[int, Figures]
    _requests: Sequence[Figures] | Mapping[int, Figures]
    _sequences: Sequence[float]
    _soon_s: Sequence[float]
    _known: Sequence[tuple[float, float, float]]  # as `formulas.patience` asks

    def _pair(self, i: int, j: int) -> Figures:
        """As `formulas.pair_figures`."""
        raise NotImplementedError

    def is_awaited(self, i: int) -> bool:
        """Whether somebody waits for its first token."""
        return self._known[i][0] < inf

    def patience(self, i: int) -> float:
        """As `formulas.patience`."""
        return float(formulas.patience(*self._known[i], NUMBERS))

    def sizes(self, i: int, j: int) -> Placed:
        """What a request adds to a worker: sequences, seconds of prefill, prompt tokens."""
        return self._sequences[i], self._pair(i, j)[0], self._requests[i][0]

    def cost(self, i: int, j: int, placed: Placed) -> float:
        """What a request costs on a worker, to which it may go."""
        worker, request, pair = self._workers[j], self._requests[i], self._pair(i, j)
        felt = formulas.seconds(worker, request[0], pair[0], placed, NUMBERS)
        cost_s: float = formulas.cost_s(worker, request, pair, placed, felt, NUMBERS)
        return cost_s

    def waits(self, j: int, placed: Placed) -> bool:
        """Whether one more finds no free slot on a worker."""
        return bool(formulas.waits(self._workers[j], placed))

    def seconds(self, i: int, j: int, placed: Placed) -> Figures:
        """What a request is expected to feel on a worker, as `formulas.seconds`."""
        request, own_s = self._requests[i], self._pair(i, j)[0]
        return formulas.seconds(self._workers[j], request[0], own_s, placed, NUMBERS)

    def in_time(self, i: int, felt: Figures) -> bool:
        """Whether a request that feels so keeps its targets."""
        return bool(formulas.late_s(self._requests[i], felt, NUMBERS) <= 0.0)

    def is_soon(self, i: int, felt: Figures) -> bool:
        """Whether its first token comes in time then, or as soon as people expect it."""
        return bool(felt[1] <= self._soon_s[i])

    def is_open(self, j: int, placed: Placed) -> bool:
        """Whether a worker may be sent something."""
        return bool(formulas.is_open(self._rooms[j], placed))


class _Columns(dict[int, Figures]):
    """Those of an array that are looked at."""

    def __init__(self, array: FloatArray) -> None:
        self._array = array

    def __missing__(self, k: int) -> Figures:
        found = self[k] = self._array[:, k].tolist()
        return found


class SomePairs(OneByOne):
    """Those of arrays that are looked at."""

    def __init__(self, pairs: Pairs) -> None:
        self.n, self.m, asked = pairs.n, pairs.m, pairs.requests
        *columns, self._pairs = pairs.figures
        self._workers, self._rooms, self._requests = map(_Columns, columns)
        self._sequences = asked.sequences[:, 0].tolist()
        self._soon_s = pairs.soon_s.tolist()
        known = (asked.ttft_s, asked.overrun, asked.output)
        self._known = list(zip(*(column[:, 0].tolist() for column in known), strict=True))

    def _pair(self, i: int, j: int) -> Figures:
        return self._pairs[:, i, j].tolist()


class FewPairs(OneByOne):
    """All pairs of a few requests and workers."""

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
        self._known = [(row[TTFT], row[OVERRUN], row[OUTPUT]) for row in rows]
        self._sequences: list[float] = []
        self._requests: list[Figures] = []
        self._at_first: list[list[Figures]] = []
        self._soon_s: list[float] = []
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
        felt = self._at_first[i]
        if self._eligible is not None:
            felt = [felt[j] for j in self._eligible[i]]
        expected_s = min([first + output * rest for _, first, rest in felt])
        return expected_s, min([first + long * rest for _, first, rest in felt])

    def _pair(self, i: int, j: int) -> Figures:
        return self._pairs[i][j]

    def costs_at_first(self, i: int) -> list[float]:
        """(m,) what a request costs on each worker with nothing placed; infinite: it must not."""
        request, found = (
            self._requests[i],
            zip(self._workers, self._pairs[i], self._at_first[i], strict=True),
        )
        costs: list[float] = [
            formulas.cost_s(worker, request, pair, NOTHING, felt, NUMBERS)
            for worker, pair, felt in found
        ]
        if self._eligible is None:
            return costs
        may = self._eligible[i]
        return [cost if j in may else inf for j, cost in enumerate(costs)]
