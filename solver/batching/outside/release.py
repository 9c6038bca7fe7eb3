"""When requests that are held before an engine are released to it, and which.

Rules:
- a release is to an engine that is seen from outside what a prefill is inside one: the same
  policies decide it, from the same counts;
- all sequences of a request (its choices, or a list of prompts) are released at one moment;
- never more sequences are in flight than the engine has slots, nor a prompt released that does not
  fit into memory beside what is in flight, and a token for each. A request that is larger than the
  engine goes to it alone: the engine has a queue of its own;
- a sequence is over with its last token, but its request's last slot is nobody else's before the
  whole answer has ended: until then the server has the request still;
- answers end one by one, though the engine made their last tokens in one round: while some are
  ending, nobody is released, for a round at most, so that their slots go to one group;
- nobody overtakes the first in line that does not fit, so the queue reaches everybody;
- an engine with a policy of its own is not second-guessed: it gets all that fits, and `lead` more
  to choose from;
- a policy's limit on a stage's prompt tokens is the engine's own matter: it cuts prompts itself.

Who is first in line is `solver.batching.queue`'s, and what is known of those in flight
`solver.batching.outside.flight`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from solver.batching.batcher import WATERMARK
from solver.batching.busy_period import BusyPeriod
from solver.batching.ledger import SlotLedger
from solver.batching.outside.flight import InFlight
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.queue import RequestQueue, queue
from solver.batching.sequence import Reason, Sequence
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit

# A clock that a policy is asked by again; shorter rounds than this are not waited for one by one.
SHORTEST_ROUND_S = 0.002


@dataclass(slots=True, eq=False)
class Ask:
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
    asks: tuple[Ask, ...]


class Releaser:
    """Line and slots of one engine that is seen from outside; see the module's rules.

    Attributes:
        slots: sequences that the engine runs at once; see `resize`.
        kv_tokens: cached tokens that fit, infinite if unknown; may change at any time.
        fit: the engine's cost model, learnt as tokens come.
        flying: what has been released and has not ended.
        ledger, busy, efficiency: as a `solver.batching.batcher.Batcher` has them.
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
        waiting: RequestQueue | None = None,
    ) -> None:
        """`policy` None: the engine has its own."""
        self.slots, self.kv_tokens, self.policy, self.lead = slots, kv_tokens, policy, lead
        self.fit = OnlineFit(cost)
        self.flying = InFlight(slots + lead, self.fit, now)
        self.ledger = SlotLedger(slots, now)
        self.busy: BusyPeriod | None = None
        self.efficiency = 0.0
        self.queued = 0
        self._queue = queue("longest", slots, cost.decode_s(slots)) if waiting is None else waiting
        self._asks: dict[str, Ask] = {}
        self._ending: set[str] = set()  # all tokens made, and the answer not over
        self._ending_s = now  # since when there are such
        self._waited_slot_s, self._waited_rounds = 0.0, 0
        self._held_back, self._held_s, self._held_round = 0, now, 0
        self._again_s: float | None = None

    @property
    def cost(self) -> CostModel:
        """The engine's iteration times as learnt so far."""
        return self.fit.cost

    @property
    def running(self) -> int:
        """Sequences in flight, as far as there are slots for them."""
        return min(len(self.flying), self.slots)

    @property
    def kv_held(self) -> int:
        """Cached tokens that those in flight hold."""
        return self.flying.kv_held

    def resize(self, slots: int, now: float) -> None:
        """The engine turns out to run so many sequences at once, no more than it was said to."""
        self.ledger.advance(now)
        self.slots = self.ledger.slots = slots
        self._book(now)

    def add(self, ask: Ask, now: float) -> None:
        """A request has come."""
        if self.busy is None:
            self.busy = BusyPeriod(now)
        self._queue.add(ask.sequences[0])
        self._asks[ask.id] = ask
        self.queued += len(ask.sequences)
        self._book(now)

    def waits(self, ask_id: str) -> bool:
        """Whether a request is still held."""
        return ask_id in self._asks

    def leave(self, ask: Ask, now: float) -> None:
        """Its answer is over, or its client has left: it is held no longer, nor in flight."""
        if self.waits(ask.id):
            self._unqueue(ask)
        self._ending.discard(ask.id)
        for sequence in ask.sequences:
            self.flying.end(sequence.id, now, ended=False)
        self._book(now)

    def hear(self, sequence_id: str, tokens: int, now: float) -> None:
        """So many more tokens of a sequence have come."""
        self.flying.hear(sequence_id, tokens, now)
        if self.flying.filling:
            self._book(now)

    def end(self, ask: Ask, index: int, now: float, made: int | None = None) -> None:
        """A choice has made its last token; `made`: how many in all, where the engine says so."""
        sequence_id = ask.sequences[index].id
        if made is not None:
            self.flying.correct(sequence_id, made)
        flight = self.flying.end(sequence_id, now, ended=True)
        if flight is None:
            return
        if not any(sequence.id in self.flying for sequence in ask.sequences):
            self._ending_s = self._ending_s if self._ending else now
            self._ending.add(ask.id)
        if self.busy is not None:
            prompt = flight.sequence.prompt_tokens
            self.busy.requests += 1
            self.busy.prompt_tokens += prompt
            self.busy.output_tokens += flight.made
            self.busy.context_tokens += flight.made * prompt + flight.made**2 // 2
            self.busy.longest_output = max(self.busy.longest_output, flight.made)
        self._book(now)

    def releases(self, now: float) -> Iterator[Release]:
        """Take what is to be sent at `now` out of the line."""
        self.flying.advance(now)
        while True:
            self._count_waiting(now)
            release = self._next(now)
            if release is None:
                break
            for ask in release.asks:
                self._unqueue(ask)
            pairs = [(s, ask.streamed) for ask in release.asks for s in ask.sequences]
            self.flying.release([s for s, _ in pairs], [seen for _, seen in pairs], now)
            self._waited_slot_s, self._waited_rounds, self._held_back = 0.0, 0, 0
            yield release
        self._book(now)

    def next_deadline(self) -> float | None:
        """When to ask again, should nothing come, be heard or end before."""
        times = (self._again_s, self.flying.next_begin())
        return min((time for time in times if time is not None), default=None)

    def _next(self, now: float) -> Release | None:
        self._again_s = None
        fitting = self._fitting()
        if not fitting:
            return None
        together_s = self._ending_s + self._patience_s()
        if self._ending and now < together_s:
            self._again_s = together_s
            return None
        if self.policy is None:
            return Release(Reason.SLOT_FREE, tuple(fitting))
        view = self._view(fitting)
        decision = self.policy.decide(view, self.cost)
        if decision.action in (Action.DECODE, Action.IDLE):
            self._held_back = view.admissible
            self._again_s = now + self._patience_s()
            return None
        return Release(decision.reason, _first(fitting, decision))

    def _patience_s(self) -> float:
        """Until the next round, when whoever waits has waited longer and others may be seen off."""
        return max(SHORTEST_ROUND_S, self.cost.decode_s(len(self.flying), self.kv_held))

    def _view(self, fitting: list[Ask]) -> EngineView:
        """As a policy inside the engine would see it; a prefill under way is not interrupted."""
        return EngineView(
            slots=self.slots,
            decoding=len(self.flying) + len(self._ending),
            admissible=sum(len(ask.sequences) for ask in fitting),
            waiting=self.queued,
            prompt_tokens=sum(ask.prompt_tokens for ask in fitting),
            kv_tokens=self.kv_tokens,
            kv_held=self.kv_held,
            waited_slot_s=self._waited_slot_s,
            waited_rounds=self._waited_rounds,
            prefill_budget=inf,
            progress=self.flying.progress,
        )

    def _fitting(self) -> list[Ask]:
        """The first in line that fit into slots and memory together."""
        room = self.slots + self.lead - len(self.flying) - len(self._ending)
        if room <= 0 or not self._asks:
            return []
        memory = self.kv_tokens * (1 - WATERMARK) - self.kv_held - len(self.flying)
        rows = self.flying.free_rows[:room]
        found: list[Ask] = []
        for sequence in self._queue.head(rows, self.flying.progress.remaining):
            ask = self._asks[sequence.id]
            room -= len(ask.sequences)
            memory -= ask.prompt_tokens + len(ask.sequences)
            if room < 0 or memory < 0:
                if not found and not self.flying and not self._ending:
                    found.append(ask)
                break
            found.append(ask)
        return found

    def _unqueue(self, ask: Ask) -> None:
        self._queue.discard(ask.sequences[0])
        del self._asks[ask.id]
        self.queued -= len(ask.sequences)

    def _count_waiting(self, now: float) -> None:
        """What slots have stood idle, with somebody held back who could have filled them."""
        rounds = self.flying.progress.rounds
        self._waited_slot_s += self._held_back * (now - self._held_s)
        self._waited_rounds += self._held_back * (rounds - self._held_round)
        self._held_s, self._held_round, self._held_back = now, rounds, 0

    def _book(self, now: float) -> None:
        """Slot states from now on, and the busy period, should it be over."""
        filling = min(self.slots, self.flying.filling)
        decoding = min(self.slots - filling, self.flying.decoding)
        stalled = min(decoding, self.flying.stalled(now))
        self.ledger.stage(now, prefill=filling, decode=decoding - stalled, stalled=stalled)
        self.ledger.queue(now, self.queued)
        if self.busy is not None and not self.flying and not self._asks:
            if now > self.busy.started_s:
                bound_s = self.busy.bound_s(self.cost, self.slots)
                self.efficiency = bound_s / (now - self.busy.started_s)
            self.busy = None


def _first(fitting: list[Ask], decision: Decision) -> tuple[Ask, ...]:
    """The first of them, up to as many sequences as the decision lets in, and one at least."""
    if decision.most is None:
        return tuple(fitting)
    count, left = 0, decision.most
    for ask in fitting:
        left -= len(ask.sequences)
        if left < 0 and count:
            break
        count += 1
    return tuple(fitting[:count])
