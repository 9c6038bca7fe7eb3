"""Bulk work in pieces: lines that are predicted alike, gathered so that few are to be packed.

Rules:
- a `Kind` is what lines have in common: their batch, what they begin with, about how long they are;
- a piece is some lines of one or several kinds, about a `PIECES`-th of what a worker gets, so that
  a plan can even workers out; lines that begin alike are one, up to `TOGETHER` times as large;
- pieces come in the order in which lines should run: who is due first, then the longest, so that
  what is left at the end is short; all that begins alike stands together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from solver.arrays import LARGEST, FloatArray
from solver.cost.model import CostColumns, request_s, span_s
from solver.packing.problem import Problem
from solver.routing.problem import WorkerView

# Pieces of a worker's share: what they leave uneven is split and evened out, and again as lines are
# taken. Twice as many take four times as long to pack, and end no sooner.
PIECES = 12
# Of lines that begin alike, up to a quarter of a worker's share stays together.
TOGETHER = 3
# Pieces in all: 30 ms of packing on 64 workers, 44 on 256; twice as many took twice as long, and
# ended no sooner (20,000 lines of 200 kinds).
MOST_PIECES = 256


@dataclass(frozen=True, slots=True)
class Kind:
    """What lines have in common that are predicted alike.

    Attributes:
        batch: whose they are.
        prompt_tokens: of each, about.
        due_s: when they should be done, by the planner's clock; infinite: whenever.
        prefix: what they begin with, if others begin with it too; None: they share nothing.
        shared_tokens: how many tokens of the prompt that is.
        model: whose answers they want, which says who may serve them.
        label: whatever else tells them apart, such as the limit of their answers.
    """

    batch: str
    prompt_tokens: int
    due_s: float = inf
    prefix: Hashable = None
    shared_tokens: int = 0
    model: str = ""
    label: Hashable = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = self.batch, self.prompt_tokens, self.due_s, self.prefix, self.model, self.label
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """Made once: kinds are looked up for every line."""
        return self._hash


class Length(NamedTuple):
    """Output tokens of a line: as expected, and by how much one in fifty is longer."""

    tokens: float
    overrun: float = 0.0


Expected = Callable[[Kind], Length]
# Which workers, by their indices, may serve a model; None: all.
Members = frozenset[int] | None
Eligible = Callable[[str], Members]
# Where lines of a batch that begin with something have last been sent.
Homes = Mapping[tuple[str, Hashable], int]


@dataclass(slots=True)
class Piece:
    """Lines that are planned as one.

    Attributes:
        kinds: how many of each, in the order in which they run.
        line_s: (m,) seconds that one line adds to each worker on average.
        shared_s: (m,) seconds of the prefixes, once each.
        length: the mean and the largest overrun of its lines.
        eligible: indices of the workers that may serve them; None: all.
    """

    kinds: dict[Kind, int]
    line_s: FloatArray
    shared_s: FloatArray
    length: Length
    eligible: Members

    @property
    def lines(self) -> int:
        """How many are left."""
        return sum(self.kinds.values())

    def cost_s(self, worker: int) -> float:
        """Seconds that what is left of it adds to a worker."""
        return float(self.lines * self.line_s[worker] + self.shared_s[worker])

    def copy(self) -> Piece:
        """The same, to be taken from."""
        return replace(self, kinds=dict(self.kinds))

    def split(self, lines: int) -> Piece:
        """The last so many lines, as a piece of their own."""
        given: dict[Kind, int] = {}
        for kind, count in reversed(list(self.kinds.items())):
            moved = min(count, lines)
            if moved <= 0:
                break
            lines -= moved
            given[kind] = moved
            self.kinds[kind] -= moved
            if not self.kinds[kind]:
                del self.kinds[kind]
        return replace(self, kinds=given)


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
    lengths = {kind: expected(kind) for kind in counts}
    each = {kind: _line_s(kind, lengths[kind], columns, slots) for kind in counts}
    least = {kind: max(1e-9, float(cost.min())) for kind, cost in each.items()}
    whole_s = sum(least[kind] * count for kind, count in counts.items())
    most = min(PIECES * len(workers), MOST_PIECES)
    size_s = whole_s / most
    pieces: list[Piece] = []
    for _, together in groupby(_in_order(counts, lengths), _apart):
        shares = _filled(together, counts, least, size_s)
        for kinds in shares:
            may = eligible(next(iter(kinds)).model)
            pieces.append(_piece(kinds, each, lengths, columns, may))
    return pieces


def stay(pieces: Sequence[Piece], workers: Sequence[WorkerView], homes: Homes) -> dict[int, int]:
    """Which pieces go on where others that begin alike have run: (piece, worker).

    As long as no worker gets more than an even share of everything.
    """
    wanted = {k: _home(piece, homes) for k, piece in enumerate(pieces)}
    staying = {k: j for k, j in wanted.items() if j is not None and j < len(workers)}
    if not staying:
        return {}
    cost = np.array([piece.lines * piece.line_s + piece.shared_s for piece in pieces])
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
    kind = next(iter(piece.kinds))
    return None if kind.prefix is None else homes.get((kind.batch, kind.prefix))


def problem_of(
    pieces: Sequence[Piece], workers: Sequence[WorkerView], more_s: FloatArray
) -> Problem:
    """The packing problem of these pieces on top of what the workers have, and `more_s` (m,)."""
    n, m = len(pieces), len(workers)
    columns, slots = columns_of(workers)
    cost = np.array([piece.lines * piece.line_s + piece.shared_s for piece in pieces])
    allowed = np.array([_allowed(piece, m) for piece in pieces]).reshape(n, m)
    occupancy = np.minimum(slots, max(1, ceil(sum(piece.lines for piece in pieces) / m)))
    kinds = [next(iter(piece.kinds)) for piece in pieces]
    prompt = np.array([[kind.prompt_tokens - kind.shared_tokens] for kind in kinds])
    output = np.array([[piece.length.tokens] for piece in pieces])
    span = span_s(columns, prompt.reshape(n, 1), output.reshape(n, 1), occupancy)
    backlog = np.array([worker.backlog_s for worker in workers]) + more_s
    return Problem.of(
        np.minimum(cost.reshape(n, m), LARGEST),
        np.minimum(backlog, LARGEST),
        span_s=np.minimum(span.reshape(n, m), LARGEST),
        eligible=allowed,
    )


def columns_of(workers: Sequence[WorkerView]) -> tuple[CostColumns, FloatArray]:
    """Cost models and (m,) slots."""
    columns = CostColumns.of([worker.cost for worker in workers])
    return columns, np.array([worker.slots for worker in workers], dtype=np.float64)


def _allowed(piece: Piece, workers: int) -> list[bool]:
    return [piece.eligible is None or j in piece.eligible for j in range(workers)]


def _line_s(kind: Kind, length: Length, columns: CostColumns, slots: FloatArray) -> FloatArray:
    """(m,) seconds of one line, but for what it shares."""
    own = np.full_like(slots, float(max(1, kind.prompt_tokens - kind.shared_tokens)))
    shared = columns.gamma_d_s * kind.shared_tokens * length.tokens  # it is read all the same
    return request_s(columns, own, np.full_like(slots, length.tokens), slots) + shared


def _in_order(counts: Mapping[Kind, int], lengths: Mapping[Kind, Length]) -> list[Kind]:
    longest: dict[tuple[float, Hashable], float] = {}
    for kind in counts:
        family = kind.due_s, kind.prefix
        longest[family] = max(longest.get(family, 0.0), lengths[kind].tokens)

    def place(kind: Kind) -> tuple[float, float, str, float]:
        length = lengths[kind].tokens
        if kind.prefix is None:
            return kind.due_s, -length, "", -length
        return kind.due_s, -longest[kind.due_s, kind.prefix], repr(kind.prefix), -length

    return sorted((kind for kind, count in counts.items() if count), key=place)


def _apart(kind: Kind) -> tuple[str, str, bool]:
    """Kinds that differ in this are in no piece together."""
    return kind.batch, kind.model, kind.prefix is None


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


def _piece(
    kinds: dict[Kind, int],
    each: Mapping[Kind, FloatArray],
    lengths: Mapping[Kind, Length],
    columns: CostColumns,
    eligible: Members,
) -> Piece:
    count = sum(kinds.values())
    line_s = sum((each[kind] * own for kind, own in kinds.items()), np.zeros(1)) / count
    prefixes = {kind.prefix: kind.shared_tokens for kind in kinds if kind.prefix is not None}
    shared_s = columns.beta_p_s * float(sum(prefixes.values()))
    tokens = sum(lengths[kind].tokens * own for kind, own in kinds.items()) / count
    length = Length(tokens, max(lengths[k].overrun for k in kinds))
    return Piece(kinds, line_s, shared_s, length, eligible)
