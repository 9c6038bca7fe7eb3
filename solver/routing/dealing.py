"""Lines that share nothing are dealt among workers that are alike: each gets its share of a kind.

A plan of pieces says how much of a batch each worker gets, and what is long goes to the fast ones.
Were it followed to the letter, one of several alike with pieces of long lines alone would end with
some of them in a last wave of their own, on few of its slots, though it has no more work than
others. So those that are alike get as many seconds each as the plan gives them, of every kind in
its turn, longest first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from itertools import groupby

import numpy as np

from solver.arrays import FloatArray
from solver.routing.kinds import Kind
from solver.routing.pieces import Piece, apart
from solver.routing.problem import WorkerView

Placed = tuple[int, Piece]


def dealt(lists: Sequence[Sequence[Piece]], workers: Sequence[WorkerView]) -> list[deque[Piece]]:
    """Each worker's pieces, in the order in which they should run."""
    found: list[list[Piece]] = [[] for _ in lists]
    groups: dict[Hashable, list[Placed]] = {}
    for j, own in enumerate(lists):
        for key, pieces in groupby(own, lambda piece: apart(piece.next_kind)):
            shares_nothing = key[-1]
            if shares_nothing:
                like = key, workers[j].cost, workers[j].slots
                groups.setdefault(like, []).extend((j, piece) for piece in pieces)
            else:
                found[j].extend(pieces)
    for group in groups.values():
        for j, piece in _dealt(group):
            found[j].append(piece)
    return [deque(sorted(own, key=lambda piece: apart(piece.next_kind))) for own in found]


def _dealt(group: Sequence[Placed]) -> list[Placed]:
    """The same lines, one piece for each worker."""
    _, like = group[0]
    counts: dict[Kind, int] = {}
    seconds: dict[int, float] = {}
    for j, piece in group:
        seconds[j] = seconds.get(j, 0.0) + float(piece.lines_s[j])
        for kind, count in piece.kinds.items():
            counts[kind] = counts.get(kind, 0) + count
    share = np.array(list(seconds.values()))
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
    given: list[dict[Kind, int]] = [{} for _ in seconds]
    owed = np.zeros(len(share))
    for kind in sorted(counts, key=lambda kind: -like.figures[kind].length.tokens):
        owed = owed + counts[kind] * share
        lines = _whole(owed, counts[kind])
        owed = owed - lines
        for k in np.flatnonzero(lines).tolist():
            given[k][kind] = int(lines[k])
    return [
        (j, Piece.of(own, like.figures, np.zeros_like(like.shared_s), like.eligible))
        for j, own in zip(seconds, given, strict=True)
        if own
    ]


def _whole(owed: FloatArray, count: int) -> FloatArray:
    """Whole numbers of lines, `count` in all, as near to what is `owed` as can be."""
    lines = np.maximum(0.0, np.floor(owed))
    rest = int(count - lines.sum())  # at least 0: what is owed is `count` in all
    lines[np.argsort(lines - owed, kind="stable")[:rest]] += 1
    return lines
