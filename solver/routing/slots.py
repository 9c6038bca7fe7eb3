"""How many sequences a worker without an agent runs at once, from what comes of its requests.

Rules:
- what has been seen to run at once lately, it has slots for. Who is sent while no more are in
  flight has a slot for certain: by when its first token comes is learnt what first tokens take
  beside the prediction, and by how much that varies. So it is with whoever began before anybody had
  to end;
- who is sent while more are in flight tests whether there are more slots. If it began only after
  others had ended, and later than first tokens do but for chance, it has waited for a slot: then
  what has been seen to run at once is all. That is a report to `SlotLimit`, which believes several
  in a row; one that began in time breaks the row;
- who is sent beyond the limit, and begins as soon as first tokens usually do, shows that there is
  more room, if as many as the limit have run: a report of the other kind;
- predicted are its own prefill, those before it that are not late themselves, as these wait for
  slots, and a decode round;
- an engine that tells how many run and wait is believed instead; not while somebody waits for no
  longer than a prefill may take, as that is no want of slots. Who waits was sent last: if all are
  ours, it is known for how long they have;
- a worker of which nothing is known begins as others of its fleet have turned out to be;
- what an operator has said of a worker is not learnt at all, and what was said of all is the most;
- answers that do not stream show no first token. They count as running once one that was sent
  later has begun, as engines take whoever came first; alone they teach nothing.

All limits are relative to what this worker's own first tokens take, so they hold for engines of any
speed. At a limit that is too high first tokens are late, at one that is too low they are not; at
the right one what is sent ahead of slots waits for an end each time, and neither report comes.

Must not know: clocks, connections. Times are seconds, given by the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log
from statistics import median_low

from solver.batching.outside.slots import SlotLimit

# A first token is late at twice its usual time, or two standard deviations beyond it: what a mere
# coincidence of prefills comes to, and one in forty of those who have waited for nobody. It is as
# soon as usual up to one deviation.
LATE, DEVIATIONS, USUAL = 2.0, 2.0, 1.0
# Before any was seen, first tokens are taken to be predicted well, within a factor of two; and each
# weighs at least one in thirty-two.
PRIOR, LEAST_SHARE = 1, 1 / 32
LEAST_S = 1e-3  # nothing on a network is predicted to be sooner
# First tokens for which it is remembered how many ran at once: a server that comes back with fewer
# slots is noticed after them.
LATELY = 64


class Known(StrEnum):
    """How a worker's slots are known: by its agent or engine, an operator, or as in the module."""

    AGENT = "agent"
    SET = "set"
    ENGINE = "engine"
    LEARNT = "learnt"
    ASSUMED = "assumed"


@dataclass(slots=True)
class Expected:
    """What a first token takes: a stage's fixed part and the prompt, `times` so much, and a round.

    All but `times` in seconds.
    """

    stage_s: float
    prompt_s: float
    round_s: float
    times: float = 1.0


@dataclass(slots=True)
class _Sent:
    """A request: its own prompt's prefill, all until it is through, and its first token.

    `longest_s`: that, if all that are there are prefilled before it; `tests`: more are in flight
    than have been seen to run at once; `beyond`: more than the limit.
    """

    number: int
    sequences: int
    streamed: bool
    sent_s: float
    prompt_s: float
    prefill_s: float
    round_s: float
    predicted_s: float
    longest_s: float
    tests: bool
    beyond: bool
    begun: bool = False


class FirstTokens:
    """What first tokens take beside the prediction, as logarithms: mean and variance.

    Attributes:
        usual, late: times the prediction, up to which one comes as soon as usual, and beyond which
            one is late.
    """

    def __init__(self) -> None:
        self._seen, self._mean, self._variance = PRIOR, 0.0, log(LATE) ** 2
        self._tell()

    def _tell(self) -> None:
        spread = self._variance**0.5
        self.usual = exp(self._mean + USUAL * spread)
        self.late = exp(self._mean + max(log(LATE), DEVIATIONS * spread))

    def observe(self, times: float) -> None:
        """One that waited for nobody took so many times the prediction; far off is just off."""
        most = 2 * DEVIATIONS * max(log(LATE), self._variance**0.5)
        off = max(-most, min(most, log(times) - self._mean))
        self._seen += 1
        share = max(LEAST_SHARE, 1 / self._seen)
        self._mean += share * off
        self._variance = (1 - share) * (self._variance + share * off * off)
        self._tell()


class Most:
    """The largest of the latest `LATELY` numbers."""

    def __init__(self) -> None:
        self._count = 0
        self._falling = deque[tuple[int, int]]()  # those with none as large after them

    @property
    def value(self) -> int:
        """0 before there was one."""
        return self._falling[0][1] if self._falling else 0

    def add(self, number: int) -> None:
        """The latest."""
        self._count += 1
        while self._falling and self._falling[-1][1] <= number:
            self._falling.pop()
        self._falling.append((self._count, number))
        if self._falling[0][0] <= self._count - LATELY:
            self._falling.popleft()


class PlainSlots:
    """See the module.

    Attributes:
        known: how.
        limit: where they stand.
    """

    def __init__(self, slots: int, most: int | None = None, known: Known = Known.ASSUMED) -> None:
        """`slots` until more is known, at most `most`; for good if they are `SET`."""
        self.known = known
        self.limit = SlotLimit(slots, most)
        self._first_tokens, self._most = FirstTokens(), Most()
        self._sent: dict[Hashable, _Sent] = {}
        self._waiting: dict[Hashable, _Sent] = {}  # streams that have not begun
        self._unseen: dict[Hashable, _Sent] = {}  # others, of which nobody knows whether they have
        self._number = self._in_flight = self._running = 0
        self._prompts_s = 0.0  # prefills of all in flight
        self._told: int | None = None  # how many slots its engine says that it has
        self._freed = 0  # slots that were left while somebody waited, and not taken yet

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        return self.limit.limit

    @property
    def seen(self) -> bool:
        """Whether it says something of others like it."""
        return self.known in (Known.LEARNT, Known.ENGINE)

    def begin_like(self, others: Iterable[PlainSlots]) -> None:
        """Begin with the median of those of which something is known, if nothing is of this one."""
        seen = [other.slots for other in others if other.seen]
        if seen and self.known is Known.ASSUMED:
            self.limit.begin_at(median_low(seen))

    def sent(
        self,
        key: Hashable,
        sequences: int,
        expected: Expected,
        now: float,
        *,
        streamed: bool,
    ) -> None:
        """A request is sent, and its first token expected by then, if it need not wait."""
        ours, late = self._waiting.values(), self._first_tokens.late
        ahead_s = 0.0
        for o in ours:
            if now - o.sent_s <= late * o.predicted_s:
                ahead_s += o.prompt_s
        prefill_s = expected.stage_s + ahead_s + expected.prompt_s
        predicted_s = expected.times * prefill_s + expected.round_s
        self._prompts_s += expected.prompt_s
        all_s = expected.stage_s + self._prompts_s
        self._in_flight += sequences
        self._number += 1
        one = self._sent[key] = _Sent(
            self._number,
            sequences,
            streamed,
            now,
            expected.prompt_s,
            prefill_s,
            expected.round_s,
            max(LEAST_S, predicted_s),
            max(LEAST_S, expected.times * all_s + expected.round_s),
            tests=self._in_flight > self._most.value,
            beyond=self._in_flight > self.limit.limit,
        )
        (self._waiting if streamed else self._unseen)[key] = one

    def begun(self, key: Hashable, now: float) -> tuple[float, float] | None:
        """Its first token has come.

        Returns:
            What its prefill was to take before `times`, and has taken; None if it may have waited.
        """
        one = self._waiting.pop(key, None)
        if one is None:
            return None
        freed = self._freed > 0
        self._freed = max(0, self._freed - one.sequences) if self._waiting else 0
        self._begin(one)
        while (first := next(iter(self._unseen), None)) is not None:
            if self._unseen[first].number > one.number:
                break
            self._begin(self._unseen.pop(first))
        self._most.add(self._running)
        waited_s = max(LEAST_S, now - one.sent_s)
        times = waited_s / one.predicted_s
        if self.known not in (Known.ENGINE, Known.SET):
            self._report(one, times, freed=freed)
        if freed and one.tests:
            return None
        self._first_tokens.observe(times)
        return one.prefill_s, max(LEAST_SHARE * waited_s, waited_s - one.round_s)

    def ended(self, key: Hashable) -> None:
        """It has left, however it ended."""
        one = self._sent.pop(key, None)
        if one is None:
            return
        self._in_flight -= one.sequences
        self._prompts_s = self._prompts_s - one.prompt_s if self._sent else 0.0
        self._unseen.pop(key, None)
        if one.begun:
            self._running -= one.sequences
        if self._waiting.pop(key, None) is None and self._waiting:
            self._freed += one.sequences

    def may_have_waited(self, key: Hashable) -> bool:
        """Whether a request that is there may have waited for a slot, where first tokens tell."""
        one = self._sent.get(key)
        return one is not None and one.tests and self._most.value > 0

    def engine(self, running: int, waiting: int, now: float, slots: int | None = None) -> None:
        """Its engine tells how many run and wait, whoever sent them, and perhaps how many may."""
        if self.known is Known.SET:
            return
        self.known = Known.ENGINE
        if slots is not None and slots != self._told:
            self._told = slots
            self.limit.told(slots)
        ours = self._waiting.values()
        prefilling = bool(ours) and not any(self._late(one, now) for one in ours)
        lasting = self._is_lasting(running, waiting, now)
        self.limit.observe(running, waiting, prefilling=prefilling, lasting=lasting)

    def engine_is_mute(self) -> None:
        """It tells nothing, or nothing any more: then first tokens do."""
        if self.known is Known.ENGINE:
            self.known, self._told = Known.LEARNT, None
            self.limit.untold()

    def _begin(self, one: _Sent) -> None:
        one.begun = True
        self._running += one.sequences

    def _late(self, one: _Sent, now: float) -> bool:
        return now - one.sent_s > self._first_tokens.late * one.predicted_s

    def _is_lasting(self, running: int, waiting: int, now: float) -> bool:
        """Whether the first of those that wait there has waited for longer than for its prefill."""
        if not waiting or running + waiting > self._in_flight:  # others have sent some
            return False
        for one in reversed(self._sent.values()):
            waiting -= one.sequences
            if waiting <= 0:
                return now - one.sent_s > self._first_tokens.late * one.longest_s
        return False

    def _report(self, one: _Sent, times: float, *, freed: bool) -> None:
        before = self.slots
        if one.tests and freed and times > self._first_tokens.late:
            self.limit.observe(self._most.value, 1, prefilling=False)
        elif one.beyond and times <= self._first_tokens.usual:
            self.limit.observe(self._most.value, 0, prefilling=False)
        elif one.tests:
            self.limit.observe(before - 1, 0, prefilling=False)
        if self.slots != before:
            self.known = Known.LEARNT
