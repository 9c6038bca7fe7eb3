"""What a report says in words: the short of it, and how to read the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, nan

from router.lab.pictures.svg import figure, percent
from router.lab.simulation.runs import BURST, Run, by_workers, count, kind_name

NBSP = "\N{NO-BREAK SPACE}"


def summary(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """For each number of workers, in words: who is best, and how far from the best there is.

    Only runs on as many workers are compared; the first run is the baseline.
    """
    groups = by_workers(runs)
    for workers, peers in groups.items():
        best = min(peers, key=lambda run: run.rank)
        words = (_timed if best.timed else _burst)(best, peers, runs)
        yield count(workers), " ".join(filter(None, words))
    if len(groups) > 1 and not any(run.timed for run in runs):
        yield f"{min(groups)} to {count(max(groups))}", _scaling(groups)


def _timed(best: Run, peers: Sequence[Run], runs: Sequence[Run]) -> Iterator[str]:
    """Who keeps most targets, and is quickest among those; the makespan is the trace's own."""
    others = sum(_served(run) == _served(best) for run in peers) - 1
    who = kind_name(best, runs) + (f" and {others} more" if others else "")
    better = " best:" if others + 1 < len(peers) else ""
    yield f"{who} serve{'' if others else 's'}{better} with {_served(best)}."
    if found := _other(best, peers, runs, _served, "last"):
        role, run = found
        yield f"The {role}, {kind_name(run, runs)}, has {_served(run)}."
    yield (
        f"Requests came for {_seconds(best.arrivals_s)} of the {_seconds(best.lower_bound_s)} that "
        "no schedule beats: the makespan follows the trace's own length, and ranks nobody."
    )


def _served(run: Run) -> str:
    """What a timed trace is ranked by."""
    return (
        f"{percent(run.goodput)} goodput, end to end p50 {_seconds(run.e2e_s.get('p50', nan))} and "
        f"p99 {_seconds(run.e2e_s.get('p99', nan))}, first token p99 {_seconds(run.ttft_p99_s)}"
    )


def _burst(best: Run, peers: Sequence[Run], runs: Sequence[Run]) -> Iterator[str]:
    yield _soonest(best, peers, runs)
    yield _baseline(best, peers, runs)
    yield _first_tokens(best, peers, runs)


def _soonest(best: Run, peers: Sequence[Run], runs: Sequence[Run]) -> str:
    """Who finishes first, with how many others that one could not tell from it."""
    others = sum(_same(run, best) for run in peers) - 1
    who = kind_name(best, runs) + (f" and {others} more" if others else "")
    soonest = " soonest," if others + 1 < len(peers) else ""
    return (
        f"{who} finish{'' if others else 'es'}{soonest} in {_seconds(best.makespan_s)}, "
        f"{percent(best.gap_ratio)} over the lower bound of {_seconds(best.lower_bound_s)}."
    )


def _baseline(best: Run, peers: Sequence[Run], runs: Sequence[Run]) -> str:
    """How much longer the baseline takes; where it is the best or missing, the slowest."""
    found = _other(best, peers, runs, lambda run: figure(run.makespan_s), "slowest")
    if found is None:
        return ""
    role, base = found
    more = percent(base.makespan_s / best.makespan_s - 1)
    return f"The {role}, {kind_name(base, runs)}, takes {_seconds(base.makespan_s)}, {more} longer."


def _other(
    best: Run, peers: Sequence[Run], runs: Sequence[Run], shown: Callable[[Run], str], worst: str
) -> tuple[str, Run] | None:
    """Whom to set beside the best, and as what: the baseline, or the worst if that is as good."""
    base = next((run for run in peers if run.kind == runs[0].kind), best)
    if shown(base) != shown(best):
        return "baseline", base
    last = max(peers, key=lambda run: run.rank)
    return (worst, last) if shown(last) != shown(best) else None


def _first_tokens(soonest: Run, peers: Sequence[Run], runs: Sequence[Run]) -> str:
    best = min(peers, key=lambda run: run.ttft_p99_s)
    if len(peers) == 1 or not isfinite(best.ttft_p99_s):
        return ""
    words = f"The best p99 time to first token is {_seconds(best.ttft_p99_s)}"
    if figure(best.ttft_p99_s) == figure(soonest.ttft_p99_s):
        return f"{words}, with the same."
    return f"{words}, with {kind_name(best, runs)}, against {_seconds(soonest.ttft_p99_s)}."


def _scaling(groups: Mapping[int, Sequence[Run]]) -> str:
    fewest, most = min(groups), max(groups)
    slow, fast = (min(run.makespan_s for run in groups[workers]) for workers in (fewest, most))
    return (
        f"the best makespan goes from {_seconds(slow)} to {_seconds(fast)}: "
        f"{most / fewest:.3g} times the workers, {slow / fast:.1f} times the speed."
    )


def _same(one: Run, other: Run) -> bool:
    return figure(one.makespan_s) == figure(other.makespan_s)


def _seconds(value: float) -> str:
    return f"{figure(value)}{NBSP}s"


TERMS: Mapping[str, str] = {
    "Makespan": (
        "From the start of the replay until the last request is done, in virtual time. It ranks "
        f"bursts, whose requests come within {BURST:.0%} of the lower bound. Where they come over "
        "time nobody is done before the last has come: then goodput ranks, and of those that keep "
        "as many targets latency, the geometric mean of end to end p50 and p99 and of first token "
        "p99."
    ),
    "Lower bound": (
        "No schedule of these requests on these workers can be shorter, whatever its policy: every "
        "prompt token must be prefilled once, every output token takes one slot for one round. "
        "A run 3 % over the bound is at most 3 % longer than the best there is."
    ),
    "Utilization": (
        "Slot-time in which the slot's own request was prefilled or decoded, over all slot-time "
        "until the makespan. A slot whose request stands still while another is prefilled does no "
        "work."
    ),
    "Time to first token": "From a request's arrival to its first output token, queueing included.",
    "End to end": "From a request's arrival to its last output token.",
    "Per output token": "Mean time from one output token of a request to the next.",
    "Longest stall": "The longest time between two tokens of a request that follow each other.",
    "Goodput": (
        "Share of the requests that kept both of their targets: the time to the first token, and "
        "the mean time per token after it."
    ),
    "Short and long answers": (
        "The requests in four equal parts by output tokens. What of the time from end to end lay "
        "after the request's prefill had begun is its service; the rest it waited."
    ),
    "Load": (
        "Requests a second over what the workers could serve at most by the lower bound: all slots "
        "full at any time, every prompt prefilled. All times between arrivals are in proportion."
    ),
    "Upper bound": (
        "No more of the requests can keep their targets on these workers, whatever router, order "
        "and iterations: a linear program over what must be done within each stretch of time. What "
        "comes near to it cannot be much improved; the bound itself may be out of reach."
    ),
    "Worker-hours": "The time until the makespan, times the workers.",
    "p50, p95, p99": "Half, 95 % and 99 % of the requests took at most so long.",
    "Schedules": (
        "Time runs to the right; each row is a slot of a worker, or each strip a worker. Orange is "
        "prefill, blue decode, yellow a request that stands still while others are prefilled; the "
        "rest is idle. The solid line is the makespan, the dashed one the lower bound."
    ),
}
