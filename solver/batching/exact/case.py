"""One engine and all its requests, lengths known: what `engine` and `search` find the optimum of.

Rules (README sections 1 and 2):
- the engine runs a prefill stage or a decode round, never both at once; a *bin* is one prefill
  stage and the decode rounds after it;
- a prompt is prefilled whole, in one stage. Without a budget a split never pays: the stage of its
  last part could have taken all of it. With one, splitting can save stages, so an engine that
  splits prompts may beat the optimum found here;
- a request holds one slot from its prefill to its last token, nothing is preempted, and D output
  tokens take D decode rounds.

So every schedule spends the same time on tokens, and they differ in just two counts:

    makespan = beta_p * sum(P) + beta_d * sum(D)  +  alpha_p * stages + alpha_d * rounds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from solver.batching.bounds import Work, engine_bound
from solver.cost.model import CostModel
from solver.errors import InfeasibleProblem, InvalidPlan, ProblemError


@dataclass(frozen=True, slots=True)
class Placement:
    """The slot of a request, and the bin of its prefill."""

    slot: int
    bin: int


@dataclass(frozen=True, slots=True)
class EngineSchedule:
    """What an engine does with the requests of an `EngineCase`.

    Attributes:
        placements: of each request; bins are numbered without gaps.
        rounds: decode rounds of each bin.
        makespan_s: when the last token is made.
    """

    placements: tuple[Placement, ...]
    rounds: tuple[int, ...]
    makespan_s: float

    @property
    def stages(self) -> int:
        """How many prefill stages, one for each bin."""
        return len(self.rounds)


@dataclass(frozen=True, slots=True)
class EngineCase:
    """Build it with `EngineCase.of`.

    Attributes:
        prompt, output: tokens of each request.
        slots: sequences at once.
        cost: neither with mixed iterations nor with a cost of cached tokens.
        prefill_budget: most prompt tokens in one prefill stage.
    """

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    slots: int
    cost: CostModel
    prefill_budget: float = inf

    @classmethod
    def of(
        cls,
        requests: Sequence[tuple[int, int]],
        slots: int,
        cost: CostModel,
        prefill_budget: float = inf,
    ) -> EngineCase:
        """From (prompt tokens, output tokens) of each request.

        Raises:
            ProblemError: naming what is wrong.
            InfeasibleProblem: naming a request whose prompt is above the budget.
        """
        if not requests:
            raise ProblemError("requests: there is none")
        if slots < 1:
            raise ProblemError(f"slots: must be at least 1, not {slots}")
        if cost.mixed is not None:
            raise ProblemError("cost model: mixed iterations have no place in an exclusive engine")
        if cost.gamma_d_s != 0:
            raise ProblemError("cost model: gamma_d must be 0, rounds may not depend on the cache")
        if cost.delta_s != 0:
            raise ProblemError("cost model: delta must be 0, prefill must be linear")
        for i, tokens in enumerate(requests):
            if any(count < 1 or count % 1 for count in tokens):
                raise ProblemError(f"request {i}: {tokens} must be two whole numbers of at least 1")
            if not tokens[0] <= prefill_budget:
                why = f"its prompt of {tokens[0]} is above the prefill budget of {prefill_budget}"
                raise InfeasibleProblem(f"request {i}: {why}", request=i)
        prompt, output = zip(*requests, strict=True)
        return cls(prompt, output, slots, cost, prefill_budget)

    @property
    def requests(self) -> int:
        """How many."""
        return len(self.prompt)

    @property
    def stage_tokens(self) -> float:
        """Most prompt tokens of one prefill stage: its budget, or the longest prompts together."""
        return min(self.prefill_budget, self._longest_prompts)

    @property
    def budget_binds(self) -> bool:
        """Whether the budget may keep requests from sharing a stage."""
        return self._longest_prompts > self.prefill_budget

    @property
    def _longest_prompts(self) -> int:
        return sum(sorted(self.prompt)[-self.slots :])

    @property
    def bound_s(self) -> float:
        """Seconds that no schedule is below."""
        return self._bound_s(self.cost)

    @property
    def tokens_s(self) -> float:
        """Seconds that go into tokens whatever the schedule."""
        return self.cost.beta_p_s * sum(self.prompt) + self.cost.beta_d_s * sum(self.output)

    def makespan_s(self, stages: int, rounds: int) -> float:
        """Seconds of a schedule with so many prefill stages and decode rounds."""
        return self.tokens_s + self.cost.alpha_p_s * stages + self.cost.alpha_d_s * rounds

    def most_bins(self, upper_s: float = inf) -> int:
        """Bins that suffice for an optimum, provided that it ends by `upper_s`.

        Each bin prefills a request, so there are at most n. Without a budget the first can take J
        of them, which leaves at most n - J others: if a slot stands empty after the first stage,
        the request that is started next, on whatever slot, can be started there at once; nothing
        else changes until its old start, and from then on no more slots are in use than before.
        And each stage costs alpha_p on top of everything else, for which `bound_s` is a bound.
        """
        most = self.requests
        if not self.budget_binds:
            most = max(1, self.requests - self.slots + 1)
        alpha_p_s = self.cost.alpha_p_s
        if upper_s < inf and alpha_p_s > 0:
            others_s = self._bound_s(replace(self.cost, alpha_p_s=0.0))
            most = min(most, int((upper_s - others_s) / alpha_p_s + 1e-6))
        return max(most, 1)

    def schedule(self, placements: Sequence[Placement]) -> EngineSchedule:
        """What comes of placements if each stage starts as soon as its slots are free.

        Raises:
            InvalidPlan: if two requests enter one slot together, or a stage exceeds the budget.
        """
        used = sorted({place.bin for place in placements})
        placed = [Placement(place.slot, used.index(place.bin)) for place in placements]
        free_at = dict.fromkeys(range(self.slots), 0)  # by slot: rounds since the start
        starts: list[int] = []
        for k in range(len(used)):
            entering = [i for i, place in enumerate(placed) if place.bin == k]
            self._require_room([placed[i].slot for i in entering], entering)
            earliest = starts[-1] if starts else 0
            starts.append(max(earliest, *(free_at[placed[i].slot] for i in entering)))
            for i in entering:
                free_at[placed[i].slot] = starts[k] + self.output[i]
        ends = [*starts[1:], max(free_at.values())]
        rounds = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return EngineSchedule(tuple(placed), rounds, self.makespan_s(len(rounds), sum(rounds)))

    def _require_room(self, slots: Sequence[int], entering: Sequence[int]) -> None:
        if len(set(slots)) < len(slots) or not set(slots) <= set(range(self.slots)):
            raise InvalidPlan(f"requests {entering} are prefilled together on slots {slots}")
        tokens = sum(self.prompt[i] for i in entering)
        if tokens > self.prefill_budget:
            raise InvalidPlan(f"requests {entering}: {tokens} tokens exceed the prefill budget")

    def _bound_s(self, cost: CostModel) -> float:
        work = Work(self.requests, sum(self.prompt), sum(self.output), max(self.output))
        return engine_bound(cost, self.slots, work, prefill_budget=self.prefill_budget)
