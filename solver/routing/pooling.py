"""Lines that share nothing wait for all workers that may serve them together, longest first.

A plan of pieces says how much of a batch each worker gets, and what is long goes to the fast ones.
Were it followed to the letter, a worker with pieces of long lines alone would end with some of them
in a last wave of their own, on few of its slots, though it has no more work than others; and a slow
one would begin short lines while it has time for long ones. So all take from one pool: each as many
seconds as the plan gives it before anything else, and then whatever is left.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from solver.routing.kinds import Kind
from solver.routing.pieces import Piece, allowed, apart


def pooled(lists: Sequence[Sequence[Piece]]) -> list[deque[Piece]]:
    """Each worker's pieces, in the order in which they should run; pools are in several lists."""
    found: list[list[Piece]] = [[] for _ in lists]
    pools: dict[Hashable, list[tuple[int, Piece]]] = {}
    for j, own in enumerate(lists):
        for piece in own:
            key = apart(piece.next_kind)
            shares_nothing = key[-1]
            if shares_nothing:
                pools.setdefault(key, []).append((j, piece))
            else:
                found[j].append(piece)
    for placed in pools.values():
        pool = _pool(placed, len(lists))
        for j, mine in enumerate(found):
            if allowed(pool, j):
                mine.append(pool)
    return [deque(sorted(own, key=lambda piece: apart(piece.next_kind))) for own in found]


def _pool(placed: Sequence[tuple[int, Piece]], workers: int) -> Piece:
    """The same lines as one piece, of which each is to do as many seconds as it had of them."""
    _, like = placed[0]
    counts, seconds = Counter[Kind](), np.zeros(workers)
    for j, piece in placed:
        seconds[j] += piece.cost_s(j)
        counts.update(piece.kinds)
    longest = sorted(counts, key=lambda kind: -like.figures[kind].length.tokens)
    kinds = {kind: counts[kind] for kind in longest}
    pool = Piece.of(kinds, like.figures, np.zeros_like(like.shared_s), like.eligible)
    return replace(pool, quota_s=seconds)
