"""Pairs of a request and a worker, one at a time, in plain numbers.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them; and of a larger plan only few pairs are looked at again (`solver.routing.found`). So
many requests are valued in arrays once, and where workers are few, in numbers from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, inf

from solver.arrays import FloatArray
from solver.routing import formulas
from solver.routing.asked import Asked
from solver.routing.columns import COLUMNS, OUTPUT, OVERRUN, SEQUENCES, TTFT, WAITED, WEIGHT
from solver.routing.formulas import NOTHING, NUMBERS, Figures
from solver.routing.objective import Pairs

# What sums up `OneByOne.sizes` on a worker.
Placed = tuple[float, float, float]


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
    _standing: dict[int, tuple[Placed, Figures]]  # of each worker, with what was placed there last

    def _pair(self, i: int, j: int) -> Figures:
        """As `formulas.pair_figures`."""
        raise NotImplementedError

    def _row(self, i: int) -> Figures:
        """As `solver.routing.columns.row_of`."""
        raise NotImplementedError

    def patience(self, i: int) -> float:
        """As `formulas.patience`."""
        row = self._row(i)
        return float(formulas.patience(row[TTFT], row[OVERRUN], row[OUTPUT], NUMBERS))

    def sizes(self, i: int, j: int) -> Placed:
        """What a request adds to a worker: sequences, seconds of prefill, prompt tokens."""
        return self._row(i)[SEQUENCES], self._pair(i, j)[0], self._requests[i][0]

    def cost(self, i: int, j: int, placed: Placed) -> float:
        """What a request costs on a worker, to which it may go."""
        there, request, pair = self._there(j, placed), self._requests[i], self._pair(i, j)
        felt = formulas.seconds(there, request[0], pair[0], NUMBERS)
        cost_s: float = formulas.cost_s(there, request, pair, felt, NUMBERS)
        return cost_s

    def _there(self, j: int, placed: Placed) -> Figures:
        """As `formulas.standing`."""
        known = self._standing.get(j)
        if known is None or known[0] is not placed:
            there = formulas.standing(self._workers[j], placed, NUMBERS)
            known = self._standing[j] = placed, there
        return known[1]

    def would_wait(self, i: int, j: int, placed: Placed) -> bool:
        """Whether somebody waits for its first token, and it would wait for somebody's end.

        For the slot that this frees, or the memory.
        """
        if not self._row(i)[TTFT] < inf:
            return False
        return self.waits(j, placed) or bool(formulas.is_full(self._workers[j], placed))

    def waits(self, j: int, placed: Placed) -> bool:
        """Whether one more finds no free slot on a worker."""
        return bool(formulas.waits(self._workers[j], placed))

    def seconds(self, i: int, j: int, placed: Placed) -> Figures:
        """What a request is expected to feel on a worker, as `formulas.seconds`."""
        request, own_s = self._requests[i], self._pair(i, j)[0]
        return formulas.seconds(self._there(j, placed), request[0], own_s, NUMBERS)

    def in_time(self, i: int, felt: Figures) -> bool:
        """Whether a request that feels so keeps its targets."""
        return bool(formulas.late_s(self._requests[i], felt, NUMBERS) <= 0.0)

    def is_soon(self, i: int, felt: Figures) -> bool:
        """Whether its first token comes in time then, or as soon as people expect it."""
        row = self._row(i)
        return bool(felt[1] <= formulas.soon_s(row[TTFT], row[WAITED], NUMBERS))

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
        self.n, self.m, asked, self._standing = pairs.n, pairs.m, pairs.requests, {}
        *figures, self._pairs = pairs.figures
        self._workers, self._rooms, self._requests = map(_Columns, figures)
        columns = (getattr(asked, name)[:, 0].tolist() for name in COLUMNS)
        self._rows = list(zip(*columns, strict=True))

    def _pair(self, i: int, j: int) -> Figures:
        return self._pairs[:, i, j].tolist()

    def _row(self, i: int) -> Figures:
        return self._rows[i]


class AllPairs(OneByOne):
    """All pairs of requests and workers, and what they cost with nothing placed.

    Attributes:
        costs_s: (n, m) what each request costs on each worker; infinite: it must not go there.
    """

    costs_s: Sequence[list[float]]

    def open_at_first(self) -> list[bool]:
        """(m,) as `is_open`, with nothing placed."""
        return [self.is_open(j, NOTHING) for j in range(self.m)]

    def all_wait_at_first(self) -> list[bool]:
        """(m,) as `waits`, with nothing placed."""
        return [self.waits(j, NOTHING) for j in range(self.m)]


class Listed(AllPairs):
    """The same in lists of plain numbers."""

    _rows: Sequence[Figures]
    _pairs: Sequence[Sequence[Figures]]

    def _pair(self, i: int, j: int) -> Figures:
        return self._pairs[i][j]

    def _row(self, i: int) -> Figures:
        return self._rows[i]


class ManyPairs(Listed):
    """Those of many requests on few workers: valued in arrays first, and one by one since."""

    def __init__(self, asked: Asked) -> None:
        pairs = Pairs(asked.requests, asked.load)
        self.n, self.m, self._rows, self._standing = pairs.n, pairs.m, asked.rows, {}
        self.costs_s = pairs.costs_at_first().tolist()
        *figures, of_pairs = pairs.figures
        self._workers, self._rooms, self._requests = (one.T.tolist() for one in figures)
        self._pairs = of_pairs.transpose(1, 2, 0).tolist()


class FewPairs(Listed):
    """Those of few requests on few workers."""

    def __init__(self, asked: Asked) -> None:
        rows, self._eligible = asked.rows, asked.eligible
        self._rows, self.n, self.m = rows, len(rows), len(asked.known)
        self._workers: list[Figures] = []
        self._standing = {}
        self._rooms: list[Figures] = []
        typical = fsum([row[OUTPUT] for row in rows]) / self.n
        each, all_s, in_flight = [], [], []
        placed = [None] * self.m if asked.placed is None else asked.placed.T.tolist()
        rates = zip(*asked.lately, strict=True)
        for known, lately, more in zip(asked.known, rates, placed, strict=True):
            load, ahead_s = formulas.load_of(known, lately, more, NUMBERS)
            figures, left = formulas.worker_figures(load, typical, NUMBERS)
            self._workers.append(figures)
            self._rooms.append(formulas.rooms(load, NUMBERS))
            each.append((load, left))
            all_s.append(ahead_s)
            in_flight.append(figures[0])
        self._pairs: list[list[Figures]] = []
        self._at_first: list[list[Figures]] = []
        seen = [self._see(asked, i, each) for i in range(self.n)]
        expected_s = fsum([one[1] for one in seen])
        scale_s = formulas.tail_scale_s(fsum(all_s), expected_s, fsum(in_flight), self.n)
        level_s, tail = asked.level_s, 2.0 * scale_s
        self._requests = [
            (*figures, max(level_s, long_s), row[WEIGHT] / tail, variance)
            for ((*figures, variance), _, long_s), row in zip(seen, rows, strict=True)
        ]
        self.costs_s = [self._costs_at_first(i) for i in range(self.n)]

    def _see(
        self, asked: Asked, i: int, workers: Sequence[tuple[Figures, float]]
    ) -> tuple[Figures, float, float]:
        """What terms ask of a request, what it would feel on each worker with nothing placed yet.

        And seconds until it would end where that is soonest: expected, at a high quantile.
        """
        prompt, output, overrun, _, weight, waited_s, ttft_s, tpot_s = asked.rows[i]
        request = formulas.request_figures(
            (prompt, output, overrun, weight, ttft_s - waited_s, tpot_s), NUMBERS
        )
        long, may = request[2], None if self._eligible is None else self._eligible[i]
        uncached, twice = float(prompt), 0.0
        if asked.cached is not None:
            tokens = [asked.uncached(i, j) for j in range(self.m)]
            least = min(tokens)
        pairs, all_felt, expected_s, long_s = list[Figures](), list[Figures](), inf, inf
        for j, (known, left) in enumerate(workers):
            if asked.cached is not None:
                uncached, twice = tokens[j], tokens[j] - least
            pair = formulas.pair_figures(known, left, uncached, twice, prompt, output, NUMBERS)
            felt = formulas.seconds(self._there(j, NOTHING), prompt, pair[0], NUMBERS)
            pairs.append(pair)
            all_felt.append(felt)
            if may is None or j in may:
                _, first, rest = felt
                expected_s = min(expected_s, first + output * rest)
                long_s = min(long_s, first + long * rest)
        self._pairs.append(pairs)
        self._at_first.append(all_felt)
        return request, expected_s, long_s

    def _costs_at_first(self, i: int) -> list[float]:
        request, may = self._requests[i], None if self._eligible is None else self._eligible[i]
        found, pairs, all_felt = list[float](), self._pairs[i], self._at_first[i]
        for j in range(self.m):
            if may is None or j in may:
                there = self._there(j, NOTHING)
                found.append(formulas.cost_s(there, request, pairs[j], all_felt[j], NUMBERS))
            else:
                found.append(inf)
        return found
