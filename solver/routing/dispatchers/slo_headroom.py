"""Whoever keeps the targets by the least margin; if nobody does, whoever misses them least.

Decides: by how much each worker would keep the request's two targets, for each request as it comes.
Among those that keep both, the one with the least margin, so that others stay free for who needs
them; else an idle worker before a busy one, a miss of the time per token before one of the first
token before both, and of these the least. Margins and misses are scaled to 0 to 1 among the workers
compared, and weighed 0.8 for the first token and 0.2 for the time per token; of equals the first.

Inputs: each worker's uncached prompt tokens that wait or are in prefill, requests in flight, slots,
tokens in memory and iteration times; the prompt, what caches hold of it, and both targets. Counts
are as of the last look, and with what was sent since.

Parameters:
- `TTFT_WEIGHT`, `TPOT_WEIGHT`: 0.8 and 0.2; the source's defaults.
- `TPOT_BUFFER`: 0.9 of the target for the time per token is aimed at; the source's default.

Trade-off: requests with loose targets leave room for those with tight ones, and a fleet is filled
worker by worker. As long as targets are kept nobody is faster than need be, and under overload it
evens out misses where somebody could still be in time. Without targets every worker misses, by its
latency: then the least of those decides.

When not to use it: where less latency is better, whatever the targets.

Source: llm-d's latency scorer (`latencyscorer` of the Gateway API Inference Extension), strategy
`least`, without its gates for prefix affinity and its 1 % of exploration. Reconstructed are the
predictions, which the source learns online: here they follow from the cost model, with a wait for a
slot where all are taken, and with the prefills of those who come while the request decodes: as many
as are in flight now, each of the mean prompt so far, over the mean answer expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from solver.routing.dispatchers.base import Arrival, Choice, Load, Loads

TTFT_WEIGHT, TPOT_WEIGHT = 0.8, 0.2
TPOT_BUFFER = 0.9

Margins = tuple[float, float]  # seconds by which the targets are kept: first token, each after it


@dataclass(slots=True)
class _Traffic:
    """What has come so far: its sums are enough to predict by."""

    requests: int = 0
    prompt_tokens: int = 0
    expected_tokens: float = 0.0

    def add(self, arrival: Arrival) -> None:
        self.requests += 1
        self.prompt_tokens += arrival.prompt_tokens
        self.expected_tokens += arrival.expected_tokens

    def predicted(self, arrival: Arrival, worker: Load) -> Margins:
        """Seconds to the first token, and for each after it, if it went there now."""
        running = min(worker.in_flight + 1, worker.slots)
        round_s = worker.cost.decode_s(running, worker.kv_used + arrival.prompt_tokens)
        prefill_s = worker.cost.beta_p_s * self.prompt_tokens / self.expected_tokens
        round_s += (running - 1) * prefill_s
        beyond = worker.in_flight + 1 - running  # ends that it would have to wait for
        wait_s = beyond * self.expected_tokens / self.requests * round_s / worker.slots
        tokens = worker.prefill_tokens + arrival.prompt_tokens - worker.cached_tokens(arrival)
        return wait_s + worker.cost.prefill_s(tokens), round_s


def slo_headroom() -> Choice:
    """The least margin of those that keep both targets, else the least miss."""
    traffic = _Traffic()

    def choose(arrival: Arrival, workers: Loads) -> int:
        traffic.add(arrival)
        return _choice(workers, [_margins(arrival, worker, traffic) for worker in workers])

    return choose


def _choice(workers: Loads, margins: list[Margins]) -> int:
    keeping = [j for j, (first, each) in enumerate(margins) if first >= 0 and each >= 0]
    if keeping:
        return _least(keeping, margins)
    idle = [j for j, worker in enumerate(workers) if not worker.in_flight]
    buckets: dict[int, list[int]] = {}
    for j in idle or range(len(workers)):
        buckets.setdefault(_badness(margins[j]), []).append(j)
    return _least(buckets[min(buckets)], [_misses(pair) for pair in margins])


def _margins(arrival: Arrival, worker: Load, traffic: _Traffic) -> Margins:
    """Without a target, all of its latency is beyond it."""
    targets = arrival.targets
    ttft_s = 0.0 if targets.ttft_s == inf else targets.ttft_s
    tpot_s = 0.0 if targets.tpot_s == inf else targets.tpot_s
    first, each = traffic.predicted(arrival, worker)
    return ttft_s - first, TPOT_BUFFER * tpot_s - each


def _badness(margins: Margins) -> int:
    """Which targets are missed: 1 the time per token, 2 the first token, 3 both."""
    return 2 * (margins[0] < 0) + (margins[1] < 0)


def _misses(margins: Margins) -> Margins:
    return max(0.0, -margins[0]), max(0.0, -margins[1])


def _least(among: list[int], seconds: list[Margins]) -> int:
    """The least weighted sum, each part scaled to 0 to 1 among them."""
    lows = [min(seconds[j][k] for j in among) for k in (0, 1)]
    spans = [max(seconds[j][k] for j in among) - lows[k] for k in (0, 1)]

    def score(j: int) -> float:
        parts = [(seconds[j][k] - lows[k]) / spans[k] if spans[k] > 0 else 0.0 for k in (0, 1)]
        return TTFT_WEIGHT * parts[0] + TPOT_WEIGHT * parts[1]

    return min(among, key=score)
