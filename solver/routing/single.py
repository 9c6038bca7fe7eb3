"""One request on a few workers: the same decision as any plan's, in plain numbers.

At low load most windows hold one request, and arrays of two or three numbers cost more than what is
done with them.
"""

from __future__ import annotations

from math import inf

from solver.routing.columns import Load, Requests
from solver.routing.formulas import (
    NUMBERS,
    cost_s,
    is_open,
    load_figures,
    pair_figures,
    request_figures,
    rooms,
    seconds,
    tail_scale_s,
    worker_figures,
)

# Beyond so many workers arrays are quicker.
FEW = 16
NOTHING = (0.0, 0.0, 0.0)


def is_single(requests: Requests, load: Load) -> bool:
    """Whether it is for here."""
    return len(requests) == 1 and len(load.slots) <= FEW


def value(requests: Requests, load: Load) -> tuple[list[float], list[bool]]:
    """What the one request costs on each of m workers, and which of them may be sent something.

    As `solver.routing.objective.Pairs`: infinite where it must not go.
    """
    prompt, output, overrun, weight, waited_s, ttft_s, tpot_s = (
        column.item()
        for column in (
            requests.prompt,
            requests.output,
            requests.overrun,
            requests.weight,
            requests.waited_s,
            requests.ttft_s,
            requests.tpot_s,
        )
    )
    *figures, variance = request_figures(
        prompt, output, overrun, weight, ttft_s - waited_s, tpot_s, NUMBERS
    )
    columns = list(zip(*[column.tolist() for column in load_figures(load)], strict=True))
    forbidden = None if requests.forbidden is None else requests.forbidden[0].tolist()
    found, expected_s, long_s = [], inf, inf
    for j, (column, uncached) in enumerate(
        zip(columns, requests.uncached[0].tolist(), strict=True)
    ):
        worker, left = worker_figures(column, output, NUMBERS)
        pair = pair_figures(column, left, uncached, prompt, output, NUMBERS)
        felt = seconds(worker, prompt, pair[0], NOTHING, NUMBERS)
        found.append((worker, pair, felt))
        if forbidden is None or not forbidden[j]:
            _, first, rest = felt
            expected_s = min(expected_s, first + output * rest)
            long_s = min(long_s, first + figures[2] * rest)
    scale_s = tail_scale_s(load.left_s, expected_s, sum(column[5] for column in columns), 1)
    request = (*figures, max(load.level_s, long_s), weight / (2.0 * scale_s), variance)
    costs = [
        inf
        if forbidden is not None and forbidden[j]
        else cost_s(worker, request, pair, NOTHING, felt, NUMBERS)
        for j, (worker, pair, felt) in enumerate(found)
    ]
    return costs, [is_open(rooms(column, NUMBERS), NOTHING) for column in columns]
