"""From settings to a simulation: requests, workers, dispatcher, and the report of what happened."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from router.lab.simulation.documents import by_bytes, by_tokenizer
from router.lab.simulation.loads import requests_per_s, stretched
from router.lab.simulation.traces import Trace, read_trace
from router.settings.hardware import hardware
from router.settings.offline import Traffic
from solver.batching.policies import POLICIES
from solver.cost.model import CostModel
from solver.routing.dispatchers import dispatcher, poll_s
from solver.routing.fair import Weight
from solver.routing.fair import alike as evenly
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine
from solver.sim.stale import seen_every
from solver.sim.worker import Worker, WorkerSetting
from solver.sim.workload import all_at_once, azure_conv, poisson

Record = Callable[[ScheduleLine], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a run is about.

    Attributes:
        policy, dispatch, workers: what is tried.
        load: percent of what the workers could serve at most; None: as the trace's arrivals say.
    """

    policy: str
    dispatch: str
    workers: int
    load: int | None = None


# By this name a trace is drawn, for whoever has none at hand: so many requests, and their seed.
SAMPLE, SAMPLED, SAMPLE_SEED = "sample", 1000, 0


def _is_sample(traffic: Traffic) -> bool:
    return str(traffic.requests) == SAMPLE and not traffic.requests.exists()


def load(traffic: Traffic, *, tell: bool = False) -> list[Request]:
    """The requests, arriving as the settings say; `tell`: say what is left out or assumed."""
    if _is_sample(traffic):
        requests = azure_conv(SAMPLED, random.Random(SAMPLE_SEED))
    else:
        length = by_bytes if traffic.tokenizer is None else by_tokenizer(traffic.tokenizer)
        names = traffic.names
        found = read_trace(traffic.requests, traffic.limits, columns=names, length=length)
        requests = found.requests
        if tell:
            _tell(traffic, found)
    requests = requests[: traffic.limit]
    kind, _, rate = traffic.arrivals.partition(":")
    if kind == "all-at-once":
        return all_at_once(requests)
    if kind == "poisson":
        return poisson(requests, float(rate), random.Random(f"{traffic.seed}/arrivals"))
    return requests


def _tell(traffic: Traffic, found: Trace) -> None:
    said = [f"{number} rows left out: {why}" for why, number in sorted(found.left_out.items())]
    if traffic.arrivals == "trace":
        said += found.said
    if found.logged is not None and "cost" not in traffic.model_fields_set:
        slots, speeds = setting(traffic, ()).slots, ", ".join(f"{x:g}" for x in traffic.speed)
        said.append(
            f"{found.logged.workers} workers served it, half of it within "
            f"{found.logged.median_s:.3g} s each; simulated are workers like {traffic.cost}, of "
            f"{slots} slots and speed {speeds}: --cost, --slots and --speed say otherwise"
        )
    for line in said:
        print(f"{traffic.requests}: {line}", file=sys.stderr)


def load_at(traffic: Traffic, choice: Choice) -> list[Request]:
    """The requests of a run, at its load."""
    requests = load(traffic)
    if choice.load is None:
        return requests
    return stretched(requests, choice.load / 100 * capacity(traffic, requests, choice.workers))


def capacity(traffic: Traffic, requests: Sequence[Request], workers: int) -> float:
    """Requests like these a second that workers could serve at most: a load of 100 %."""
    return requests_per_s(requests, costs(traffic, workers), setting(traffic, requests).slots)


def costs(traffic: Traffic, workers: int) -> list[CostModel]:
    """A cost model a worker."""
    cost = hardware(traffic.cost).cost
    return [cost.scaled(1 / speed) for speed in islice(cycle(traffic.speed), workers)]


def setting(traffic: Traffic, requests: Sequence[Request]) -> WorkerSetting:
    """What the workers are like."""
    known = hardware(traffic.cost)
    hashed = any(request.hash_ids for request in requests)
    return WorkerSetting(
        slots=traffic.slots or known.slots,
        kv_tokens=traffic.kv_tokens or known.kv_tokens,
        prefill_budget=traffic.prefill_budget or known.prefill_budget,
        order=traffic.order,
        prefix_cache=traffic.prefix_cache and hashed,
        cache_knowledge=traffic.cache_knowledge,
    )


def fleet(
    traffic: Traffic, requests: Sequence[Request], choice: Choice, record: Record | None = None
) -> Fleet:
    """Ready to run."""
    return assembled(
        requests,
        costs(traffic, choice.workers),
        setting(traffic, requests),
        choice,
        lengths=traffic.lengths,
        stale_s=traffic.stale,
        seed=traffic.seed,
        record=record,
        weight=traffic.weight,
    )


def assembled(
    requests: Sequence[Request],
    costs: Sequence[CostModel],
    alike: WorkerSetting,
    choice: Choice,
    *,
    lengths: str = "predicted",
    stale_s: float | None = None,
    seed: int = 0,
    record: Record | None = None,
    weight: Weight = evenly,
) -> Fleet:
    """A fleet with a worker for each cost model; `stale_s` is the dispatcher's own unless given."""
    workers = [
        Worker(f"w{j}", cost, alike, POLICIES[choice.policy](), record)
        for j, cost in enumerate(costs)
    ]
    made = dispatcher(choice.dispatch, random.Random(f"{seed}/dispatch"), weight)
    dispatch = seen_every(poll_s(choice.dispatch) if stale_s is None else stale_s, made)
    return Fleet(requests, workers, dispatch, length_forecaster(lengths, seed))
