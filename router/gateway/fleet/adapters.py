"""Which LoRA adapters a worker has in its memory, so that who has one loaded is the cheaper.

Rules:
- an adapter is a model that a server lists with a ``parent``, as vLLM does;
- a server holds `most` of them, as its metrics say, and lets go of what was used longest ago;
- what runs there by its metrics is loaded, and so is what it was sent; no more is known;
- loading one takes `LOAD_S`, told to the plan as prompt tokens that take as long to prefill.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import CostModel

# Some hundred megabytes at 2 GB/s, as of a local disk: assumed, not measured.
LOAD_S = 0.2
LEAST = 1  # vLLM's --max-loras, unless its metrics have told


class Adapters:
    """Those of one worker; `listed` are all that it serves."""

    def __init__(self) -> None:
        self.listed: frozenset[str] = frozenset()
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._most = LEAST

    def list(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """It lists these models."""
        self.listed = frozenset(name for name, entry in models.items() if entry.get("parent"))
        for name in self._loaded.keys() - self.listed:
            del self._loaded[name]

    def see(self, running: Collection[str], most: int | None) -> None:
        """Its metrics say what runs, and how many it holds."""
        self._most = max(LEAST, most or self._most)
        for name in running:
            self.use(name)

    def use(self, model: str) -> None:
        """A request for it has been sent there, or is seen to run."""
        if model not in self.listed:
            return
        self._loaded[model] = None
        self._loaded.move_to_end(model)
        while len(self._loaded) > self._most:
            self._loaded.popitem(last=False)

    def lacks(self, model: str) -> bool:
        """Whether it would have to load this one."""
        return model in self.listed and model not in self._loaded


class Loading(Protocol):
    """A worker, as far as its adapters go."""

    @property
    def adapters(self) -> Adapters:
        """Those that it has."""
        ...

    @property
    def cost(self) -> CostModel:
        """Its iteration times."""
        ...


def with_loading(
    models: Sequence[str], workers: Sequence[Loading], cached: FloatArray | None
) -> FloatArray | None:
    """(n, m) prompt tokens that need no prefill, less those that loading is as long as."""
    having = [(j, worker) for j, worker in enumerate(workers) if worker.adapters.listed]
    for j, worker in having:
        if not worker.cost.beta_p_s:
            continue  # where no prefill takes longer than another, nothing is as long
        for i, model in enumerate(models):
            if worker.adapters.lacks(model):
                if cached is None:
                    cached = np.zeros((len(models), len(workers)))
                cached[i, j] -= LOAD_S / worker.cost.beta_p_s
    return cached
