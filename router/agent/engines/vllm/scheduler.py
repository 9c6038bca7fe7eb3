"""vLLM's scheduler, told by our policies when to prefill, whom, and how much.

Rules:
- vLLM's own `schedule` does all the work; this narrows what it may take into the next step, and
  puts its knobs back at once;
- whenever our view has nobody to hold back, vLLM decides alone: what we overlook is never lost;
- a step that stalls decoding for a prefill must carry one, and one in which somebody stands still
  must carry something; if vLLM finds no room for it, it decides alone until a prefill has gone
  through, but for the prompt tokens that targets let into a step;
- bulk work steps back for online work (`solver.batching.pacing`): who is paused keeps its slot and
  its memory, and if memory runs out bulk work loses its own first, the youngest before others.

Under asynchronous scheduling a step is decided before the one before it has ended: what ends there
is seen one step late, except at `max_tokens`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any, Self

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from router.agent.engines.vllm.known import KnownRequests, made
from router.agent.engines.vllm.queue import RankedRequestQueue
from router.agent.engines.vllm.settings import read_settings
from solver.batching.kv import count_fitting
from solver.batching.outside.follow import Follower, Iteration, UnprefilledRequests, holds_back
from solver.batching.pacing import Pacing
from solver.batching.policies import POLICIES
from solver.batching.policy import Decision
from solver.batching.sequence import Sequence
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit

# Until iterations were measured: a mixed one costs nothing beyond its parts, so vLLM goes on as it
# would by itself.
PRIOR = CostModel.from_ms(
    {
        "alpha_p_ms": 10.0,
        "beta_p_ms": 0.1,
        "alpha_d_ms": 10.0,
        "beta_d_ms": 0.1,
        "alpha_m_ms": 10.0,
        "beta_mp_ms": 0.1,
        "beta_md_ms": 0.1,
    }
)
# Steps after which tokens made are compared with vLLM's: speculation makes several in a round.
CHECK = 16
ENDED_EARLY = RequestStatus.FINISHED_ABORTED, RequestStatus.FINISHED_IGNORED


class Makespan(Scheduler):
    """For ``--scheduler-cls``; with asynchronous scheduling it makes a `MakespanAsync`."""

    # vLLM's own, which are lent to a step and put back.
    max_num_scheduled_tokens: int
    max_num_active_reqs: int
    prefill_capacity_bound: bool

    def __new__(cls, vllm_config: VllmConfig, *_: Any, **__: Any) -> Self:  # noqa: ANN401
        """The variant that vLLM's configuration asks for."""
        chosen = MakespanAsync if vllm_config.scheduler_config.async_scheduling else cls
        return super().__new__(chosen)

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(vllm_config, *args, **kwargs)
        settings = read_settings(os.environ)
        self._follower = Follower(
            self.max_num_running_reqs,
            self.kv_cache_config.num_blocks * self.block_size,
            self.max_num_scheduled_tokens,
            POLICIES[settings.policy](),
            settings.cost or PRIOR,
            OnlineFit(PRIOR) if settings.cost is None else None,
        )
        self._back = Pacing(self._follower)
        self._known = KnownRequests(settings.targets, self._back)
        self.waiting = RankedRequestQueue(self._follower, self._known, self._back)
        self._decoding: dict[Request, Sequence] = {}
        self._seen: list[Request] = []  # those who decoded at the last step
        self._steps: deque[Iteration] = deque()
        self._still: list[Request] = []  # who stands still next, as bulk work steps back
        self._most_new: int | None = None  # of those who wait, for the same reason
        self._alone = False  # vLLM decides until a prefill has gone through
        self._since_s: float | None = None  # the end of the last step; None: the engine was idle

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """The next step, as the policy wants it."""
        now = time.perf_counter()
        if self._since_s is None:
            self._since_s = now
        self._follow()
        alone = self._alone or self._pause_state is not PauseState.UNPAUSED
        candidates = self._candidates(now, alone=alone)
        decision = self._follower.decide(candidates)
        self._stand_still(self._still)
        if self._pause_state is not PauseState.UNPAUSED:
            output = super().schedule(throttle_prefills)
        elif not alone and holds_back(decision, candidates):
            output = self._decode_only()
        else:
            whoever = replace(decision, action=Action.MIXED, max_admitted=None)
            with self._limits(whoever if alone else decision, candidates.budget):
                output = super().schedule(throttle_prefills)
        self._note(decision, output)
        return output

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """It has ended, however."""
        self._known.end(request, time.perf_counter())
        return super()._free_request(request, *args, **kwargs)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """A step has ended: they end in the order in which they were scheduled."""
        result = super().update_from_output(scheduler_output, model_runner_output)
        now = time.perf_counter()
        ran = self._steps.popleft()
        if self._since_s is not None:
            self._follower.end_iteration(ran, now - self._since_s)
        self._since_s = now if self._steps or any(self.get_request_counts()) else None
        return result

    def _follow(self) -> None:
        """Bring the follower up to date with who decodes."""
        now = [request for request in self.running if _decodes(request)]
        check = self.current_step % CHECK == 0
        if not check and now == self._seen:
            return
        self._seen, still = now, set(now)
        for request in [known for known in self._decoding if known not in still]:
            self._follower.leave(self._decoding.pop(request), ended=_ended(request))
        for request in now:
            sequence = self._decoding.get(request)
            if sequence is None:
                self._decoding[request] = sequence = self._known.refreshed(request)
                self._follower.join(sequence)
            elif check:
                self._follower.correct(sequence, made(request))

    def _candidates(self, now: float, *, alone: bool) -> UnprefilledRequests:
        """Those who could be prefilled now; what prefix caches hold is not known here."""
        self._still, self._most_new = [], None
        filling = [request for request in self.running if request.is_prefill_chunk]
        held = len(self.running) + self.num_waiting_for_streaming_input
        slots = max(0, self.max_num_active_reqs - held)
        waiting = len(filling) + sum(self.get_request_counts()[1:])
        ready = [
            request
            for request in (self.waiting.next_of(slots) if slots and self.waiting else ())
            if not self._is_blocked_waiting_status(request.status)
        ]
        if not alone and self._back.concerns(now):
            return self._beside_online(filling, ready, slots, now)
        self._back.resume_all()
        ready = ready[: self._count_fitting(filling, ready)]
        tokens = _to_prefill(filling) + _to_prefill(ready)
        return UnprefilledRequests(len(filling) + len(ready), waiting, tokens, len(filling))

    def _beside_online(
        self, filling: list[Request], ready: list[Request], slots: int, now: float
    ) -> UnprefilledRequests:
        """The same, as bulk work steps back; what is held back is no company for anybody."""
        back, cost, known = self._back, self._follower.cost, self._known.of
        self.running.sort(key=lambda request: known(request).is_bulk)  # the last loses its memory
        chosen, online = back.let_in(
            [known(one) for one in ready], [known(one) for one in filling], slots, cost, now
        )
        ready = ready[: len(chosen)]  # online work is first in line
        ready = ready[: self._count_fitting(filling, ready)]
        going, budget = filling, inf
        if online:
            going = [request for request in filling if not known(request).is_bulk]
            tokens = _to_prefill(going) + _to_prefill(ready)
            back.pace(cost, now, min(tokens, self.max_num_scheduled_tokens))
        else:
            back.pace(cost, now, 0.0)
            budget = back.chunk_tokens(cost, now, just_stalled=self._follower.just_stalled)
            if budget <= 0:
                going, ready = [], []
        paused = self._follower.paused
        self._still = [request for request in filling if request not in going]
        self._still += [request for request, own in self._decoding.items() if own.id in paused]
        self._most_new, count = len(ready), len(going) + len(ready)
        tokens = _to_prefill(going) + _to_prefill(ready)
        return UnprefilledRequests(count, count, tokens, len(going), budget)

    def _count_fitting(self, filling: list[Request], ready: list[Request]) -> int:
        """How many of those ready memory has room for, once those filling are prefilled."""
        free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        free -= self.kv_cache_manager.watermark_blocks
        room = free * self.block_size - _to_prefill(filling)
        count = count_fitting((self._blocks_tokens(request) for request in ready), room)
        return count if self.running else max(count, min(1, len(ready)))

    def _blocks_tokens(self, request: Request) -> int:
        """Its tokens and the one that it makes next as memory counts them, in whole blocks."""
        blocks = request.num_tokens // self.block_size + 1
        return int(blocks * self.block_size)

    def _decode_only(self) -> SchedulerOutput:
        """As where several engines wait for each other's prefills; see vLLM's `schedule`."""
        saturated, self.prefill_capacity_bound = self.prefill_capacity_bound, False
        try:
            return super().schedule(True)
        finally:
            self.prefill_capacity_bound = saturated

    def _stand_still(self, requests: Iterable[Request]) -> None:
        """They are no part of the next step; vLLM counts it before it compares."""
        for request in requests:
            later = max(request.next_decode_eligible_step, self.current_step + 2)
            request.next_decode_eligible_step = later

    @contextmanager
    def _limits(self, decision: Decision, budget: float) -> Iterator[None]:
        """Whom and how much the next step may carry, `budget` prompt tokens at most."""
        tokens, active = self.max_num_scheduled_tokens, self.max_num_active_reqs
        budget = min(decision.max_prompt_tokens, budget)
        if decision.action is Action.PREFILL:
            self._stand_still(self._decoding)
            self.max_num_scheduled_tokens = int(min(tokens, budget))
        elif decision.action is Action.MIXED:
            most = (1 + self.num_spec_tokens) * len(self._follower.decoding) + budget
            self.max_num_scheduled_tokens = int(min(tokens, most))
        limits = [most for most in (decision.max_admitted, self._most_new) if most is not None]
        if limits:
            held = len(self.running) + self.num_waiting_for_streaming_input
            self.max_num_active_reqs = min(active, held + min(limits))
        try:
            yield
        finally:
            self.max_num_scheduled_tokens, self.max_num_active_reqs = tokens, active

    def _note(self, decision: Decision, output: SchedulerOutput) -> None:
        """What the step carries."""
        scheduled = output.num_scheduled_tokens
        ids = [r.request_id for r in self._decoding if r.request_id in scheduled]
        decoded = sum(scheduled[key] for key in ids)
        ran = self._follower.begin_iteration(output.total_num_scheduled_tokens - decoded, len(ids))
        self._steps.append(ran)
        if ran.prompt_tokens:
            self._alone = False
        elif (decision.action is Action.PREFILL and self._decoding) or (
            self._still and not scheduled
        ):
            self._alone = True


class MakespanAsync(Makespan, AsyncScheduler):
    """For asynchronous scheduling."""


def _decodes(request: Request) -> bool:
    """Whether its prefill is over, and its last token not yet scheduled."""
    if request.is_prefill_chunk:
        return False
    return bool(made(request) < request.max_tokens)


def _to_prefill(requests: Iterable[Request]) -> int:
    """Tokens of theirs that are not computed yet."""
    return sum(request.num_tokens - request.num_computed_tokens for request in requests)


def _ended(request: Request) -> bool:
    """Whether it has made its last token, or will; else it was aborted or preempted."""
    if request.status is RequestStatus.RUNNING:
        return True
    return bool(request.is_finished() and request.status not in ENDED_EARLY)
