"""One worker as the gateway knows it: what it reports, and what it still has to do."""

from __future__ import annotations

from math import inf
from typing import Any, Protocol
from urllib.parse import urlsplit

from router.gateway.fleet.health import Health, Standing
from router.gateway.fleet.stalls import StallGuard
from router.wire import MOST_CONTEXT, AgentState, Beside
from solver.cost.estimators import ScaleEstimator
from solver.cost.model import CostModel
from solver.routing.load import WorkerLoad
from solver.routing.problem import WorkerView
from solver.routing.rolling import lead
from solver.routing.share import Share
from solver.routing.sums import NOTHING, Backlog, LoadSums

# What a worker that does not tell is taken to keep of prompts; llama-65b-ascend's memory.
PLAIN_KV_TOKENS = 131_072


class Siblings(Protocol):
    """The other processes of this gateway, by what each tells of itself."""

    def tell(self, url: str, own: LoadSums) -> None:
        """This process has this in flight at a worker."""
        ...

    def wait(self, backlog: Backlog) -> None:
        """What waits in this process for room."""
        ...

    def held(self, url: str) -> LoadSums:
        """What the others have in flight at a worker, all together."""
        ...

    def wanting(self) -> int:
        """In how many others requests wait for room."""
        ...

    def backlog(self) -> Backlog:
        """What waits in the others, all together."""
        ...

    def content(self, url: str) -> int:
        """Sequences at a worker of those whose requests do not wait."""
        ...


class Worker:
    """One worker as the gateway knows it.

    Attributes:
        reported_name: what it calls itself; `name` tells it from others that do the same.
        state: what its agent last said; None for a plain OpenAI-compatible server.
        models: the entries of ``/v1/models`` that it serves, by id.
        health: how it is, as looks and answers tell.
        load: what this process has sent it and it has not finished, and what others have.
        siblings: whoever tells what other processes of this gateway have there, if there are any.
        far, far_wanting, far_backlog: what other gateways have there, by its agent, how many want
            more, and how much.
        share: this process's part of its room.
        shared_s: when that was last looked at, on the monotonic clock.
        scale: learnt correction of the cost model of a worker without an agent.
        served: its models and the longest request of each, where known.
        stall_guard: times out the requests that it has, should it fall silent.
        leaving: it is to go as soon as it has nothing left to do.
    """

    def __init__(
        self,
        url: str,
        slots: int,
        cost: CostModel,
        *,
        prefix_cache: bool = False,
    ) -> None:
        self.url = url
        self.name = self.reported_name = urlsplit(url).netloc
        self.health = Health()
        self.state: AgentState | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.load = WorkerLoad()
        self.siblings: Siblings | None = None
        self.far, self.far_wanting, self.far_backlog = NOTHING, 0, Backlog()
        self.share, self.shared_s = Share(), -inf
        self.scale = ScaleEstimator()
        self.served: tuple[tuple[str, int | None], ...] = ()
        self.stall_guard = StallGuard()
        self.leaving = False
        self._slots, self._cost, self._prefix_cache = slots, cost, prefix_cache
        self._scaled = 1.0, cost
        self._view: tuple[tuple[object, ...], WorkerView] | None = None

    @property
    def up(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.health.standing is Standing.UP

    @property
    def down(self) -> bool:
        """Whether it cannot be reached, or does not serve."""
        return self.health.standing is Standing.DOWN

    @property
    def available(self) -> bool:
        """Whether it takes new requests, be it as the last resort."""
        return self.health.open and not self.draining

    @property
    def ready(self) -> bool:
        """Whether it takes new requests, and not just to be tried."""
        return self.available and not (self.health.held and self.health.places <= 1)

    @property
    def draining(self) -> bool:
        """Whether it only finishes what it has: it is to leave, or its agent shuts down."""
        return self.leaving or (self.state is not None and self.state.draining)

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        return self.state.slots if self.state is not None else self._slots

    @property
    def base_cost(self) -> CostModel:
        """Its cost model before what was learnt: its agent's word, or the assumed one."""
        return self._cost

    @property
    def cost(self) -> CostModel:
        """Its iteration times, as well as they are known."""
        if self.state is not None:
            return self._cost
        if self._scaled[0] != self.scale.factor:
            self._scaled = self.scale.factor, self._cost.scaled(self.scale.factor)
        return self._scaled[1]

    @property
    def queued(self) -> int:
        """Requests that have not begun there, as its agent last said; they can be taken back."""
        if self.state is None:
            return 0
        return max(0, min(self.state.queued - self.far.prefills, len(self.load)))

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        return self.cost.decode_s(self.slots)

    @property
    def free_slots(self) -> int:
        """Sequences that it could start at once; 0 where it is down or its memory is full."""
        return self._places(self.slots)

    @property
    def room(self) -> int:
        """Sequences that it could start soon: free slots and a lead, or this process's share."""
        return self._places(self.slots + lead(self.slots, 1))

    def _places(self, capacity: int) -> int:
        if self._closed:
            return 0
        self.see_others()
        free = max(0, capacity - self.load.sequences)
        return int(min(free, self.health.places, self.share.room(self.own_sequences)))

    @property
    def own_sequences(self) -> int:
        """Those that this process has sent it."""
        return self.load.sequences - self.load.others.sequences

    def see_others(self) -> None:
        """What others have there, as of now."""
        if self.siblings is not None:
            self.load.tell_others(self.far + self.siblings.held(self.url))

    def tell_siblings(self) -> None:
        """What this process has there, as of now."""
        if self.siblings is not None:
            self.siblings.tell(self.url, self.load.own)

    def sent(self, sequences: int) -> None:
        """This process has sent it so many more."""
        self.share.sent(sequences)
        self.tell_siblings()

    def left(self, sequences: int) -> None:
        """So many of this process's have left it."""
        self.share.left(sequences)
        self.tell_siblings()

    def filled(self) -> None:
        """It says that others have filled it: so it is until it tells its state again."""
        self._tell_far(self.far + LoadSums(sequences=self.room), self.far_wanting)

    def _tell_far(self, far: LoadSums, wanting: int) -> None:
        self.far, self.far_wanting = far, wanting
        self.load.tell_others(far)
        self.see_others()

    @property
    def _closed(self) -> bool:
        full = self.state is not None and self.load.kv_tokens >= self.state.kv_tokens
        return full or not self.available

    @property
    def has_prefix_cache(self) -> bool:
        """Whether its engine has a prefix cache."""
        return self._prefix_cache if self.state is None else self.state.prefix_cache

    @property
    def kv_free(self) -> float:
        """Cached tokens that it has room for beside what it has been sent."""
        tokens = PLAIN_KV_TOKENS if self.state is None else self.state.kv_tokens
        return tokens - self.load.kv_tokens

    def max_model_len(self, model: str) -> int | None:
        """Prompt and output tokens that a request for `model` may have; None if unknown."""
        length = self.models.get(model, {}).get("max_model_len")
        return length if type(length) is int and 0 < length <= MOST_CONTEXT else None

    def update_models(self, models: dict[str, dict[str, Any]]) -> None:
        """It has told what it serves."""
        if models != self.models:
            self.models = models
            self.served = tuple((model, self.max_model_len(model)) for model in models)

    def backlog_s(self, more: int, now: float) -> float:
        """Seconds until it has done what it has."""
        return self.load.backlog_s(self.cost, self.slots, more, now)

    def own_backlog_s(self, now: float) -> float:
        """Of that, what this process has sent."""
        return self.load.own_backlog_s(self.cost, self.slots, now)

    def view(self, now: float) -> WorkerView:
        """What the planner sees of it; the same as before until something has changed."""
        self.see_others()
        load = self.load
        if load.is_due(now):
            load.advance(self.cost, self.slots, now)
        health = self.health
        known = load.changes, self.state, self.scale.factor
        seen = *known, health.open, health.places, self.leaving, self.share.most
        if self._view is None or self._view[0] != seen:
            self._view = seen, self._new_view(now)
        return self._view[1]

    def _new_view(self, now: float) -> WorkerView:
        load, cost, slots = self.load, self.cost, self.slots
        kv = None if self.state is None else self.state.kv_tokens
        backlog = load.backlog_s(cost, slots, slots, now)
        return WorkerView(
            cost=cost,
            slots=slots,
            in_flight=load.sequences,
            backlog_s=backlog,
            prefill_s=load.prefill_s(cost),
            kv_free=None if kv is None else kv - load.kv_reserved,
            running=min(slots, load.running),
            left_tokens=load.left_tokens,
            kv_tokens=load.kv_cached,
            kv_now=inf if kv is None else kv - load.kv_tokens,
            room=self.room,
        )

    def update_plain(self, models: dict[str, dict[str, Any]]) -> None:
        """It answers without an agent, if there ever was one."""
        self.state = None
        self._tell_far(NOTHING, 0)
        self.far_backlog = Backlog()
        self.update_models(models)

    def update_state(self, state: AgentState) -> None:
        """Its agent reports."""
        if self.state is None or state.cost_ms != self.state.cost_ms:
            self._cost = CostModel.from_ms(state.cost_ms)
        self.state, self.reported_name = state, state.name
        beside = state.beside
        self._tell_far(_sums(beside), beside.wanting)
        self.far_backlog = Backlog(beside.wanted, beside.wanted_prompt, beside.wanted_output)
        self.update_models({state.model: state.model_entry()})


def _sums(beside: Beside) -> LoadSums:
    """Others' requests at an agent, as a load has them."""
    return LoadSums(
        sequences=beside.sequences,
        prefills=max(0, beside.sequences - beside.begun),
        prompt_tokens=max(0, beside.prompt_tokens - beside.prefilled),
        output_tokens=beside.left,
        kv_tokens=beside.prefilled + beside.made,
        kv_reserved=beside.prompt_tokens + beside.made + beside.left,
    )
