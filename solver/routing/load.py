"""What a worker still has to do, counted token by token by whoever sends it work.

Counting oneself is what keeps bursts from piling onto one worker: figures polled from engines lag
by seconds. Sums are kept as tokens flow, so reading the load costs nothing however many requests
are in flight; only requests whose progress cannot be seen are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from solver.cost.model import CostModel
from solver.lengths.distribution import LengthDistribution
from solver.routing.problem import Job

# A request that outlives its prediction is about to end, as far as one knows.
LEAST_REMAINING = 1.0
# Tokens of each sequence after which what is left is predicted again: some microseconds each time.
REPREDICT_TOKENS = 16


@dataclass(slots=True)
class _InFlight:
    prompt_tokens: int
    expected_tokens: float
    sequences: int
    sent_s: float
    lengths: LengthDistribution | None
    remaining: float
    made: int = 0
    predicted_at: int = 0

    def make(self, tokens: int) -> None:
        """`tokens` more; now and then, what is left is predicted again from what has been made."""
        self.made += tokens
        if self.lengths is None:
            left = self.expected_tokens - self.made
        elif self.made - self.predicted_at >= REPREDICT_TOKENS * self.sequences:
            self.predicted_at = self.made
            left = self.lengths.remaining(self.made // self.sequences).mean * self.sequences
        else:
            left = self.remaining - tokens
        self.remaining = max(LEAST_REMAINING, left)


class WorkerLoad:
    """Requests in flight at one worker and the tokens that they still need."""

    def __init__(self) -> None:
        self._requests: dict[Hashable, _InFlight] = {}
        self._unseen: dict[Hashable, _InFlight] = {}
        self._sequences = 0
        self._prefills = 0
        self._prompt_tokens = 0
        self._output_tokens = 0.0
        self._kv_tokens = 0.0
        self._kv_reserved = 0.0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def sequences(self) -> int:
        """Slots that the requests in flight take, or wait for: one for each of their choices."""
        return self._sequences

    @property
    def kv_tokens(self) -> float:
        """Cached tokens held as far as one has seen, and prompts that will need some."""
        return self._kv_tokens + self._prompt_tokens

    @property
    def kv_reserved(self) -> float:
        """Cached tokens that the requests in flight will hold at their ends, as predicted."""
        return self._kv_reserved

    def add(self, key: Hashable, job: Job, now: float, *, streamed: bool) -> None:
        """A request has been sent, `key` is its own; `streamed`: `progress` will tell of tokens."""
        request = _InFlight(
            job.prompt_tokens,
            job.expected_tokens,
            job.sequences,
            now,
            job.lengths,
            max(LEAST_REMAINING, job.expected_tokens),
        )
        self._requests[key] = request
        if not streamed:
            self._unseen[key] = request
        self._sequences += job.sequences
        self._prefills += job.sequences
        self._prompt_tokens += job.prompt_tokens
        self._output_tokens += request.remaining
        self._kv_reserved += job.kv_tokens

    def progress(self, key: Hashable, tokens: int) -> None:
        """`tokens` more output tokens of a request have been seen."""
        request = self._requests.get(key)
        if request is None or tokens <= 0:
            return
        if request.made == 0:
            self._prefills -= request.sequences
            self._prompt_tokens -= request.prompt_tokens
            self._kv_tokens += request.prompt_tokens
        before = request.remaining
        request.make(tokens)
        self._kv_tokens += tokens
        self._output_tokens += request.remaining - before

    def not_begun(self) -> list[Hashable]:
        """Requests of which no token has been seen: they may not have begun."""
        return [key for key, request in self._requests.items() if not request.made]

    def remove(self, key: Hashable) -> None:
        """A request has ended, however; unknown ones are ignored."""
        request = self._requests.pop(key, None)
        if request is None:
            return
        self._unseen.pop(key, None)
        self._sequences -= request.sequences
        if request.made == 0:
            self._prefills -= request.sequences
            self._prompt_tokens -= request.prompt_tokens
        else:
            self._kv_tokens -= request.prompt_tokens + request.made
        self._output_tokens -= request.remaining
        self._kv_reserved -= request.prompt_tokens + request.expected_tokens
        if not self._requests:  # rounding must not add up over millions of requests
            self._output_tokens = self._kv_tokens = self._kv_reserved = 0.0

    def backlog_s(self, cost: CostModel, slots: int, more: int, now: float) -> float:
        """Seconds until the worker has done what it has, with `more` sequences joining soon.

        Requests that do not stream are taken to make a token a round since they were sent, or
        their share of that where more is in flight than runs at once.
        """
        occupancy = self.occupancy(slots, more)
        unseen_prompt, unseen_made, unseen_started = self._guess_unseen(cost, occupancy, now)
        kv = self._kv_tokens + unseen_prompt + unseen_made
        return cost.backlog_s(
            prefills=self._prefills - unseen_started,
            prompt=self._prompt_tokens - unseen_prompt,
            output=max(0.0, self._output_tokens - unseen_made),
            kv_tokens=kv,
            occupancy=occupancy,
        )

    def prefill_s(self, cost: CostModel, slots: int, now: float) -> float:
        """Seconds of prefills that the worker has yet to do, as far as one can tell."""
        prompt, _, _ = self._guess_unseen(cost, self.occupancy(slots, 0), now)
        return cost.beta_p_s * max(0.0, self._prompt_tokens - prompt)

    def occupancy(self, slots: int, more: int) -> float:
        """Sequences that run at once when `more` join, and share an iteration's fixed cost."""
        return float(min(slots, max(1, self._sequences + more)))

    def _guess_unseen(
        self, cost: CostModel, occupancy: float, now: float
    ) -> tuple[int, float, int]:
        """(prompt tokens prefilled, tokens made, sequences started) of what does not stream."""
        prompt, made, started = 0, 0.0, 0
        per_token_s = cost.decode_s(occupancy)
        # With more in flight than run at once, each gets its share of the worker's time.
        share = occupancy / max(occupancy, self._sequences)
        for request in self._unseen.values():
            if request.made:
                continue
            running_s = share * (now - request.sent_s - cost.prefill_s(request.prompt_tokens))
            if running_s > 0:
                started += request.sequences
                prompt += request.prompt_tokens
                most = max(0.0, request.remaining - LEAST_REMAINING)
                rounds = running_s / per_token_s if per_token_s > 0 else most
                made += min(most, rounds * request.sequences)
        return prompt, made, started
