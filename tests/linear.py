"""Whether what somebody else may make large costs no more than its size says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMES = 4  # what is linear takes so many times as long, what is quadratic the square
MOST = 2 * TIMES
LEAST_S = 0.002  # what takes less tells nothing


def assert_linear(work: Callable[[Any], object], small: Any, large: Any) -> None:  # noqa: ANN401
    """Of `work` with what is `TIMES` as `large`: the best of some tries of each, interleaved.

    CPU time of this thread, as others use the machine too.
    """
    best = {0: float("inf"), 1: float("inf")}
    for _ in range(3):
        for which, given in enumerate((small, large)):
            begun = time.thread_time()
            work(given)
            best[which] = min(best[which], time.thread_time() - begun)
    assert best[1] <= MOST * max(best[0], LEAST_S), best
