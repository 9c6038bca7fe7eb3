"""The iteration policies by name, one a file."""

from __future__ import annotations

from collections.abc import Mapping

from solver.batching.policies.adaptive import Adaptive
from solver.batching.policies.lagrangian import Lagrangian
from solver.batching.policies.mixed import Mixed
from solver.batching.policies.prefill_first import PrefillFirst
from solver.batching.policies.threshold import Threshold
from solver.batching.policy import IterationPolicy

POLICIES: Mapping[str, type[IterationPolicy]] = {
    "prefill-first": PrefillFirst,
    "mixed": Mixed,
    "threshold": Threshold,
    "lagrangian": Lagrangian,
    "adaptive": Adaptive,
}
