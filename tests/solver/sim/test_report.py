"""What a report says of short and long answers, in every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isclose
from statistics import fmean

import pytest
from hypothesis import given, settings

from solver.sim.report import QUARTERS
from solver.sim.request import Request
from tests.solver.sim.drive import Run, Way, simulate
from tests.solver.sim.test_simulation import cases


def spread_out(run: Run) -> list[tuple[float, float]]:
    """(end to end, since the prefill) of each request, shortest answers first."""
    begun: dict[str, float] = {}
    for line in run.lines:
        for key in line["prefill"]:
            begun.setdefault(key, line["start_s"])
    fleet = run.fleet
    times = [
        (request.output_tokens, end - request.arrival_s, end - begun[request.id])
        for request, end in zip(fleet.requests, fleet.end_s.tolist(), strict=True)
    ]
    lengths = sorted(length for length, *_ in times)
    of_length = {
        length: [(e2e, service) for one, e2e, service in times if one == length]
        for length in set(lengths)
    }
    return [
        (fmean(e2e for e2e, _ in of_length[n]), fmean(service for _, service in of_length[n]))
        for n in lengths
    ]


@given(cases())
@settings(max_examples=30)
def test_quarters_are_of_as_many_requests_from_short_to_long(
    case: tuple[Sequence[Request], Way],
) -> None:
    run = simulate(*case)
    left = spread_out(run)
    for k, name in enumerate(QUARTERS):
        size = len(run.requests) // 4 + (k < len(run.requests) % 4)
        part, left = left[:size], left[size:]
        told = run.report.service_by_length[name]
        e2e = fmean(one for one, _ in part) if part else 0.0
        assert isclose(told["e2e_s"], e2e, rel_tol=1e-9, abs_tol=1e-9)
        if part:
            share = fmean(one for _, one in part) / e2e
            assert isclose(told["service_ratio"], share, rel_tol=1e-9)
    assert not left


@pytest.mark.parametrize("slots", [1, 4])
def test_who_waits_shows(slots: int) -> None:
    """Alone in its slot nobody waits; one after the other the last waits for all."""
    way = Way({"alpha_p_ms": 10, "beta_p_ms": 1, "alpha_d_ms": 10, "beta_d_ms": 0}, slots)
    requests = [Request(str(k), 1, 10 * (k + 1)) for k in range(4)]
    found = simulate(requests, replace(way, order="shortest")).report.service_by_length
    shares = [found[name]["service_ratio"] for name in QUARTERS]
    if slots == 4:
        assert shares == [1.0] * 4
    else:
        assert shares[0] == 1.0
        assert all(share < 1.0 for share in shares[1:])
