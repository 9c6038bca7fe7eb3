"""What an engine holds and does: sequences, and the stages that move them on."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import Action, CostModel
from solver.lengths.distribution import LengthDistribution


class Reason(StrEnum):
    """Why; the label of ``prefill_insertions_total``."""

    ENGINE_IDLE = "engine_idle"  # nothing was being decoded
    SLOT_FREE = "slot_free"  # a slot was free, which is enough for some policies
    ENOUGH_FREE = "enough_free"  # as many slots were free as the threshold asks for
    NOBODY_JOINS = "nobody_joins"  # nobody else would share the stage, however long one waits
    HURRIED = "hurried"  # somebody whose tenant comes back waits for no company
    WAIT_COST = "wait_cost"  # waiting for company would cost more than it saves
    NOTHING_ADMISSIBLE = "nothing_admissible"
    STALL_COST = "stall_cost"  # a stage now would cost more than waiting for company
    FULL_CHUNK = "full_chunk"  # as many prompt tokens wait as targets let into one iteration
    STALL_TARGET = "stall_target"  # those with a target get a token between two chunks


# Rounds for which admission leaves memory to those who have a target between tokens, as a request
# that loses its memory stands still for seconds: enough for others to end meanwhile, and too few to
# leave memory idle (ShareGPT, OPT-66B: 53 preemptions in 1,000 requests became 1, in 0.6 % less
# time; with 256 rounds none, in 1.7 % more).
SPARE_ROUNDS = 64


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside an engine.

    Attributes:
        expected_tokens: output tokens as predicted when it came.
        max_tokens: output tokens that it may make at most.
        arrival_s: when it came.
        hash_ids: hashes of its prompt's blocks, where prefixes may be cached.
        priority: its head start in the queue.
        due_s: when it should be done; infinite: whenever.
        lengths: the prediction as a distribution, where there is one.
        targets: what its user would feel.
        turn_s: when its turn came, where tenants take turns; None: they do not.
        hurry_s: from when on it waits for no company; infinite: as long as that pays.
        made: output tokens made, as of when it last began or stopped decoding.
        cached: prompt tokens found in the prefix cache.
        prefilled: tokens prefilled so far; all `to_prefill` before it decodes.
        restarts: how often it has lost its memory.
        slot: the slot that it holds; -1 before its prefill.
    """

    id: str
    prompt_tokens: int
    expected_tokens: float
    max_tokens: int
    arrival_s: float
    hash_ids: tuple[int, ...] = ()
    priority: Priority = Priority.DEFAULT
    due_s: float = inf
    lengths: LengthDistribution | None = None
    targets: Targets = NO_TARGETS
    turn_s: float | None = None
    hurry_s: float = inf
    made: int = 0
    cached: int = 0
    prefilled: int = 0
    restarts: int = 0
    slot: int = -1

    @property
    def is_bulk(self) -> bool:
        """Whether nobody waits for it: it steps back for whom somebody waits for."""
        return self.priority is Priority.BULK

    @property
    def context(self) -> int:
        """Tokens that it holds in memory once it decodes again: its prompt and what it has made."""
        return self.prompt_tokens + self.made

    @property
    def spare(self) -> int:
        """Tokens beside its context that memory must have for it when it is admitted."""
        if self.targets.tpot_s == inf:
            return 1
        return max(1, min(SPARE_ROUNDS, self.max_tokens, int(self.expected_tokens)))

    @property
    def expected_left(self) -> float:
        """Tokens that it will still make; as many again if it has outlived what was expected."""
        left = self.expected_tokens - self.made
        return min(left if left > 0 else self.expected_tokens, self.max_tokens - self.made)

    @property
    def to_prefill(self) -> int:
        """Tokens that must still be prefilled before it decodes."""
        return self.context - self.cached - self.prefilled


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some prompt tokens of one sequence; `last` if its prefill ends with them."""

    sequence: Sequence
    tokens: int
    last: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """One iteration of an engine, or `rounds` decode rounds between which nothing changes.

    `kv_tokens` are cached tokens of those who decode, when it begins; `preempted` lost their
    memory before, and those `evicted` of them their slot too; `paused` hold both and stand still,
    for online work (`solver.batching.stepping_back`).
    """

    action: Action
    reason: Reason
    prefill: tuple[Chunk, ...]
    decode: tuple[Sequence, ...]
    kv_tokens: int
    rounds: int = 1
    preempted: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    paused: tuple[Sequence, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens that it computes."""
        return sum(chunk.tokens for chunk in self.prefill)

    @property
    def sequences(self) -> Many[Sequence]:
        """All who take part."""
        return (*(chunk.sequence for chunk in self.prefill), *self.decode)

    def duration_s(self, cost: CostModel, rounds: int | None = None) -> float:
        """Seconds that it takes on an engine with this cost model, or that `rounds` of it take."""
        if self.action is Action.PREFILL:
            return cost.prefill_s(self.prompt_tokens)
        batch = len(self.decode)
        if self.action is Action.MIXED:
            return cost.mixed_s(self.prompt_tokens, batch, self.kv_tokens)
        count = self.rounds if rounds is None else rounds
        growth = cost.gamma_d_s * batch * (count * (count - 1) / 2)
        return count * cost.decode_s(batch, self.kv_tokens) + growth
