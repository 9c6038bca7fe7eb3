"""Dispatchers by name, one a file: what other routers do, and ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from solver.routing.dispatchers.base import Dispatcher, Immediate
from solver.routing.dispatchers.dlpm import Dlpm
from solver.routing.dispatchers.kv_cost import kv_cost
from solver.routing.dispatchers.least_requests import least_requests
from solver.routing.dispatchers.least_tokens import least_tokens
from solver.routing.dispatchers.least_work import least_work
from solver.routing.dispatchers.lmetric import lmetric
from solver.routing.dispatchers.makespan import Makespan
from solver.routing.dispatchers.power_of_two import power_of_two
from solver.routing.dispatchers.prefix_aware import prefix_aware
from solver.routing.dispatchers.random_choice import random_choice
from solver.routing.dispatchers.round_robin import round_robin
from solver.routing.dispatchers.slo_headroom import slo_headroom
from solver.routing.dispatchers.vllm_dp import vllm_dp
from solver.routing.dispatchers.vtc import Vtc
from solver.routing.dispatchers.weighted_least_requests import weighted_least_requests
from solver.routing.dispatchers.weighted_lmetric import weighted_lmetric
from solver.routing.fair import Weight, alike


def dispatcher(name: str, rng: random.Random, weight: Weight = alike) -> Dispatcher:
    """A new one, by name; `weight` is that of each tenant's share."""
    return DISPATCHERS[name](rng, weight)


DISPATCHERS: Mapping[str, Callable[[random.Random, Weight], Dispatcher]] = {
    "makespan": lambda _, weight: Makespan(weight),
    "round-robin": lambda _, __: Immediate(round_robin()),
    "random": lambda rng, _: Immediate(random_choice(rng)),
    "least-requests": lambda _, __: Immediate(least_requests),
    "least-tokens": lambda _, __: Immediate(least_tokens),
    "power-of-two": lambda rng, _: Immediate(power_of_two(rng)),
    "prefix-aware": lambda _, __: Immediate(prefix_aware),
    "weighted-least-requests": lambda _, __: Immediate(weighted_least_requests),
    "lmetric": lambda _, __: Immediate(lmetric),
    "weighted-lmetric": lambda _, __: Immediate(weighted_lmetric),
    "least-work": lambda _, __: Immediate(least_work),
    "kv-cost": lambda _, __: Immediate(kv_cost),
    "vllm-dp": lambda _, __: Immediate(vllm_dp),
    "slo-headroom": lambda _, __: Immediate(slo_headroom()),
    "vtc": lambda _, weight: Vtc(weight),
    "dlpm": lambda _, weight: Dlpm(weight),
}

# Those that are about tenants' shares: without tenants there is nothing to them.
FOR_TENANTS = frozenset({"vtc", "dlpm"})

# Seconds between two looks at the engines, of those that do not count themselves: as vLLM's
# coordinator sends its counts, and about what routers poll at.
POLL_S = 0.1
POLLING = frozenset({"lmetric", "weighted-lmetric", "least-work", "vllm-dp", "slo-headroom"})


def poll_s(name: str) -> float:
    """Seconds between two looks of a dispatcher at what it does not count itself."""
    return POLL_S if name in POLLING else 0.0
