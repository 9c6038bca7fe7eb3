"""The situations that dispatchers are judged in: a trace, engines, a fleet, and how much comes.

Rules:

- the list is fixed, and made so that every trace meets every load twice, with hardware and fleets
  that change from one to the next;
- a trace's own arrivals are stretched to the load, so its bursts stay; those without arrive at
  random (Poisson), and at `BURST` all come at once;
- the load is a share of what the fleet could do at most, by its lower bound, every prompt
  prefilled: what caches save is on top.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice

import numpy as np

from router.lab.simulation.loads import requests_per_s, stretched
from router.lab.simulation.traces import dataset
from router.settings.limits import Limits
from solver.batching.priority import Priority
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES, Profile
from solver.sim.request import Request
from solver.sim.workload import all_at_once, poisson

# Models on engines with room for the longest prompts of each trace, and of other kinds.
HARDWARE = {
    "azure-conv": ("a100-tp4", "h100-tp8", "ascend", "a100-tp8"),
    "mooncake": ("a100-tp8", "h100-tp4", "a100-tp4", "h100-tp8"),
    "servegen-m-large": ("h100-tp8", "a100-tp4", "ascend", "h100-tp4"),
    "sharegpt": ("h100-tp4", "opt-a100-tp8", "a100-tp4", "h100-tp8"),
    "gsm8k-llama65b": ("ascend", "a100-tp4", "h100-tp4", "opt-a100-tp4"),
}
NAMES = {
    "ascend": "llama-65b-ascend",
    "opt-a100-tp4": "opt-66b-a100-tp4",
    "opt-a100-tp8": "opt-66b-a100-tp8",
}  # of the others the model is Llama-2-70B
FLEETS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (4, (1.0,)),
    (16, (2.0, 1.0, 1.0, 0.5)),
    (4, (2.0, 1.0, 1.0, 0.5)),
    (16, (1.0,)),
)
BURST = 0.0  # the load of all at once
LOADS = (0.5, 0.7, 0.85, 1.0, BURST)
REPEATS = 2
# Two seconds for a first token, more for long prompts; ten tokens a second.
LIMITS = Limits(((0, 2.0), (4096, 5.0)), 0.1)


@dataclass(frozen=True, slots=True)
class Situation:
    """One of the list; `load` is a share of what the fleet could do, or `BURST`."""

    trace: str
    hardware: str
    workers: int
    speeds: tuple[float, ...]
    load: float

    @property
    def name(self) -> str:
        """All of it, in words."""
        speeds = "equal" if len(set(self.speeds)) == 1 else "unequal"
        return f"{self.trace} {self.hardware} {self.workers} {speeds} {load_name(self.load)}"

    @property
    def profile(self) -> Profile:
        """Its engines."""
        return PROFILES[NAMES.get(self.hardware, f"llama-2-70b-{self.hardware}")]

    @property
    def costs(self) -> list[CostModel]:
        """A cost model a worker."""
        speeds = islice(cycle(self.speeds), self.workers)
        return [self.profile.cost.scaled(1 / speed) for speed in speeds]


def load_name(load: float) -> str:
    """In percent, or burst."""
    return "burst" if load == BURST else f"{load:.0%}"


def situations() -> list[Situation]:
    """All of them."""
    return list(_all())


def _all() -> Iterator[Situation]:
    for trace, (name, hardware) in enumerate(HARDWARE.items()):
        for level, load in enumerate(LOADS):
            for again in range(REPEATS):
                workers, speeds = FLEETS[(trace + level + 2 * again) % len(FLEETS)]
                kind = hardware[(level + again) % len(hardware)]
                yield Situation(name, kind, workers, speeds, load)


def chosen(wanted: str) -> list[Situation]:
    """All, so many of them evenly over the list, or those whose names have all of these words.

    A word may be cut short: ``azure,4,unequal``.

    Raises:
        ValueError: if there are none.
    """
    every = situations()
    if wanted.isdecimal() and int(wanted):
        count = min(int(wanted), len(every))
        return [every[k] for k in np.linspace(0, len(every) - 1, count).round().astype(int)]
    asked = wanted.replace(",", " ").split()
    found = [one for one in every if all(_has(one, word) for word in asked)]
    if not found:
        raise ValueError(f"situations: none is called {wanted!r}; one is: {every[0].name}")
    return found


def _has(one: Situation, word: str) -> bool:
    return any(part.startswith(word) for part in one.name.split())


def traffic(situation: Situation, per_worker: int) -> list[Request]:
    """Its requests, with the targets that they are judged by."""
    kv_tokens = situation.profile.kv_tokens
    requests = [
        replace(one, wanted=LIMITS.of(Priority.DEFAULT, one.prompt_tokens))
        for one in _drawn(situation.trace, per_worker * situation.workers)
        if one.prompt_tokens + one.output_tokens <= kv_tokens
    ]
    if situation.load == BURST:
        return all_at_once(requests)
    rate = situation.load * requests_per_s(requests, situation.costs, situation.profile.slots)
    if max(one.arrival_s for one in requests) == 0.0:
        return poisson(requests, rate, random.Random(0))
    return stretched(requests, rate)


@cache  # a process simulates many dispatchers on the same traffic
def _drawn(trace: str, count: int) -> Sequence[Request]:
    """The first of the trace; from the beginning again where it has fewer."""
    requests, _ = dataset(trace, most=count)
    rounds = -(-count // len(requests))
    last_s = max(one.arrival_s for one in requests)
    repeated = [
        replace(one, id=f"{one.id}.{k}" if k else one.id, arrival_s=one.arrival_s + k * last_s)
        for k in range(rounds)
        for one in requests
    ]
    return repeated[:count]
