"""One worker as the gateway knows it: what it reports, and what it still has to do.

It is a server, or one data-parallel rank of a server: see `address`.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil, inf
from typing import Any
from urllib.parse import urlsplit

from router.gateway.fleet.adapters import Adapters
from router.gateway.fleet.address import RANK, Address
from router.gateway.fleet.health import Standing
from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.fleet.kv.loads import Loads
from router.gateway.fleet.kv.stream import Knowledge
from router.gateway.fleet.others import Peers, Siblings, sums_of
from router.gateway.fleet.reports import PlainLook
from router.kv_wire import Load
from router.wire import MOST_CONTEXT, AgentState
from solver.cost.estimators import SpeedEstimator
from solver.cost.model import CostModel
from solver.routing.load import WorkerLoad
from solver.routing.problem import Job, WorkerView, room_now
from solver.routing.rolling import lead
from solver.routing.share import Share
from solver.routing.slots import Expected, Known, PlainSlots
from solver.routing.sums import NOTHING, Backlog, LoadSums

# What a worker that does not tell is taken to keep of prompts; llama-65b-ascend's memory.
PLAIN_KV_TOKENS = 131_072


class Worker:
    """One worker as the gateway knows it.

    Attributes:
        address: where it is, with whoever else is there.
        rank: which of its server's ranks it is; None: that has but one, or takes no names of ranks.
        rank_line: the header by which a request is sent to that rank; empty if there is none.
        place: the same in all processes of a gateway: the URL, and the rank.
        reported_name: what it calls itself; `name` tells it from others that do the same.
        state: what its agent last said; None for a plain OpenAI-compatible server.
        models: the entries of ``/v1/models`` that it serves, by id.
        health: how its server is, as looks and answers tell.
        load: what this process has sent it and it has not finished, and what others have.
        siblings: whoever tells what other processes of this gateway have there, if there are any.
        peers: whoever tells what other gateways have there, if they do.
        far, far_wanting, far_backlog: what other gateways have there, by its agent, else by
            themselves; how many want more, and how much.
        share: this process's part of its room.
        shared_s: when that was last looked at, on the monotonic clock.
        speed: learnt correction of the cost model of a worker without an agent.
        plain_slots: sequences that it runs at once without an agent.
        served: its models and the longest request of each, where known.
        adapters: what it has loaded beside its models.
        stall_guard: times out the requests that its server has, should that fall silent.
        leaving: it is to go as soon as it has nothing left to do.
        cache: what its engine tells of its prefix cache, if it tells of that.
        loads: what its engine pushes of its load.
    """

    def __init__(
        self,
        url: str,
        slots: PlainSlots,
        cost: CostModel,
        *,
        prefix_cache: bool = False,
        address: Address[Worker] | None = None,
    ) -> None:
        self.address: Address[Worker] = address or Address(url)
        self.address.workers.append(self)
        self.url = self.place = url
        self.rank: int | None = None
        self.rank_line = ""
        self.name = self.reported_name = urlsplit(url).netloc
        self.health, self.stall_guard = self.address.health, self.address.stall_guard
        self.state: AgentState | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.load = WorkerLoad()
        self.siblings: Siblings | None = None
        self.peers: Peers | None = None
        self.far, self.far_wanting, self.far_backlog = NOTHING, 0, Backlog()
        self.share, self.shared_s = Share(), -inf
        self.speed = SpeedEstimator()
        self.served: tuple[tuple[str, int | None], ...] = ()
        self.adapters = Adapters()
        self.leaving = False
        self.cache: WorkerCache | None = None
        self.loads, self._pushed = Loads(), False
        self.plain_slots = slots
        self._cost, self._prefix_cache = cost, prefix_cache
        self._kv_told: int | None = None  # of a plain server's memory
        self._scaled = (1.0, 1.0), cost
        self._view: tuple[tuple[object, ...], WorkerView] | None = None

    def use_rank(self, rank: int | None) -> None:
        """It is this rank of its server, or all of that."""
        if rank == self.rank:
            return
        if self.siblings is not None:
            self.siblings.tell(self.place, NOTHING)
        self.forgotten()  # its other processes tell of where it is now as well
        suffix = "" if rank is None else f"#{rank}"
        self.rank, self.place = rank, self.url + suffix
        self.rank_line = "" if rank is None else f"{RANK.decode()}: {rank}\r\n"
        self.reported_name = urlsplit(self.url).netloc + suffix
        self.tell_others()

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
        state = self.state
        return self.health.open and not self.leaving and (state is None or not state.draining)

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
        return self.state.slots if self.state is not None else self.plain_slots.limit.limit

    @property
    def slots_known(self) -> Known:
        """How that is known."""
        return Known.AGENT if self.state is not None else self.plain_slots.known

    @property
    def base_cost(self) -> CostModel:
        """Its cost model before what was learnt: its agent's word, or the assumed one."""
        return self._cost

    @property
    def cost(self) -> CostModel:
        """Its iteration times, as well as they are known."""
        if self.state is not None:
            return self._cost
        factors = self.speed.factors
        if self._scaled[0] != factors:
            self._scaled = factors, self._cost.scaled(*factors)
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
        return 0 if self._memory_full else self._open_places(self.slots)

    @property
    def room(self) -> int:
        """Sequences that it could start soon: free slots and a lead, or this process's share."""
        if self.state is None:
            slots = self.plain_slots.limit.limit
        elif self._memory_full:
            return 0
        else:
            slots = self.state.slots
        return self._open_places(slots + lead(slots, 1))

    @property
    def online_room(self) -> int:
        """The same of requests for which bulk work, and what is paced, steps back there.

        Where other gateways send, too, the agent lets nobody in beyond slots and lead.
        """
        if not self._yielding:
            return self.room
        yielding, places = self.load.yielding, self.slots + lead(self.slots, 1)
        full = yielding.kv_tokens + yielding.prompt_tokens + self.kv_free <= 0
        bulk = self.load.bulk_sequences - self.load.others.bulk
        return 0 if full else self._open_places(places + yielding.sequences, bulk)

    def firm(self, sums: LoadSums) -> int:
        """Sequences that keep others from a place there."""
        return sums.sequences - (0 if self.is_shared else sums.paced)

    def room_for(self, job: Job) -> int:
        """The same of one request; one of several answers waits until its tenant's last is done."""
        load = self.load
        if job.bulk or not (job.sequences > 1 or load.bulk_sequences or load.paced_sequences):
            return self.room
        waits = job.sequences > 1 and self.load.paces(job.tenant)
        return 0 if waits else self.online_room

    @property
    def divides(self) -> bool:
        """Whether its agent orders single answers, and bulk work steps back in its engine."""
        return self.state is not None and self.state.steps_back

    @property
    def _yielding(self) -> bool:
        """Whether there is work that lets others pass, in the agent's queue or its slots."""
        return self.load.yielding_sequences > 0 and self.divides and not self.is_shared

    @property
    def _memory_full(self) -> bool:
        return self.state is not None and self.load.kv_tokens >= self.state.kv_tokens

    def _open_places(self, capacity: int, beside: int = 0) -> int:
        """Of its own, those `beside` count for nothing in this process's share."""
        if not self.available:
            return 0
        self.see_others()
        free, most = capacity - self.load.sequences, self.health.places
        if self.peers is not None:
            free += self._over_part(capacity)
        places = min(free, most) if free > 0 else 0
        if self.share.most < inf:
            places = min(places, self.share.room(self.own_sequences - beside))
        return int(places)

    def _over_part(self, capacity: int) -> int:
        """How many peers say to have there of what is this gateway's part of its room.

        That part is its own, whatever they say: they may be wrong, and who has more than its part
        sends nothing until others have theirs (`solver.routing.share`).
        """
        if self.peers is None or self.state is not None:
            return 0
        part = ceil(capacity / (1 + self.peers.count))
        return max(0, self.far.sequences - (capacity - part))

    @property
    def own_sequences(self) -> int:
        """Those that this process has sent it, and that keep others from a place."""
        load, others = self.load, self.load.others  # asked for often: no sums of all figures
        paced = 0 if self.is_shared else load.paced_sequences - others.paced
        return load.sequences - others.sequences - paced

    @property
    def is_shared(self) -> bool:
        """Whether gateways elsewhere have, or want, something there."""
        return bool(self.far.sequences or self.far_wanting or self.far_backlog.requests)

    def see_others(self) -> None:
        """What others have there, as of now."""
        if self.siblings is not None or self.peers is not None:
            self._see_others()

    def _see_others(self) -> None:
        if self.peers is not None and self.state is None:
            peers = self.peers
            self.far, self.far_wanting = peers.held(self.place), peers.wanting
            self.far_backlog = peers.backlog
        if self.siblings is not None:
            self.load.tell_others(self.far + self.siblings.held(self.place))
        else:
            self.load.tell_others(self.far)

    def tell_others(self) -> None:
        """What this process has there, as of now."""
        if self.siblings is not None or self.peers is not None:
            own = self.load.own
            if self.siblings is not None:
                self.siblings.tell(self.place, own)
            if self.peers is not None:
                self.peers.tell(self.place, self._told_peers(own))

    def forgotten(self) -> None:
        """It has left the fleet, or its place, and nobody looks there any more."""
        if self.peers is not None:
            self.peers.tell(self.place, NOTHING)

    def _told_peers(self, own: LoadSums) -> LoadSums:
        """What this gateway has there, all its processes together; an agent tells that itself."""
        if self.state is not None:
            return NOTHING
        return own if self.siblings is None else own + self.siblings.held(self.place)

    def filled(self) -> None:
        """It says that others have filled it: so it is until it tells its state again."""
        self._tell_far(self.far + LoadSums(sequences=self.room), self.far_wanting)

    def _tell_far(self, far: LoadSums, wanting: int) -> None:
        self.far, self.far_wanting = far, wanting
        self._see_others()

    @property
    def has_prefix_cache(self) -> bool:
        """Whether its engine has a prefix cache."""
        return self._prefix_cache if self.state is None else self.state.prefix_cache

    @property
    def told_cache(self) -> WorkerCache | None:
        """What its engine tells of its cache, where that is worth more than a guess."""
        cache = self.cache
        return cache if cache is not None and cache.told else None

    @property
    def knowledge(self) -> Knowledge:
        """How well it is known what its cache holds."""
        return Knowledge.ESTIMATED if self.cache is None else self.cache.knowledge

    @property
    def kv_free(self) -> float:
        """Cached tokens that it has room for beside what it has been sent."""
        tokens = self._kv_told or PLAIN_KV_TOKENS if self.state is None else self.state.kv_tokens
        return tokens - self.load.kv_tokens

    @property
    def cache_room(self) -> float:
        """Tokens of its prefix cache, of which what runs there holds its own; infinite: unknown.

        An agent's engine may keep what runs beside that.
        """
        return self._kv_told or inf if self.state is None else inf

    def max_model_len(self, model: str) -> int | None:
        """Prompt and output tokens that a request for `model` may have; None if unknown."""
        length = self.models.get(model, {}).get("max_model_len")
        return length if type(length) is int and 0 < length <= MOST_CONTEXT else None

    def update_models(self, models: dict[str, dict[str, Any]]) -> None:
        """It has told what it serves."""
        if models != self.models:
            self.models = models
            self.adapters.list(models)
            self.served = tuple((model, self.max_model_len(model)) for model in models)

    def backlog_s(self, more: int, now: float) -> float:
        """Seconds until it has done what it has."""
        return self.load.backlog_s(self.cost, self.slots, more, now)

    def own_backlog_s(self, now: float) -> float:
        """Of that, what this process has sent."""
        return self.load.own_backlog_s(self.cost, self.slots, now)

    def view(self, now: float) -> WorkerView:
        """What the planner sees of it; the same as before until something has changed."""
        if self.siblings is not None:
            self.see_others()
        load, state, health = self.load, self.state, self.health
        if state is None:
            cost, slots = self.cost, self.plain_slots.limit.limit
        else:
            cost, slots = self._cost, state.slots
        load.advance(cost, slots, now)
        of_health = health.open, health.places, self.leaving, self.share.most
        seen = load.changes, state, cost, slots, *of_health
        view = self._view
        if view is None or view[0] != seen:
            view = self._view = seen, self._new_view(cost, slots, now)
        return view[1]

    def _new_view(self, cost: CostModel, slots: int, now: float) -> WorkerView:
        load, state = self.load, self.state
        view = WorkerView(
            cost=cost,
            slots=slots,
            in_flight=load.sequences,
            backlog_s=load.backlog_s(cost, slots, slots, now),
            prefill_s=load.prefill_s(cost),
            kv_free=None,
            running=min(slots, load.running),
            left_tokens=load.left_tokens,
            kv_tokens=load.kv_cached,
            room=self.room,
        )
        if state is None:
            return view
        kv, awaited = state.kv_tokens, min(slots, load.sequences - load.yielding_sequences)
        view.kv_free = kv - load.kv_reserved
        view.kv_now = room_now(kv, load.kv_tokens, awaited, load.left_tokens)
        if not self._yielding:
            return view
        yielding, bulk = load.yielding, load.bulk_sequences
        prefill_s = cost.beta_p_s * yielding.prompt_tokens
        tokens = yielding.kv_tokens + yielding.prompt_tokens
        # What is paced leaves no slot before it has ended.
        queued = min(load.paced_sequences, max(0, load.sequences - bulk - slots))
        return view.yields(bulk + queued, prefill_s, tokens, self.online_room)

    def sent(
        self,
        key: Hashable,
        job: Job,
        uncached: float,
        now: float,
        *,
        streamed: bool,
        paced: bool = False,
    ) -> None:
        """It is sent a request, `key` is its own; `uncached`: prompt tokens to be prefilled.

        If it is `paced`, its sequences let pass whoever comes after them.
        """
        self.load.add(key, job, now, streamed=streamed, paced=paced)
        self.share.sent(0 if paced else job.sequences)
        self.tell_others()
        # Nobody sees what of others' keeps its requests waiting there.
        if self.state is None and self.siblings is None and not self.far.sequences:
            cost, own = self.cost, self._cost
            expected = Expected(
                own.alpha_p_s,
                own.prefill_s(uncached) - own.alpha_p_s,
                cost.decode_s(self.load.occupancy(self.plain_slots.limit.limit, 0)),
                self._scaled[0][1],
            )
            self.plain_slots.sent(key, job.sequences, expected, now, streamed=streamed)

    def has_queue_for(self, key: Hashable) -> bool:
        """Whether a request that is there may have waited for a slot."""
        return self.load.sequences > self.slots or self.plain_slots.may_have_waited(key)

    def begun(self, key: Hashable, now: float) -> None:
        """The first token of a request that streams has come."""
        prefill = self.plain_slots.begun(key, now)
        if prefill is not None:
            self.speed.prefills.observe(*prefill)

    def ended(self, key: Hashable) -> None:
        """A request has left it, however; unknown ones are ignored."""
        bounded = self.share.most < inf
        before = self.own_sequences if bounded else 0
        self.load.remove(key)
        self.plain_slots.ended(key)
        if bounded:
            self.share.left(before - self.own_sequences)
        self.tell_others()

    @property
    def wants_metrics(self) -> bool:
        """Whether its engine's metrics would tell of adapters, or, while it works, of slots."""
        slots = self.plain_slots.known is not Known.SET and len(self.load) > 0
        return slots or bool(self.adapters.listed)

    def update_plain(self, look: PlainLook, now: float) -> None:
        """It answers without an agent, if there ever was one."""
        self.state, self.far_backlog = None, Backlog()
        self._tell_far(NOTHING, 0)
        self.update_models(look.models)
        if self.loads.now(now) is not None:  # it tells sooner, and of itself
            return
        if self._pushed:  # and does so no more
            self._pushed, self._kv_told = False, None
            self.plain_slots.engine_is_mute()
        told = look.of(self.rank)
        if told is None:
            return
        self.adapters.see(told.adapters, told.most_adapters)
        if told.running is not None and told.waiting is not None:
            at_s = min(now, look.asked_s)
            self.plain_slots.engine(told.running, told.waiting, at_s, told.slots)
        else:
            self.plain_slots.engine_is_mute()
        self._kv_told = told.kv_tokens or self._kv_told

    def push_load(self, rank: int, load: Load, now: float) -> None:
        """Its engine, which has no agent, pushes its load."""
        prefilled = self.loads.push(rank, load, now)
        if self.state is not None:
            return
        if prefilled is not None:
            expected_s = self._cost.beta_p_s * prefilled.tokens
            self.speed.prefills.observe(expected_s, prefilled.seconds)
        told = self.loads.now(now)
        if told is not None:
            self._pushed = True
            self.plain_slots.engine(told.running, told.waiting, now, told.slots or None)
            self._kv_told = told.kv_tokens or self._kv_told

    def update_state(self, state: AgentState) -> None:
        """Its agent reports."""
        if self.state is None or state.cost_ms != self.state.cost_ms:
            self._cost = CostModel.from_ms(state.cost_ms)
        self.state, self.reported_name = state, state.name
        beside = state.beside
        self._tell_far(sums_of(beside), beside.wanting)
        self.far_backlog = Backlog(beside.wanted, beside.wanted_prompt, beside.wanted_output)
        names = (state.model, *state.more_models)
        self.update_models({name: state.model_entry(name) for name in names})
