"""The longest cached prefix, unless that unbalances the fleet: SGLang's gateway, `cache_aware`."""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Targets

# SGLang's gateway, policy `cache_aware`: its defaults, in requests and as ratios.
MATCH_SHARE = 0.3


IMBALANCE_REQUESTS, IMBALANCE_RATIO = 64, 1.5


def prefix_aware(arrival: Arrival, workers: Targets) -> int:
    """The one that holds the longest prefix, unless the fleet is out of balance.

    Out of balance (the largest load is both `IMBALANCE_REQUESTS` and `IMBALANCE_RATIO` times above
    the smallest), or if nobody holds `MATCH_SHARE` of the prompt: the fewest requests in flight.
    """
    loads = [worker.in_flight for worker in workers]
    high, low = max(loads), min(loads)
    if not arrival.hash_ids or (high - low > IMBALANCE_REQUESTS and high > IMBALANCE_RATIO * low):
        return loads.index(low)
    cached = [worker.cached_tokens(arrival) for worker in workers]
    longest = max(cached)
    if longest < MATCH_SHARE * arrival.prompt_tokens:
        return loads.index(low)
    return min((j for j, c in enumerate(cached) if c == longest), key=loads.__getitem__)
