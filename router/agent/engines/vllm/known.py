"""VLLM's requests as the solver sees them: one sequence each, from when it comes to its end.

Rules:
- vLLM's numbers of priority: lower is first, 0 is what those have who say nothing, and above 0 is
  bulk work, until it has had its turn;
- a request is expected to make all tokens that it may make;
- when it came is told by the clock that steps are timed by, so that one can say for how long it has
  waited.
"""

from __future__ import annotations

import time

from vllm.v1.request import Request

from solver.batching.online import OnlineHere
from solver.batching.priority import Priority
from solver.batching.sequence import Sequence
from solver.batching.targets import NO_TARGETS, Targets


class KnownRequests:
    """All that have come and have not ended; `targets` are those of all but bulk work.

    `online` hears who comes and goes.
    """

    def __init__(self, targets: Targets, online: OnlineHere) -> None:
        self._targets, self._online = targets, online
        self._sequences: dict[Request, Sequence] = {}
        self._ahead_s = time.time() - time.perf_counter()  # vLLM stamps arrivals by the first

    def of(self, request: Request) -> Sequence:
        """Its sequence; it is here from now on."""
        sequence = self._sequences.get(request)
        if sequence is None:
            sequence = self._sequences[request] = self._made_of(request)
            self._online.came(sequence)
        return sequence

    def refreshed(self, request: Request) -> Sequence:
        """The same, as vLLM has it now; not while it decodes."""
        sequence = self.of(request)
        sequence.prompt_tokens, sequence.made = request.num_prompt_tokens, made(request)
        return sequence

    def end(self, request: Request, now: float) -> None:
        """It is here no longer."""
        sequence = self._sequences.pop(request, None)
        if sequence is not None:
            self._online.gone(sequence, now)

    def _made_of(self, request: Request) -> Sequence:
        priority, limit = _priority(request.priority), int(request.max_tokens)
        return Sequence(
            request.request_id,
            request.num_prompt_tokens,
            float(limit),
            limit,
            request.arrival_time - self._ahead_s,
            priority=priority,
            targets=NO_TARGETS if priority is Priority.BULK else self._targets,
        )


def made(request: Request) -> int:
    """Output tokens, those on their way among them."""
    return int(request.num_output_tokens + request.num_output_placeholders)


def _priority(number: int) -> Priority:
    if number == 0:
        return Priority.DEFAULT
    return Priority.INTERACTIVE if number < 0 else Priority.BULK
