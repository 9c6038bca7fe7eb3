"""Four times those waiting and those running: what vLLM does between its own engines.

Decides: the worker with the least `4 * waiting + running`, of equals the first, for each request as
it comes.

Inputs: each worker's requests that wait for a slot and that hold one, as of the last look at it;
who was sent since counts as waiting.

Parameters:
- `WAITING_WEIGHT`: 4, of a request that waits against one that runs; the source's.

Trade-off: two counts that every engine has, and bursts do not run to one worker. It sees neither
speed, nor prompts, nor lengths, nor caches.

When not to use it: where there is anything better: it is what one gets without a router.

Source: vLLM v1, data-parallel load balancing (`DPLBAsyncMPClient.get_core_engine_for_request` in
`vllm/v1/engine/core_client.py`), with counts that are sent every 100 ms.
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads

WAITING_WEIGHT = 4


def vllm_dp(_: Arrival, workers: Loads) -> int:
    """The least of waiting, times four, and running; of equals the first."""
    return min(
        range(len(workers)),
        key=lambda j: WAITING_WEIGHT * workers[j].waiting + workers[j].running,
    )
