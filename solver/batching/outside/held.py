"""Requests before an engine that is seen from outside, and which of them a decision lets in."""

from __future__ import annotations

from dataclasses import dataclass

from solver.batching.policy import Decision
from solver.batching.sequence import Reason, Sequence
from solver.cost.model import Action


@dataclass(slots=True, eq=False)
class HeldRequest:
    """A request: its sequences, the first of which stands in line for all.

    `streamed`: its tokens can be seen as they come.
    """

    sequences: tuple[Sequence, ...]
    streamed: bool

    @property
    def id(self) -> str:
        """Its name: its first sequence's."""
        return self.sequences[0].id

    @property
    def prompt_tokens(self) -> int:
        """Of all its sequences."""
        return sum(sequence.prompt_tokens for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Release:
    """Requests to be sent now, and why."""

    reason: Reason
    requests: tuple[HeldRequest, ...]


def first_of(fitting: list[HeldRequest], decision: Decision) -> tuple[HeldRequest, ...]:
    """The first of them, as many sequences as a decision to prefill lets in, and one at least."""
    if decision.action in (Action.DECODE, Action.IDLE):
        return ()
    if decision.max_admitted is None:
        return tuple(fitting)
    count, left = 0, decision.max_admitted
    for request in fitting:
        left -= len(request.sequences)
        if left < 0 and count:
            break
        count += 1
    return tuple(fitting[:count])
