"""The least time to drain what queues, and a barrier where memory fills up.

Decides: the worker with the least `(Q + S) / throughput + 0.15 s * k / (1 - k)`, of equals the
first, for each request as it comes; k is the share of its memory in use.

Inputs: each worker's uncached prompt tokens that wait for a slot (Q), its tokens in memory, and the
tokens a second that it generates, as of the last look at it; prompt tokens sent to it since (S).

Parameters:
- `PRESSURE_S`: 0.15 s, what half-full memory costs; the source's default.
- `DEFAULT_THROUGHPUT`: 2,000 tokens/s, for a worker that generates nothing; the source's default.
- `FULLEST`: 0.999, the share of memory above which fuller looks no worse; the source's.

Trade-off: work in seconds, so that workers of other speeds compare, and it backs off before memory
runs out and preemptions begin. Prompts that are being prefilled do not count, nor requests that
run, but for their memory; and a worker that generates faster looks as if it drained prompts faster.

When not to use it: where workers seldom queue: then only memory decides.

Source: smg, policy `least_load` (`model_gateway/src/policies/least_load.rs`), which looks every
10 s. Reconstructed: throughput is what the worker's cost model says of its present batch, where the
source takes what the engine has measured.
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Load, Loads

PRESSURE_S = 0.15
DEFAULT_THROUGHPUT = 2000.0
FULLEST = 0.999


def least_work(_: Arrival, workers: Loads) -> int:
    """The least seconds of work and memory pressure; of equals the first."""
    return min(range(len(workers)), key=lambda j: _score(workers[j]))


def _score(worker: Load) -> float:
    generating = min(worker.running, worker.slots)
    throughput = DEFAULT_THROUGHPUT
    if generating:
        throughput = generating / worker.cost.decode_s(generating, worker.kv_used)
    share = min(worker.kv_used / worker.kv_capacity, FULLEST)
    return worker.queued_tokens / throughput + PRESSURE_S * share / (1.0 - share)
