"""When requests that are held before an engine are released to it, and which.

Rules:
- a release is to an engine that is seen from outside what a prefill is inside one: the same
  policies decide it, from the same counts;
- all sequences of a request (its choices, or a list of prompts) are released at one moment;
- never more sequences are in flight than the engine has slots, nor a prompt released that does not
  fit into memory beside what is in flight, and a token for each (`SPARE_ROUNDS` for those who have
  a target between tokens). A request that is larger than the
  engine goes to it alone: the engine has a queue of its own;
- a sequence is over with its last token, but its request's last slot is nobody else's before the
  whole answer has ended: until then the server has the request still;
- answers end one by one, though the engine made their last tokens in one round: while some are
  ending, nobody is released, for a round at most, so that their slots go to one group;
- nobody overtakes the first in line that does not fit, so the queue reaches everybody;
- an engine with a policy of its own is not second-guessed: it gets all that fits, and `lead` more
  to choose from;
- bulk work steps back for online work (`solver.batching.online`): while that waits, or is
  prefilled, no bulk prompt is released; beside it, only so much that rounds last no longer than its
  targets let them; and where it is or was lately, a share of slots and memory is left free for it.
  What has been released cannot be paused from outside;
- a policy's limit on a stage's prompt tokens is the engine's own matter: it cuts prompts itself;
  but while somebody with a target between tokens decodes, no more prompt tokens are under way at
  once than that, unless they are one request's.

Who is first in line is `solver.batching.queue`'s, and what is known of those in flight
`solver.batching.outside.flight`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from solver.batching.busy_period import BusyPeriod
from solver.batching.kv import WATERMARK, count_fitting
from solver.batching.ledger import SlotLedger
from solver.batching.online import KEPT_FREE, OnlineHere
from solver.batching.outside.flight import InFlight
from solver.batching.outside.held import HeldRequest, Release, first_of
from solver.batching.policy import EngineView, IterationPolicy
from solver.batching.queue import make_queue
from solver.batching.sequence import Reason
from solver.batching.slot_wait import SlotWait
from solver.cost.model import CostModel
from solver.cost.online import OnlineFit

# A clock that a policy is asked by again; shorter rounds than this are not waited for one by one.
SHORTEST_ROUND_S = 0.002


class Releaser:
    """Line and slots of one engine that is seen from outside; see the module's rules.

    Attributes:
        slots: sequences that the engine runs at once; see `resize`.
        kv_tokens: cached tokens that fit, infinite if unknown; may change at any time.
        fit: the engine's cost model, learnt as tokens come.
        in_flight: what has been released and has not ended.
        ledger, busy_period, efficiency: as a `solver.batching.batcher.Batcher` has them.
    """

    def __init__(
        self,
        slots: int,
        kv_tokens: float,
        cost: CostModel,
        policy: IterationPolicy | None,
        now: float,
        *,
        lead: int = 0,
    ) -> None:
        """`policy` None: the engine has its own."""
        self.slots, self.kv_tokens, self.policy, self.lead = slots, kv_tokens, policy, lead
        self.fit = OnlineFit(cost)
        self.in_flight = InFlight(slots + lead, self.fit, now)
        self.ledger = SlotLedger(slots, now)
        self.busy_period: BusyPeriod | None = None
        self.efficiency = 0.0
        self.queued = 0
        self._queue = make_queue("longest", slots, cost.decode_s(slots))
        self._held: dict[str, HeldRequest] = {}
        self._back = OnlineHere()  # of each request its first sequence
        self._here: set[str] = set()  # requests held or in flight
        self._ending: set[str] = set()  # all tokens made, and the answer not over
        self._ending_s = now  # since when there are such
        self._slot_wait = SlotWait()
        self._held_back, self._held_s, self._held_round = 0, now, 0
        self._again_s: float | None = None

    @property
    def cost(self) -> CostModel:
        """The engine's iteration times as learnt so far."""
        return self.fit.cost

    @property
    def running(self) -> int:
        """Sequences in flight, as far as there are slots for them."""
        return min(len(self.in_flight), self.slots)

    @property
    def kv_held(self) -> int:
        """Cached tokens that those in flight hold."""
        return self.in_flight.kv_held

    def resize(self, slots: int, now: float) -> None:
        """The engine turns out to run so many sequences at once, no more than it was said to."""
        self.ledger.advance(now)
        self.slots = self.ledger.slots = slots
        self._book(now)

    def add(self, request: HeldRequest, now: float) -> None:
        """A request has come."""
        if self.busy_period is None:
            self.busy_period = BusyPeriod(now)
        first = request.sequences[0]
        self._back.came(first)
        self._back.queued(first, 1)
        self._here.add(request.id)
        self._queue.add(first)
        self._held[request.id] = request
        self.queued += len(request.sequences)
        self._book(now)

    def is_waiting(self, request_id: str) -> bool:
        """Whether a request is still held."""
        return request_id in self._held

    def leave(self, request: HeldRequest, now: float) -> None:
        """Its answer is over, or its client has left: it is held no longer, nor in flight."""
        if self.is_waiting(request.id):
            self._unqueue(request)
        if request.id in self._here:
            self._here.remove(request.id)
            self._back.gone(request.sequences[0], now)
        self._ending.discard(request.id)
        for sequence in request.sequences:
            self.in_flight.end(sequence.id, now, ended=False)
        self._book(now)

    def observe_tokens(self, sequence_id: str, tokens: int, now: float) -> None:
        """So many more tokens of a sequence have come."""
        self.in_flight.observe_tokens(sequence_id, tokens, now)
        if self.in_flight.prefilling:
            self._book(now)

    def end(self, request: HeldRequest, index: int, now: float, made: int | None = None) -> None:
        """A choice has made its last token; `made`: how many in all, where the engine says so."""
        sequence_id = request.sequences[index].id
        if made is not None:
            self.in_flight.correct(sequence_id, made)
        flight = self.in_flight.end(sequence_id, now, ended=True)
        if flight is None:
            return
        if not any(sequence.id in self.in_flight for sequence in request.sequences):
            self._ending_s = self._ending_s if self._ending else now
            self._ending.add(request.id)
        if self.busy_period is not None:
            prompt = flight.sequence.prompt_tokens
            self.busy_period.requests += 1
            self.busy_period.prompt_tokens += prompt
            self.busy_period.output_tokens += flight.made
            self.busy_period.context_tokens += flight.made * prompt + flight.made**2 // 2
            self.busy_period.longest_output = max(self.busy_period.longest_output, flight.made)
        self._book(now)

    def releases(self, now: float) -> Iterator[Release]:
        """Take what is to be sent at `now` out of the line."""
        self.in_flight.advance(now)
        while True:
            self._count_waiting(now)
            release = self._next(now)
            if release is None:
                break
            for request in release.requests:
                self._unqueue(request)
            pairs = [
                (s, request.streamed) for request in release.requests for s in request.sequences
            ]
            self.in_flight.release([s for s, _ in pairs], [seen for _, seen in pairs], now)
            self._slot_wait.reset()
            self._held_back = 0
            yield release
        self._book(now)

    def next_deadline(self) -> float | None:
        """When to request again, should nothing come, be heard or end before."""
        times = (self._again_s, self.in_flight.next_begin())
        return min((time for time in times if time is not None), default=None)

    def _next(self, now: float) -> Release | None:
        self._again_s = None
        fitting, shared = self._fitting(), self._back.concerns(now)
        if fitting and shared:
            fitting = self._beside_online(fitting, now)
        if not fitting:
            return None
        together_s = self._ending_s + self._round_s()
        if self._ending and now < together_s:
            self._again_s = together_s
            return None
        if self.policy is None:
            return Release(Reason.SLOT_FREE, tuple(fitting))
        view = self._view(fitting, now, shared=shared)
        decision = self.policy.decide(view, self.cost)
        chosen = self._within_target(first_of(fitting, decision), decision.max_prompt_tokens, now)
        if not chosen:
            self._held_back = view.admissible
            self._again_s = now + self._round_s()
            return None
        return Release(decision.reason, chosen)

    def _within_target(
        self, chosen: tuple[HeldRequest, ...], most_tokens: float, now: float
    ) -> tuple[HeldRequest, ...]:
        """The first of them whose prompts, with those under way, are `most_tokens` together."""
        flight = self.in_flight
        if not flight.progress.stall.count:
            return chosen
        under_way = flight.prompt_to_prefill() if flight.is_prefilling(now) else 0
        count = count_fitting((one.prompt_tokens for one in chosen), most_tokens - under_way)
        return chosen[: count if under_way else max(1, count)]

    def _round_s(self) -> float:
        """Until the next round, when whoever waits has waited longer and others may be seen off."""
        return max(SHORTEST_ROUND_S, self.cost.decode_s(len(self.in_flight), self.kv_held))

    def _beside_online(self, fitting: list[HeldRequest], now: float) -> list[HeldRequest]:
        """Those of them who may go, as bulk work steps back."""
        back, flight = self._back, self.in_flight
        if back.waiting or (flight.prefills_online and flight.is_prefilling(now)):
            online = [request for request in fitting if not request.sequences[0].is_bulk]
            if not online and flight:
                self._again_s = now + self._round_s()
            return online
        limit_s = back.limit_s(now) if back.online else inf
        kept = self.slots - int(KEPT_FREE * self.slots) - len(self._ending)
        batch, kv, count = len(flight), self.kv_held, 0
        for request in fitting:
            batch, kv = batch + len(request.sequences), kv + request.prompt_tokens
            full = batch > kept or kv > (1 - KEPT_FREE) * self.kv_tokens
            if (full and (flight or count)) or self.cost.decode_s(batch, kv) > limit_s:
                break
            count += 1
        return fitting[:count]

    def _view(self, fitting: list[HeldRequest], now: float, *, shared: bool) -> EngineView:
        """As a policy inside the engine would see it; a prefill under way is not interrupted.

        Where bulk work steps back, what is held for that is no company for anybody.
        """
        admissible = sum(len(request.sequences) for request in fitting)
        return EngineView(
            slots=self.slots,
            decoding=len(self.in_flight) + len(self._ending),
            admissible=admissible,
            waiting=max(admissible, self._back.waiting) if shared else self.queued,
            prompt_tokens=sum(request.prompt_tokens for request in fitting),
            kv_tokens=self.kv_tokens,
            kv_held=self.kv_held,
            waited_slot_s=self._slot_wait.slot_s,
            waited_rounds=self._slot_wait.rounds,
            prefill_budget=inf,
            just_stalled=False,
            progress=self.in_flight.progress,
            hurried=any(one.hurry_s <= now for request in fitting for one in request.sequences),
        )

    def _fitting(self) -> list[HeldRequest]:
        """The first in line that fit into slots and memory together."""
        room = self.slots + self.lead - len(self.in_flight) - len(self._ending)
        if room <= 0 or not self._held:
            return []
        memory = self.kv_tokens * (1 - WATERMARK) - self.kv_held - self.in_flight.spare
        rows = self.in_flight.free_rows[:room]
        found: list[HeldRequest] = []
        left = self.in_flight.progress.remaining
        if self._back.bulk and self._back.waiting:
            self._back.take_turns(self._queue.head(list(range(self.slots)), left))
        for sequence in self._queue.head(rows, left):
            request = self._held[sequence.id]
            room -= len(request.sequences)
            memory -= sum(s.prompt_tokens + s.spare for s in request.sequences)
            if room < 0 or memory < 0:
                if not found and not self.in_flight and not self._ending:
                    found.append(request)
                break
            found.append(request)
        return found

    def _unqueue(self, request: HeldRequest) -> None:
        self._back.queued(request.sequences[0], -1)
        self._queue.discard(request.sequences[0])
        del self._held[request.id]
        self.queued -= len(request.sequences)

    def _count_waiting(self, now: float) -> None:
        """What slots have stood idle, with somebody held back who could have filled them."""
        rounds = self.in_flight.progress.rounds
        self._slot_wait.add(self._held_back, rounds - self._held_round, now - self._held_s)
        self._held_s, self._held_round, self._held_back = now, rounds, 0

    def _book(self, now: float) -> None:
        """Slot states from now on, and the busy period, should it be over."""
        filling = min(self.slots, self.in_flight.prefilling)
        decoding = min(self.slots - filling, self.in_flight.decoding)
        stalled = min(decoding, self.in_flight.stalled(now))
        self.ledger.stage(now, prefill=filling, decode=decoding - stalled, stalled=stalled)
        self.ledger.queue(now, self.queued)
        if self.busy_period is not None and not self.in_flight and not self._held:
            if now > self.busy_period.started_s:
                bound_s = self.busy_period.bound_s(self.cost, self.slots)
                self.efficiency = bound_s / (now - self.busy_period.started_s)
            self.busy_period = None
