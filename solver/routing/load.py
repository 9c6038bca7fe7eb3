"""What a worker still has to do, counted token by token by whoever sends it work.

Counting oneself is what keeps bursts from piling onto one worker: figures polled from engines lag
by seconds. Sums are kept as tokens flow, so reading the load costs nothing however many requests
are in flight. Requests whose progress cannot be seen are taken to make a token a round, and are
counted on when these tokens are due.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from solver.cost.model import CostModel
from solver.lengths.distribution import LengthDistribution
from solver.routing.problem import Job
from solver.routing.sums import NOTHING, LoadSums

# A request that outlives its prediction is about to end, as far as one knows.
LEAST_REMAINING = 1.0
# Tokens of each sequence after which what is left is predicted again: some microseconds each time.
REPREDICT_TOKENS = 16


@dataclass(slots=True)
class _InFlight:
    prompt_tokens: int
    expected_tokens: float
    sequences: int
    lengths: LengthDistribution | None
    remaining: float
    streamed: bool
    bulk: bool
    yields: bool
    tenant: str
    made: int = 0
    predicted_at: int = 0


class WorkerLoad:
    """Requests in flight at one worker and the tokens that they still need.

    All figures but `own` and the number of requests are of the whole load: what others have told to
    have there (`others`) is part of it.

    Attributes:
        others: what others have in flight there.
        changes: counts them, so that what follows from a load is computed once.
        sequences: slots that the requests in flight take, or wait for: one for each of their
            choices.
        bulk_sequences: of these, those of bulk work.
        paced_sequences: of all others, those that let pass whoever comes after them.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.others = NOTHING
        self.bulk_sequences = self.paced_sequences = 0
        self._paced: Counter[str] = Counter()  # requests of each tenant
        self._requests: dict[Hashable, _InFlight] = {}
        self._yielding_prompt_tokens = self._yielding_kv_tokens = 0
        # Those that do not stream: when the next tokens of each are due; and those not looked at.
        self._due: list[tuple[float, int, Hashable]] = []
        self._new: list[tuple[float, Hashable]] = []
        self._serial = 0
        self.sequences = 0
        self._prefills = 0
        self._prompt_tokens = 0
        self._output_tokens = 0.0
        self._kv_tokens = 0.0
        self._kv_reserved = 0.0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def own(self) -> LoadSums:
        """What one has sent oneself."""
        return self._sums() - self.others

    @property
    def yielding_sequences(self) -> int:
        """Those that are in nobody's way."""
        return self.bulk_sequences + self.paced_sequences

    @property
    def yielding(self) -> LoadSums:
        """What is in nobody's way: sequences, and of one's own new prompts and cached tokens."""
        sequences = self.yielding_sequences
        prompts, cached = self._yielding_prompt_tokens, self._yielding_kv_tokens
        return LoadSums(sequences, prompt_tokens=prompts, kv_tokens=cached)

    def paces(self, tenant: str) -> bool:
        """Whether a request of its is paced."""
        return self._paced[tenant] > 0

    def _sums(self) -> LoadSums:
        return LoadSums(
            self.sequences,
            self._prefills,
            self._prompt_tokens,
            self._output_tokens,
            self._kv_tokens,
            self._kv_reserved,
            self.bulk_sequences,
            self.paced_sequences,
        )

    def tell_others(self, others: LoadSums) -> None:
        """From now on, others have this in flight there."""
        if others == self.others:
            return
        own, self.others = self.own, others
        self.changes += 1
        self._put(own + others)

    def _put(self, sums: LoadSums) -> None:
        self.sequences, self._prefills = sums.sequences, sums.prefills
        self._prompt_tokens, self._output_tokens = sums.prompt_tokens, sums.output_tokens
        self._kv_tokens, self._kv_reserved = sums.kv_tokens, sums.kv_reserved
        self.bulk_sequences, self.paced_sequences = sums.bulk, sums.paced

    @property
    def running(self) -> int:
        """Of these, those of which tokens have come, or should have."""
        return self.sequences - self._prefills

    @property
    def left_tokens(self) -> float:
        """Expected tokens still to come of one sequence in flight; 0: nothing is."""
        return max(0.0, self._output_tokens) / self.sequences if self.sequences else 0.0

    @property
    def kv_cached(self) -> float:
        """Cached tokens of those that run."""
        return self._kv_tokens

    @property
    def kv_tokens(self) -> float:
        """Cached tokens held as far as one has seen, and prompts that will need some."""
        return self._kv_tokens + self._prompt_tokens

    @property
    def kv_reserved(self) -> float:
        """Cached tokens that the requests in flight will hold at their ends, as predicted."""
        return self._kv_reserved

    def add(
        self, key: Hashable, job: Job, now: float, *, streamed: bool, paced: bool = False
    ) -> None:
        """A request has been sent, `key` is its own; `streamed`: `progress` will tell of tokens.

        If it is `paced`, its sequences let pass whoever comes after them.
        """
        prompt, expected, sequences = job.prompt_tokens, job.expected_tokens, job.sequences
        remaining = max(LEAST_REMAINING, expected)
        request = self._requests[key] = _InFlight(
            prompt,
            expected,
            sequences,
            job.lengths,
            remaining,
            streamed,
            job.bulk,
            job.bulk or paced,
            job.tenant,
        )
        if request.yields:
            self._yield(request, 1)
        self.changes += 1
        if not streamed:
            self._new.append((now, key))
        self.sequences += sequences
        self._prefills += sequences
        self._prompt_tokens += prompt
        self._output_tokens += remaining
        self._kv_reserved += prompt + expected

    def made(self, key: Hashable) -> int:
        """Output tokens of a request as far as they have been seen, or should have come."""
        request = self._requests.get(key)
        return 0 if request is None else request.made

    def made_unseen(self, key: Hashable, cost: CostModel, slots: int, elapsed_s: float) -> int:
        """Output tokens that a request should have made so long after it was sent.

        Whatever was expected of it: after a prefill, one of each sequence a round.
        """
        request = self._requests.get(key)
        if request is None:
            return 0
        decoding_s = elapsed_s - cost.prefill_s(request.prompt_tokens)
        return max(0, int(decoding_s / self._round_s(cost, slots))) * request.sequences

    def seen(self, key: Hashable) -> int | None:
        """Those that have been seen; None where that cannot be."""
        request = self._requests.get(key)
        return None if request is None or not request.streamed else request.made

    def progress(self, key: Hashable, tokens: int) -> None:
        """`tokens` more output tokens of a request that streams have been seen."""
        request = self._requests.get(key)
        if request is not None and tokens > 0 and request.streamed:
            self._count(request, tokens)

    def _count(self, request: _InFlight, tokens: int) -> None:
        """So many more of it; now and then, what is left is predicted again from what was made."""
        begins = request.prompt_tokens if request.made == 0 else 0
        if request.made == 0:
            self._prefills -= request.sequences
            self._prompt_tokens -= begins
            self._kv_tokens += begins
        if request.yields:
            self._yielding_prompt_tokens -= begins
            self._yielding_kv_tokens += begins + (tokens if request.bulk else 0)
        self.changes += 1
        made, before = request.made + tokens, request.remaining
        request.made = made
        if request.lengths is None:
            left = request.expected_tokens - made
        elif made - request.predicted_at >= REPREDICT_TOKENS * request.sequences:
            request.predicted_at = made
            left = request.lengths.mean_after(made // request.sequences) * request.sequences
        else:
            left = before - tokens
        request.remaining = max(LEAST_REMAINING, left)
        self._kv_tokens += tokens
        self._output_tokens += request.remaining - before

    def not_begun(self) -> list[Hashable]:
        """Requests of which no token has been seen: they may not have begun."""
        return [
            key
            for key, request in self._requests.items()
            if not request.made or not request.streamed
        ]

    def remove(self, key: Hashable) -> None:
        """A request has ended, however; unknown ones are ignored."""
        request = self._requests.pop(key, None)
        if request is None:
            return
        self.changes += 1
        if request.yields:
            self._yield(request, -1)
        self.sequences -= request.sequences
        if request.made == 0:
            self._prefills -= request.sequences
            self._prompt_tokens -= request.prompt_tokens
        else:
            self._kv_tokens -= request.prompt_tokens + request.made
        self._output_tokens -= request.remaining
        self._kv_reserved -= request.prompt_tokens + request.expected_tokens
        if not self._requests:  # rounding must not add up over millions of requests
            self._put(self.others)
            self._due.clear()
            self._new.clear()

    def _yield(self, request: _InFlight, sign: int) -> None:
        """It has come, or goes, and is in nobody's way here."""
        if request.bulk:
            self.bulk_sequences += sign * request.sequences
        else:
            self.paced_sequences += sign * request.sequences
            self._paced[request.tenant] += sign
        if request.made == 0:
            self._yielding_prompt_tokens += sign * request.prompt_tokens
        else:
            made = request.made if request.bulk else 0
            self._yielding_kv_tokens += sign * (request.prompt_tokens + made)

    def advance(self, cost: CostModel, slots: int, now: float) -> None:
        """Count the tokens that those who do not stream should have made by `now`.

        Their prompts are prefilled in turn, then each makes a token a round, or its share of that
        where more is in flight than runs at once. Work is shared out over their tokens.
        """
        if self._new:
            prefills_s = cost.prefill_s(self._prompt_tokens)
            for sent_s, key in self._new:
                if key in self._requests:
                    self._schedule(sent_s + prefills_s, key)
            self._new.clear()
        if not self._due or self._due[0][0] > now:
            return
        due, requests, again_s = self._due, self._requests, None
        while due and due[0][0] <= now:
            due_s, _, key = heapq.heappop(due)
            request = requests.get(key)
            if request is None:
                continue
            if again_s is None:
                again_s = REPREDICT_TOKENS * self._round_s(cost, slots)
            rounds = REPREDICT_TOKENS if request.made else 1
            most = int(request.remaining / request.sequences)
            if request.made and most <= LEAST_REMAINING:
                continue  # it is about to end
            tokens = min(rounds, most)
            self._count(request, (max(1, tokens)) * request.sequences)
            self._schedule(due_s + again_s, key)

    def _round_s(self, cost: CostModel, slots: int) -> float:
        """Seconds between two tokens of a sequence, one of which may wait for a slot."""
        occupancy = self.occupancy(slots, 0)
        return max(1e-6, cost.decode_s(occupancy) * max(occupancy, self.sequences) / occupancy)

    def _schedule(self, due_s: float, key: Hashable) -> None:
        self._serial += 1
        heapq.heappush(self._due, (due_s, self._serial, key))

    def backlog_s(self, cost: CostModel, slots: int, more: int, now: float) -> float:
        """Seconds until the worker has done what it has, with `more` sequences joining soon."""
        self.advance(cost, slots, now)
        return cost.backlog_s(
            prefills=self._prefills,
            prompt=self._prompt_tokens,
            output=max(0.0, self._output_tokens),
            kv_tokens=self._kv_tokens,
            occupancy=self.occupancy(slots, more),
        )

    def own_backlog_s(self, cost: CostModel, slots: int, now: float) -> float:
        """Of that, what is one's own: all senders' add up to about all of it."""
        self.advance(cost, slots, now)
        own = self.own
        return cost.backlog_s(
            prefills=own.prefills,
            prompt=own.prompt_tokens,
            output=own.output_tokens,
            kv_tokens=self._kv_tokens,
            occupancy=self.occupancy(slots, 0),
        )

    def prefill_s(self, cost: CostModel) -> float:
        """Seconds of prefills that the worker has yet to do, as far as one can tell."""
        return cost.beta_p_s * max(0, self._prompt_tokens)

    def occupancy(self, slots: int, more: int) -> float:
        """Sequences that run at once when `more` join, and share an iteration's fixed cost."""
        count = self.sequences + more
        return float(slots if count > slots else max(1, count))
