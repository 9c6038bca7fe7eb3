"""What came of a simulation, in the figures that people compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from solver.arrays import FloatArray
from solver.batching.bounds import Engine, Work, engine_bound, fleet_bound
from solver.batching.kv import BLOCK_TOKENS
from solver.batching.ledger import STATES
from solver.cost.model import Action
from solver.packing.problem import TOLERANCE
from solver.routing.fair import Weight, alike
from solver.sim.fairness import Fairness, fairness
from solver.sim.fleet import Fleet
from solver.sim.request import Request
from solver.sim.worker import Worker

QUANTILES = (50, 95, 99)
QUARTERS = ("q1", "q2", "q3", "q4")


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one simulation.

    Attributes:
        makespan_s: when the last request ended.
        arrivals_s: when the last request came.
        lower_bound_s: no schedule ends before.
        gap_ratio: how far the makespan is above that, as a fraction of it.
        utilization: slot-time in which the slot's own request was prefilled or decoded, over all
            slots times the makespan (README section 6).
        generation_tokens_per_s: output tokens over the makespan.
        prefill_stages, decode_rounds, mixed_iterations: iterations of all workers.
        cache_hit_ratio: prompt tokens found in a prefix cache when their request was first let in,
            over all prompt tokens.
        preemptions: how often a request lost its memory and was prefilled again.
        ttft_s: time from arrival to first token: mean, p50, p95, p99.
        tpot_s: time per output token after the first.
        e2e_s: time from arrival to last token.
        stall_s: the longest gap between two of a request's tokens, of requests with several.
        goodput: share of the requests with targets that kept both; 1 if none has any.
        service_by_length: of each quarter of the requests by output tokens, shortest first, the
            mean ``e2e_s``, and ``service_ratio``: how much of it lay after the prefill had begun.
        slot_seconds: where slot-time went until the makespan, by state.
        tenants: slot-seconds, and time to first token (p50, p99), of each; empty if there is one.
        largest_difference_slot_s, jain_index: between tenants; see `solver.sim.fairness`.
    """

    makespan_s: float
    arrivals_s: float
    lower_bound_s: float
    gap_ratio: float
    utilization: float
    generation_tokens_per_s: float
    prefill_stages: int
    decode_rounds: int
    mixed_iterations: int
    cache_hit_ratio: float
    preemptions: int
    ttft_s: Mapping[str, float]
    tpot_s: Mapping[str, float]
    e2e_s: Mapping[str, float]
    stall_s: Mapping[str, float]
    goodput: float
    service_by_length: Mapping[str, Mapping[str, float]]
    slot_seconds: Mapping[str, float]
    requests: int
    prompt_tokens: int
    output_tokens: int
    tenants: Mapping[str, Mapping[str, float]]
    largest_difference_slot_s: float
    jain_index: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def report(fleet: Fleet, weight: Weight = alike) -> Report:
    """Of a fleet that has run; `weight` is that of each tenant's share."""
    requests, workers = fleet.requests, fleet.workers
    makespan = float(fleet.end_s.max())
    bound = lower_bound(requests, workers)
    if makespan < bound <= makespan * (1 + TOLERANCE):
        bound = makespan  # the two were summed in different orders
    for worker in workers:
        worker.batcher.ledger.advance(makespan)
    slot_s = {s: sum(w.batcher.ledger.seconds[s] for w in workers) for s in STATES}
    slots = sum(worker.setting.slots for worker in workers)
    output = sum(request.output_tokens for request in requests)
    prompt = sum(request.prompt_tokens for request in requests)
    stages = {kind: sum(worker.stages[kind] for worker in workers) for kind in Action}
    fair = fairness(fleet, weight)
    return Report(
        makespan_s=makespan,
        arrivals_s=float(_arrivals(requests).max()),
        lower_bound_s=bound,
        gap_ratio=makespan / bound - 1.0,
        utilization=(slot_s["prefill"] + slot_s["decode"]) / (slots * makespan),
        generation_tokens_per_s=output / makespan,
        prefill_stages=stages[Action.PREFILL],
        decode_rounds=stages[Action.DECODE],
        mixed_iterations=stages[Action.MIXED],
        cache_hit_ratio=sum(worker.cached_prompt for worker in workers) / prompt,
        preemptions=sum(worker.batcher.preemptions for worker in workers),
        ttft_s=mean_and_quantiles(time_to_first_token(fleet)),
        tpot_s=mean_and_quantiles(time_per_token(fleet)),
        e2e_s=mean_and_quantiles(fleet.end_s - _arrivals(requests)),
        stall_s=mean_and_quantiles(fleet.stall_s[_outputs(requests) > 1]),
        goodput=goodput(fleet),
        service_by_length=service_by_length(fleet),
        slot_seconds=slot_s,
        requests=len(requests),
        prompt_tokens=prompt,
        output_tokens=output,
        tenants=_tenants(fleet, fair) if len(fair.slot_s) > 1 else {},
        largest_difference_slot_s=fair.largest_difference_slot_s,
        jain_index=fair.jain,
    )


def _tenants(fleet: Fleet, fair: Fairness) -> dict[str, dict[str, float]]:
    names = np.array([request.tenant for request in fleet.requests])
    first_s, found = time_to_first_token(fleet), dict[str, dict[str, float]]()
    for name, slot_s in fair.slot_s.items():
        p50, p99 = np.percentile(first_s[names == name], (50, 99))
        found[name] = {"slot_s": slot_s, "ttft_p50_s": float(p50), "ttft_p99_s": float(p99)}
    return found


def mean_and_quantiles(seconds: FloatArray) -> dict[str, float]:
    """Mean and quantiles; zeros of nothing."""
    if not len(seconds):
        return {"mean": 0.0} | {f"p{q}": 0.0 for q in QUANTILES}
    quantiles = np.percentile(seconds, QUANTILES)
    values = {f"p{q}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(seconds.mean())} | values


def time_to_first_token(fleet: Fleet) -> FloatArray:
    """(n,) seconds from arrival."""
    return np.asarray(fleet.first_s - _arrivals(fleet.requests), dtype=np.float64)


def time_per_token(fleet: Fleet) -> FloatArray:
    """(k,) seconds per output token after the first, of requests that have more than one."""
    return _times_per_token(fleet)[_outputs(fleet.requests) > 1]


def _times_per_token(fleet: Fleet) -> FloatArray:
    """(n,) the same of all; 0 for a single token."""
    after_first = np.maximum(1.0, _outputs(fleet.requests) - 1.0)
    return np.asarray((fleet.end_s - fleet.first_s) / after_first, dtype=np.float64)


def goodput(fleet: Fleet) -> float:
    """Share of the requests with targets that kept both; 1 if none has any."""
    first_s, each_s = time_to_first_token(fleet).tolist(), _times_per_token(fleet).tolist()
    times = zip(fleet.requests, first_s, each_s, strict=True)
    met = [one.targets.met(first, each) for one, first, each in times if one.targets.any]
    return sum(met) / len(met) if met else 1.0


def service_by_length(fleet: Fleet) -> dict[str, dict[str, float]]:
    """How long short and long answers took: see `Report`.

    Quarters are of as many requests each; where an edge falls among answers of one length, all of
    these count on both sides with their mean.
    """
    output, e2e_s = _outputs(fleet.requests), fleet.end_s - _arrivals(fleet.requests)
    e2e = _quarters(output, e2e_s)
    service = _quarters(output, fleet.end_s - fleet.begun_s)
    return {
        name: {"e2e_s": e2e[k], "service_ratio": service[k] / e2e[k] if e2e[k] else 1.0}
        for k, name in enumerate(QUARTERS)
    }


def _quarters(output: FloatArray, seconds: FloatArray) -> list[float]:
    """Means of four parts by output tokens; 0 of nothing."""
    lengths, at = np.unique(output, return_inverse=True)
    of_length = np.bincount(at, seconds, len(lengths)) / np.bincount(at, minlength=len(lengths))
    parts = np.array_split(of_length[np.sort(at)], len(QUARTERS))
    return [float(part.mean()) if len(part) else 0.0 for part in parts]


def lower_bound(requests: Sequence[Request], workers: Sequence[Worker]) -> float:
    """Seconds before which these workers cannot have done these requests, whatever they do.

    With prefix caches every block is prefilled once at least, by whoever sends it first.
    """
    cached = any(worker.setting.prefix_cache for worker in workers)
    prompt = _least_prompts(requests) if cached else [r.prompt_tokens for r in requests]
    output = [request.output_tokens for request in requests]
    engines = [Engine(worker.cost, worker.setting.slots) for worker in workers]
    bound = fleet_bound(
        engines,
        _arrivals(requests),
        np.array(prompt, dtype=np.float64),
        np.array(output, dtype=np.float64),
    )
    if len(workers) > 1:
        return bound
    contexts = (r.prompt_tokens * r.output_tokens for r in requests)
    work = Work(
        requests=len(requests),
        prompt=sum(prompt),
        output=sum(output),
        longest_output=max(output),
        context=sum(contexts) + sum(d * (d - 1) // 2 for d in output),
    )
    alone = engine_bound(
        workers[0].cost,
        workers[0].setting.slots,
        work,
        kv_tokens=workers[0].setting.kv_tokens,
        prefill_budget=workers[0].setting.prefill_budget,
    )
    return max(bound, alone)


def _least_prompts(requests: Sequence[Request]) -> list[int]:
    seen: set[int] = set()
    least: list[int] = []
    for request in requests:
        known = sum(block in seen for block in request.hash_ids)
        seen.update(request.hash_ids)
        least.append(max(1, request.prompt_tokens - known * BLOCK_TOKENS))
    return least


def _arrivals(requests: Sequence[Request]) -> FloatArray:
    return np.array([request.arrival_s for request in requests], dtype=np.float64)


def _outputs(requests: Sequence[Request]) -> FloatArray:
    return np.array([request.output_tokens for request in requests], dtype=np.float64)
