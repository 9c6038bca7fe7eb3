"""A scheduler for transformers' continuous batching that does what it is told.

Theirs decides which requests are in the next batch; here `solver.batching.batcher` has decided
that, and `planned` says it: each request's state and how many of its tokens are computed.
"""

from __future__ import annotations

from typing import Any

from transformers.generation.continuous_batching import scheduler

State = Any  # transformers' RequestState
NAME = "makespan"


class ScheduleMismatch(RuntimeError):
    """Some of what was told does not fit into the engine's memory or batch."""


class ExternalScheduler(scheduler.Scheduler):  # type: ignore[misc]
    """Schedules exactly what it was told, in that order."""

    def __init__(
        self, cache: object, safety_margin: float | None, max_requests_per_batch: int
    ) -> None:
        del safety_margin  # memory is the batcher's business
        super().__init__(cache, 0.0, max_requests_per_batch)
        self.planned: list[tuple[State, int]] = []

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[Any] | None, bool, int, int]:
        """The next batch, as `Scheduler` promises it.

        Raises:
            ScheduleMismatch: if not all of it fits.
        """
        tokens = sum(count for _, count in self.planned)
        if tokens > token_budget:
            raise ScheduleMismatch(f"{tokens} tokens were told, {token_budget} fit into a batch")
        gone: set[str] = set()
        states = [state for state, _ in self.planned]
        batch, _, fast, queries, read = self._process_candidates(states, tokens, cache_budget, gone)
        self._cleanup_waiting_queue(gone)
        if len(batch) < len(states):
            raise ScheduleMismatch(f"only {len(batch)} of {len(states)} requests fit into memory")
        return batch, fast, queries, read


def register() -> None:
    """Make it known to transformers by its name."""
    scheduler.SCHEDULER_MAPPING[NAME] = ExternalScheduler
