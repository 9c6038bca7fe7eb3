"""Blocks to prefill and blocks in memory, in one sum.

Decides: the worker with the least `max(Q + P - h, 0) + K + P`, in blocks of tokens, of equals the
first, for each request as it comes.

Inputs: each worker's uncached prompt tokens that wait or are in prefill (Q) and its tokens in
memory (K), which the router counts itself; the prompt's tokens (P), and how many of them its prefix
cache holds (h), which engines tell as it changes.

Parameters:
- `OVERLAP_WEIGHT`: 1, of a block to prefill against one in memory; the source's default.
- `BLOCK_TOKENS`: 16 tokens a block, the source's default; it scales all scores alike.

Trade-off: caches, prefills and memory in one unit, known without asking engines. A prompt that
waits counts once, one that runs too, so it spreads memory rather than work, and it sees no speed.

When not to use it: where workers differ in speed, or prompts are short and answers long.

Source: NVIDIA Dynamo, the KV router's cost function (`lib/kv-router/src/scheduling/selector.rs`) at
temperature 0. Left out is its queue (`wspt`) before a fleet that is full: here the workers queue.
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads

OVERLAP_WEIGHT = 1.0
BLOCK_TOKENS = 16


def kv_cost(arrival: Arrival, workers: Loads) -> int:
    """The fewest blocks to prefill and in memory together; of equals the first."""
    prompt = arrival.prompt_tokens

    def score(j: int) -> float:
        worker = workers[j]
        prefill = max(worker.prefill_tokens + prompt - worker.cached_tokens(arrival), 0)
        return (OVERLAP_WEIGHT * prefill + worker.kv_used + prompt) / BLOCK_TOKENS

    return min(range(len(workers)), key=score)
