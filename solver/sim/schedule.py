"""What a simulation did, stage by stage: enough to check every claim without the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from solver.batching.sequence import Stage
from solver.cost.model import Action


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """One stage on one worker.

    Attributes:
        worker: its name.
        kind: prefill, decode or mixed.
        start_s, end_s: seconds since the simulation began.
        rounds: identical decode rounds in this line; 1 for other kinds.
        prefill: prompt tokens prefilled now, by request.
        preempted: requests that lost their memory before this stage: they keep their slots and what
            they have made, and are prefilled again.
        evicted: of these, bulk work that lost its slot too, for online work.
        paused: bulk work that keeps slot and memory and stands still, for online work.
        cached: prompt tokens found in the worker's prefix cache, by request, at its first prefill.
        decode: requests that make one token a round.
        slots: slot of each request that takes part.
    """

    worker: str
    kind: Action
    start_s: float
    end_s: float
    rounds: int
    prefill: Mapping[str, int]
    decode: tuple[str, ...]
    slots: Mapping[str, int]
    cached: Mapping[str, int]
    preempted: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()

    @classmethod
    def of(cls, worker: str, stage: Stage, start_s: float, end_s: float, rounds: int) -> Self:
        """What `worker` did in a stage, of `rounds` decode rounds if it is one of decoding."""
        return cls(
            worker=worker,
            kind=stage.action,
            start_s=start_s,
            end_s=end_s,
            rounds=rounds if stage.action is Action.DECODE else 1,
            prefill={chunk.sequence.id: chunk.tokens for chunk in stage.prefill},
            decode=tuple(sequence.id for sequence in stage.decode),
            slots={sequence.id: sequence.slot for sequence in stage.sequences},
            cached={
                chunk.sequence.id: chunk.sequence.cached
                for chunk in stage.prefill
                if chunk.sequence.cached and not chunk.sequence.prefilled
            },
            preempted=stage.preempted,
            evicted=stage.evicted,
            paused=tuple(sequence.id for sequence in stage.paused),
        )

    def to_json(self) -> dict[str, Any]:
        """The line of a schedule file; what is seldom there only where it is."""
        line = {
            "worker": self.worker,
            "kind": self.kind.value,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "rounds": self.rounds,
            "prefill": dict(self.prefill),
            "decode": list(self.decode),
            "slots": dict(self.slots),
        }
        if self.cached:
            line["cached"] = dict(self.cached)
        for name in ("preempted", "evicted", "paused"):
            if found := getattr(self, name):
                line[name] = list(found)
        return line
