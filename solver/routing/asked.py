"""A window as plain numbers, and as arrays for whoever wants these.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them: few pairs are valued in numbers (`solver.routing.few`), many, and those of whoever
explains or improves a plan, in arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from solver.arrays import FloatArray
from solver.routing import formulas
from solver.routing.columns import BETA_P, CLOSING, PROMPT, Load, Requests
from solver.routing.formulas import ARRAYS, NOTHING, NUMBERS, Calculus, Figures, Number

# Arrays are quicker beyond so many pairs of a request and a worker; beyond so many workers, where
# these alone are looked at, or one request; and beyond so many in each turn of a larger plan.
MOST_PAIRS, MOST_WORKERS, MOST_IN_TURN = 32, 16, 8


@dataclass(eq=False)
class Asked:
    """n requests to be planned, and m workers.

    Attributes:
        rows: of each request, as `solver.routing.columns.row_of`.
        known: of each worker, as `solver.routing.columns.numbers`.
        lately: (m,) requests, and seconds of prefill, that each worker was sent a second.
        level_s: as of `Load`.
        placed: (3, m) sequences, seconds of prefill and prompt tokens that wait for each worker
            besides; None: nothing does.
        cached: (n, m) prompt tokens of request i that worker j has in its cache; None: none.
        eligible: for each request the workers that may serve it; None: all of them.
        table: `known` in an array that nobody changes, if there is one.
    """

    rows: Sequence[Figures]
    known: Sequence[Figures]
    lately: tuple[Sequence[float], Sequence[float]]
    level_s: float
    placed: FloatArray | None = None
    cached: FloatArray | None = None
    eligible: Sequence[frozenset[int]] | None = None
    table: FloatArray | None = None

    @property
    def few(self) -> bool:
        """Whether plain numbers are quicker."""
        return 0 < len(self.rows) * len(self.known) <= MOST_PAIRS

    @cached_property
    def requests(self) -> Requests:
        """As arrays."""
        return Requests.from_rows(self.rows, len(self.known), self.cached, self.eligible)

    @cached_property
    def load(self) -> Load:
        """As arrays."""
        return Load.from_numbers(self.columns, np.array(self.lately), self.level_s, self.placed)

    @property
    def columns(self) -> FloatArray:
        """(`solver.routing.columns.NUMBERS`, m) of the workers."""
        return np.array(self.known, dtype=np.float64).T if self.table is None else self.table

    @property
    def open(self) -> bool:
        """Whether any worker may be sent something; else there is nothing to plan."""
        if self.table is not None:
            placed = NOTHING if self.placed is None else self.placed
            return bool(np.any(may_take(self.table[CLOSING], placed, ARRAYS)))
        there = [NOTHING] * len(self.known) if self.placed is None else self.placed.T.tolist()
        return any(
            may_take([row[k] for k in CLOSING], placed, NUMBERS)
            for row, placed in zip(self.known, there, strict=True)
        )

    def uncached(self, i: int, j: int) -> float:
        """Prompt tokens of a request that a worker would have to prefill."""
        prompt = float(self.rows[i][PROMPT])
        return prompt if self.cached is None else max(0.0, prompt - float(self.cached[i, j]))

    def prefill_s(self, i: int, j: int) -> float:
        """Seconds that this takes."""
        return float(self.known[j][BETA_P]) * self.uncached(i, j)

    def only(self, i: int) -> Asked:
        """One of the requests alone."""
        cached, eligible = self.cached, self.eligible
        return Asked(
            [self.rows[i]],
            self.known,
            self.lately,
            self.level_s,
            self.placed,
            None if cached is None else cached[i : i + 1],
            None if eligible is None else [eligible[i]],
            self.table,
        )


def may_take(closing: Iterable[Number], placed: Figures, at: Calculus) -> Number:
    """Whether workers, of which this is known at `CLOSING`, may be sent something."""
    alpha_p_s, room, queued_s, kv_now = closing
    return formulas.is_open(formulas.room_of(alpha_p_s, room, queued_s, kv_now, at), placed)
