"""Bulk work in pieces: lines that are predicted alike, gathered so that few are to be packed.

Rules:
- a `Kind` is what lines have in common: their batch, what they begin with, about how long they are;
- a piece is some lines of one or several kinds, about a `PIECES`-th of what a worker gets, so that
  a plan can even workers out; lines that begin alike are one, up to `TOGETHER` times as large;
- pieces come in the order in which they should run: who is due first, of a batch what begins alike,
  which stands together, and then the longest, so that what is left at the end is short.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from typing import NamedTuple

import numpy as np

from solver.arrays import LARGEST, FloatArray
from solver.cost.model import CostColumns, request_s, span_s
from solver.packing.problem import Problem
from solver.routing.kinds import Eligible, Expected, Homes, Kind, Length, Members
from solver.routing.problem import WorkerView

# Pieces of a worker's share: what they leave uneven is split and evened out, and again as lines are
# taken. Twice as many take four times as long to pack, and end no sooner.
PIECES = 12
# Of lines that begin alike, up to a quarter of a worker's share stays together.
TOGETHER = 3
# Pieces in all: a tenth of a second of packing on 64 workers, a third on 256; with a third as many,
# plans for 64 workers ended a thirtieth later (20,000 lines, 40 beginnings).
MOST_PIECES = 768


class Figures(NamedTuple):
    """Of one line of a kind: (m,) seconds that it adds to each worker, and how long it gets."""

    line_s: FloatArray
    length: Length


@dataclass(slots=True, eq=False)
class Piece:
    """Lines that are planned as one.

    Attributes:
        kinds: how many of each, in the order in which they run.
        figures: of its kinds, and of others.
        lines_s: (m,) seconds that all its lines add to each worker.
        shared_s: (m,) seconds of the prefixes, once each.
        eligible: indices of the workers that may serve them; None: all.
        stage: of the plan; those of an earlier one go before.
        quota_s: (m,) seconds of it that each worker is to do, where all who may take from it; None:
            it is in one worker's list.
    """

    kinds: dict[Kind, int]
    figures: Mapping[Kind, Figures]
    lines_s: FloatArray
    shared_s: FloatArray
    eligible: Members
    stage: int = 0
    quota_s: FloatArray | None = None

    @classmethod
    def of(
        cls,
        kinds: dict[Kind, int],
        figures: Mapping[Kind, Figures],
        beta_p_s: FloatArray,
        eligible: Members,
    ) -> Piece:
        """These; `beta_p_s` (m,) seconds of a prompt token on each worker."""
        prefixes = {kind.prefix: kind.shared_tokens for kind in kinds if kind.prefix is not None}
        shared_s = beta_p_s * float(sum(prefixes.values()))
        return cls(kinds, figures, _seconds(kinds, figures), shared_s, eligible)

    @property
    def batch(self) -> str:
        """Whose lines they are."""
        return self.next_kind.batch

    @property
    def tenant(self) -> str:
        """Whose batch that is."""
        return self.next_kind.tenant

    @property
    def lines(self) -> int:
        """How many are left."""
        return sum(self.kinds.values())

    @property
    def next_kind(self) -> Kind:
        """What runs first."""
        return next(iter(self.kinds))

    @property
    def last_length(self) -> Length:
        """Of a line that runs last."""
        return self.figures[next(reversed(self.kinds))].length

    @property
    def longest_tokens(self) -> float:
        """Output tokens of the line that is expected to be longest."""
        return max(self.figures[kind].length.tokens for kind in self.kinds)

    def cost_s(self, worker: int) -> float:
        """Seconds that what is left of it adds to a worker, in whose list it is."""
        if self.quota_s is not None:
            return float(self.quota_s[worker])
        return float(self.lines_s[worker] + self.shared_s[worker])

    def copy(self) -> Piece:
        """The same, to be taken from."""
        return self._with(dict(self.kinds), self.lines_s)

    def _with(self, kinds: dict[Kind, int], lines_s: FloatArray) -> Piece:
        return Piece(kinds, self.figures, lines_s, self.shared_s, self.eligible, self.stage)

    def take(self, kind: Kind, worker: int) -> FloatArray:
        """A worker takes one line of a kind; (m,) seconds less that each has to do of it.

        Who has done its own part of what is for all takes as much of everybody's.
        """
        line_s = self.figures[kind].line_s
        less_s = np.zeros_like(line_s)
        if self.quota_s is not None and self.quota_s[worker] <= 0:
            less_s = self.quota_s * min(1.0, line_s[worker] / max(1e-12, self.lines_s[worker]))
        else:
            less_s[worker] = min(line_s[worker], self.cost_s(worker))
        if self.quota_s is not None:
            self.quota_s = self.quota_s - less_s
        self.kinds[kind] -= 1
        if self.kinds[kind] <= 0:
            del self.kinds[kind]
        self.lines_s = np.maximum(0.0, self.lines_s - line_s)
        return less_s

    def split(self, lines: int) -> Piece:
        """So many lines as a piece of their own: the last, or a mix of those that share nothing."""
        spread = _spread if self.next_kind.prefix is None else _last
        given = spread(self.kinds, lines)
        left = {kind: count - given.get(kind, 0) for kind, count in self.kinds.items()}
        self.kinds = {kind: count for kind, count in left.items() if count}
        given_s = _seconds(given, self.figures)
        self.lines_s = np.maximum(0.0, self.lines_s - given_s)
        return self._with(given, given_s)


def _seconds(kinds: Mapping[Kind, int], figures: Mapping[Kind, Figures]) -> FloatArray:
    """(m,) of so many lines of each kind."""
    return np.asarray(sum(figures[kind].line_s * count for kind, count in kinds.items()))


def _spread(kinds: Mapping[Kind, int], lines: int) -> dict[Kind, int]:
    """So many of them, of each kind as large a share as of any."""
    whole, seen, moved = sum(kinds.values()), 0, 0
    found = {}
    for kind, count in kinds.items():
        seen += count
        if own := seen * lines // whole - moved:
            found[kind] = own
            moved += own
    return found


def _last(kinds: Mapping[Kind, int], lines: int) -> dict[Kind, int]:
    """The last so many of them."""
    found = {}
    for kind, count in reversed(list(kinds.items())):
        if own := min(count, lines):
            found[kind] = own
            lines -= own
    return dict(reversed(list(found.items())))


@dataclass(slots=True)
class _Open:
    """A piece that is being filled."""

    kinds: dict[Kind, int] = field(default_factory=dict)
    cost_s: float = 0.0


def gathered(
    counts: Mapping[Kind, int],
    workers: Sequence[WorkerView],
    expected: Expected,
    eligible: Eligible = lambda _: None,
) -> list[Piece]:
    """All lines as pieces, in the order in which they should run."""
    columns, slots = columns_of(workers)
    figures = _figures(counts, expected, columns, slots)
    least = {kind: max(1e-9, float(found.line_s.min())) for kind, found in figures.items()}
    whole_s = sum(least[kind] * count for kind, count in counts.items())
    size_s = whole_s / min(PIECES * len(workers), MOST_PIECES)
    pieces: list[Piece] = []
    for _, group in groupby(_in_order(counts, figures), apart):
        kinds = list(group)
        may = eligible(kinds[0].model)
        pieces += (
            Piece.of(share, figures, columns.beta_p_s, may)
            for share in _filled(kinds, counts, least, size_s)
        )
    return pieces


def _figures(
    kinds: Iterable[Kind], expected: Expected, columns: CostColumns, slots: FloatArray
) -> dict[Kind, Figures]:
    found = {}
    for kind in kinds:
        length = expected(kind)
        found[kind] = Figures(_line_s(kind, length, columns, slots), length)
    return found


def stay(pieces: Sequence[Piece], workers: Sequence[WorkerView], homes: Homes) -> dict[int, int]:
    """Which pieces go on where others that begin alike have run: (piece, worker).

    As long as no worker gets more than an even share of everything.
    """
    wanted = {k: _home(piece, homes) for k, piece in enumerate(pieces)}
    staying = {k: j for k, j in wanted.items() if j is not None and j < len(workers)}
    if not staying:
        return {}
    cost = np.array([piece.lines_s + piece.shared_s for piece in pieces])
    speed = 1.0 / np.maximum(cost.mean(axis=0), 1e-12)
    load = np.array([worker.backlog_s for worker in workers])
    level_s = float(((cost * speed).mean(axis=1).sum() + (load * speed).sum()) / speed.sum())
    for k, j in list(staying.items()):
        if load[j] + cost[k, j] > level_s:
            del staying[k]
        else:
            load[j] += cost[k, j]
    return staying


def _home(piece: Piece, homes: Homes) -> int | None:
    kind = piece.next_kind
    return None if kind.prefix is None else homes.get((kind.batch, kind.prefix))


def problem_of(
    pieces: Sequence[Piece], workers: Sequence[WorkerView], more_s: FloatArray
) -> Problem:
    """The packing problem of these pieces on top of what the workers have, and `more_s` (m,)."""
    n, m = len(pieces), len(workers)
    columns, slots = columns_of(workers)
    cost = np.array([piece.lines_s + piece.shared_s for piece in pieces])
    may = np.array([[allowed(piece, j) for j in range(m)] for piece in pieces]).reshape(n, m)
    occupancy = np.minimum(slots, max(1, ceil(sum(piece.lines for piece in pieces) / m)))
    kinds = [piece.next_kind for piece in pieces]
    prompt = np.array([[kind.prompt_tokens - kind.shared_tokens] for kind in kinds])
    output = np.array([[piece.longest_tokens] for piece in pieces])
    span = span_s(columns, prompt.reshape(n, 1), output.reshape(n, 1), occupancy)
    backlog = np.array([worker.backlog_s for worker in workers]) + more_s
    return Problem.of(
        np.minimum(cost.reshape(n, m), LARGEST),
        np.minimum(backlog, LARGEST),
        span_s=np.minimum(span.reshape(n, m), LARGEST),
        eligible=may,
    )


def columns_of(workers: Sequence[WorkerView]) -> tuple[CostColumns, FloatArray]:
    """Cost models and (m,) slots."""
    columns = CostColumns.of([worker.cost for worker in workers])
    return columns, np.array([worker.slots for worker in workers], dtype=np.float64)


def allowed(piece: Piece, worker: int) -> bool:
    """Whether the worker may serve it."""
    return piece.eligible is None or worker in piece.eligible


def _line_s(kind: Kind, length: Length, columns: CostColumns, slots: FloatArray) -> FloatArray:
    """(m,) seconds of one line, but for what it shares."""
    own = np.full_like(slots, float(max(1, kind.prompt_tokens - kind.shared_tokens)))
    shared = columns.gamma_d_s * kind.shared_tokens * length.tokens  # it is read all the same
    return request_s(columns, own, np.full_like(slots, length.tokens), slots) + shared


def _in_order(counts: Mapping[Kind, int], figures: Mapping[Kind, Figures]) -> list[Kind]:
    """Who is due first, then batch by batch; what shares nothing last, as it evens out the rest."""
    longest: dict[Hashable, float] = {}
    for kind in counts:
        family = *apart(kind), kind.prefix
        longest[family] = max(longest.get(family, 0.0), figures[kind].length.tokens)

    def place(kind: Kind) -> tuple[float, str, str, bool, float, str, float]:
        family = 0.0 if kind.prefix is None else -longest[*apart(kind), kind.prefix]
        return *apart(kind), family, repr(kind.prefix), -figures[kind].length.tokens

    return sorted((kind for kind, count in counts.items() if count), key=place)


def apart(kind: Kind) -> tuple[float, str, str, bool]:
    """Kinds that differ in this are in no piece together."""
    return kind.due_s, kind.batch, kind.model, kind.prefix is None


def _filled(
    kinds: Iterable[Kind], counts: Mapping[Kind, int], least: Mapping[Kind, float], size_s: float
) -> Iterable[dict[Kind, int]]:
    """Shares of the kinds, in order, of about the same size."""
    piece, last = _Open(), None
    for kind in kinds:
        if piece.kinds and kind.prefix != last and piece.cost_s >= size_s / 2:
            yield piece.kinds  # who begins alike stays together
            piece = _Open()
        last, left = kind.prefix, counts[kind]
        full_s = size_s if last is None else TOGETHER * size_s
        while left:
            most = ceil((full_s - piece.cost_s) / least[kind] - 1e-9)
            count = min(left, max(1, most))
            piece.kinds[kind] = count
            piece.cost_s += count * least[kind]
            left -= count
            if piece.cost_s >= full_s * (1 - 1e-9):
                yield piece.kinds
                piece = _Open()
    if piece.kinds:
        yield piece.kinds
