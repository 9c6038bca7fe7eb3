"""Dispatchers by name, one a file: what other routers do, and ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from solver.routing.dispatchers.base import Dispatcher, Immediate
from solver.routing.dispatchers.least_requests import least_requests
from solver.routing.dispatchers.least_tokens import least_tokens
from solver.routing.dispatchers.makespan import Makespan
from solver.routing.dispatchers.power_of_two import power_of_two
from solver.routing.dispatchers.prefix_aware import prefix_aware
from solver.routing.dispatchers.random_choice import random_choice
from solver.routing.dispatchers.round_robin import round_robin


def dispatcher(name: str, rng: random.Random, order: str = "longest") -> Dispatcher:
    """A new one, by name; `order` is that of the workers' queues, which ours keeps too."""
    return DISPATCHERS[name](rng, order)


DISPATCHERS: Mapping[str, Callable[[random.Random, str], Dispatcher]] = {
    "makespan": lambda _, __: Makespan(),
    "round-robin": lambda _, __: Immediate(round_robin()),
    "random": lambda rng, _: Immediate(random_choice(rng)),
    "least-requests": lambda _, __: Immediate(least_requests),
    "least-tokens": lambda _, __: Immediate(least_tokens),
    "power-of-two": lambda rng, _: Immediate(power_of_two(rng)),
    "prefix-aware": lambda _, __: Immediate(prefix_aware),
}
