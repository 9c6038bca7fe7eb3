"""Sequences inside an engine that is seen from outside only: when their tokens come.

Rules:
- a sequence is prefilled from its release to its first token, and decodes from then to its last;
- one that streams is followed token by token; of one that does not, the end of its prefill and its
  tokens are predicted;
- rounds are counted by one stream, the pace: the one that decodes longest. Where nothing streams,
  they are predicted from the clock;
- what is timed is only what can be told apart. Rounds: `SPAN` of the pace together, as chunks come
  late and then in a bunch, while nobody is prefilled. A prefill: what the pace lost by one
  release; before there was any, from the release into an empty engine to the last first token.

Must not know: connections, bytes, why something was released.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Many
from dataclasses import dataclass

from solver.batching.progress import Progress
from solver.batching.sequence import Sequence
from solver.cost.model import Action
from solver.cost.online import OnlineFit

# A pace that is silent for so many rounds stands still.
LATE = 1.5
SPAN = 4
# A prefill that takes so many times what it should waits for something else than its turn.
OVERDUE = 4.0
NOBODY = -1  # the slot of a sequence beyond those that can be followed


@dataclass(slots=True, eq=False)
class SequenceInFlight:
    """One sequence in flight.

    Attributes:
        released_s: since when it is in flight.
        begins_s: when its first token is expected, where none can be seen.
        begun: it decodes.
        made: tokens seen, or predicted where none can be seen.
    """

    sequence: Sequence
    streamed: bool
    released_s: float
    begins_s: float
    begun: bool = False
    made: int = 0


@dataclass(slots=True)
class _Timed:
    """A release whose prefill is being timed."""

    since_s: float
    prompt_tokens: int
    pace: SequenceInFlight | None
    rounds: int = 0


class InFlight:
    """All that has been released and has not ended; see the module's rules.

    Attributes:
        kv_held: cached tokens that they hold, as far as one knows.
        spare: tokens that memory must have for them beside those.
        decoding: those that have begun.
        progress: where those decoding stand, and what has ended.
        timings: seconds of iterations, since somebody last took them from here.
    """

    def __init__(self, rows: int, fit: OnlineFit, now: float) -> None:
        self.progress = Progress(rows)
        self.kv_held = self.spare = 0
        self.decoding = 0
        self._fit = fit
        self._rows = list(range(rows))
        self._flights: dict[str, SequenceInFlight] = {}
        self._prefilling: dict[str, SequenceInFlight] = {}
        self._unseen: dict[str, SequenceInFlight] = {}  # they decode, and nobody sees it
        self._pace: SequenceInFlight | None = None
        self._pace_s = self._round_s = now
        self._span_s: float | None = None  # since when rounds are timed
        self._span_rounds = 0
        self._timed: _Timed | None = None
        self._stall_seen = False
        self.timings: list[tuple[Action, float]] = []

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, sequence_id: str) -> bool:
        return sequence_id in self._flights

    @property
    def prefilling(self) -> int:
        """Those whose prefill is not over."""
        return len(self._prefilling)

    @property
    def prefills_online(self) -> bool:
        """Whether among them is somebody for whom bulk work steps back."""
        return any(not flight.sequence.is_bulk for flight in self._prefilling.values())

    @property
    def free_rows(self) -> list[int]:
        """Slots that nobody holds, lowest first."""
        return sorted(self._rows)

    def expected_left(self) -> float:
        """Output tokens that are still to be made, as predicted."""
        rest = sum(flight.sequence.expected_tokens for flight in self._prefilling.values())
        return rest + float(self.progress.expected_left().sum())

    def prompt_to_prefill(self) -> int:
        """Prompt tokens of those whose prefill is not over."""
        return sum(flight.sequence.prompt_tokens for flight in self._prefilling.values())

    def is_prefilling(self, now: float) -> bool:
        """Whether prefills are under way, and nobody waits much longer for one than all take."""
        if not self._prefilling:
            return False
        cost = self._fit.cost
        most_s = OVERDUE * (
            cost.prefill_s(self.prompt_to_prefill()) + cost.decode_s(self.decoding, self.kv_held)
        )
        return now - min(flight.released_s for flight in self._prefilling.values()) <= most_s

    def release(self, sequences: Many[Sequence], streamed: Many[bool], now: float) -> None:
        """One group goes to the engine."""
        tokens = sum(sequence.prompt_tokens for sequence in sequences)
        self._time(tokens, now, clean=not self._prefilling and all(streamed))
        begins_s = now + self._fit.cost.prefill_s(tokens)
        for sequence, seen in zip(sequences, streamed, strict=True):
            sequence.slot = heapq.heappop(self._rows) if self._rows else NOBODY
            flight = SequenceInFlight(sequence, seen, now, begins_s)
            self._flights[sequence.id] = self._prefilling[sequence.id] = flight
            self.kv_held += sequence.prompt_tokens
            self.spare += sequence.spare
        self._span_s = None

    def observe_tokens(self, sequence_id: str, tokens: int, now: float) -> None:
        """So many more tokens of a sequence have come; unknown ones are ignored.

        A first chunk without a token ends its prefill, too.
        """
        flight = self._flights.get(sequence_id)
        if flight is None:
            return
        if not flight.begun:
            self._begin(flight, now)
        flight.made += tokens
        self.kv_held += tokens
        if tokens and flight is self._pace:
            self._count(tokens, now)
        if flight.sequence.slot != NOBODY:
            self.progress.place(flight.sequence, flight.made)

    def correct(self, sequence_id: str, made: int) -> None:
        """The engine says how many tokens a sequence has made so far."""
        flight = self._flights.get(sequence_id)
        if flight is None:
            return
        self.kv_held += made - flight.made
        flight.made = made
        if flight.begun and flight.sequence.slot != NOBODY:
            self.progress.place(flight.sequence, made)

    def end(self, sequence_id: str, now: float, *, ended: bool) -> SequenceInFlight | None:
        """It has made its last token (`ended`) or was broken off; who that was."""
        flight = self._flights.pop(sequence_id, None)
        if flight is None:
            return None
        sequence = flight.sequence
        self.kv_held -= sequence.prompt_tokens + flight.made
        self.spare -= sequence.spare
        self._prefilling.pop(sequence_id, None)
        self._unseen.pop(sequence_id, None)
        if flight.begun:
            self.decoding -= 1
            if sequence.slot != NOBODY:
                self.progress.leave(sequence, ended=ended and flight.made > 0)
        if sequence.slot != NOBODY:
            heapq.heappush(self._rows, sequence.slot)
        sequence.made = flight.made
        if flight is self._pace:
            self._find_pace(now)
        if self._timed is not None and not ended:
            self._timed = None
        return flight

    def advance(self, now: float) -> None:
        """Predict what cannot be seen, up to `now`."""
        due = [f for f in self._prefilling.values() if not f.streamed and f.begins_s <= now]
        for flight in due:
            self._begin(flight, now)
        if self._pace is None and self._unseen:
            round_s = max(1e-4, self._fit.cost.decode_s(self.decoding, self.kv_held))
            rounds = int((now - self._round_s) / round_s)
            if rounds > 0:
                self._round_s += rounds * round_s
                self._pass(rounds)

    def stalled(self, now: float) -> int:
        """Those decoding that stand still while others are prefilled, as the pace shows."""
        if self._pace is None or not self._prefilling:
            return 0
        late_s = LATE * self._fit.cost.decode_s(self.decoding, self.kv_held)
        return self.decoding if now - self._pace_s > late_s else 0

    def next_begin(self) -> float | None:
        """When the next prefill that nobody sees is expected to end."""
        return min((f.begins_s for f in self._prefilling.values() if not f.streamed), default=None)

    def _begin(self, flight: SequenceInFlight, now: float) -> None:
        flight.begun = True
        self.decoding += 1
        del self._prefilling[flight.sequence.id]
        if flight.sequence.slot != NOBODY:
            self.progress.join(flight.sequence)
        if not flight.streamed:
            self._unseen[flight.sequence.id] = flight
        if self._pace is None:
            self._find_pace(now)
        timed = self._timed
        if timed is not None and timed.pace is None and not self._prefilling:
            self._observe_prefill(timed, now - timed.since_s)

    def _find_pace(self, now: float) -> None:
        """The stream that decodes longest; the clock where there is none."""
        streams = (f for f in self._flights.values() if f.begun and f.streamed)
        self._pace = next(streams, None)
        self._pace_s = self._round_s = now
        self._span_s = None
        if self._timed is not None and self._timed.pace is not None:
            self._timed = None

    def _count(self, tokens: int, now: float) -> None:
        """The pace has made so many more tokens: as many rounds have passed."""
        self._pass(tokens)
        if self._prefilling:
            self._span_s = None
        elif self._span_s is None:
            self._span_s, self._span_rounds = now, 0
        else:
            self._time_rounds(self._span_s, tokens, now)
        timed = self._timed
        if timed is not None and timed.pace is self._pace:
            timed.rounds += tokens
            if not self._prefilling:
                rounds_s = timed.rounds * self._fit.cost.decode_s(self.decoding, self.kv_held)
                self._stall_seen = True
                self._observe_prefill(timed, now - timed.since_s - rounds_s)
        self._pace_s = now

    def _time_rounds(self, since_s: float, rounds: int, now: float) -> None:
        self._span_rounds += rounds
        if self._span_rounds < SPAN:
            return
        each_s = (now - since_s) / self._span_rounds
        if self._fit.observe(Action.DECODE, 0, self.decoding, self.kv_held, each_s):
            self.timings.append((Action.DECODE, each_s))
        self._span_s, self._span_rounds = now, 0

    def _pass(self, rounds: int) -> None:
        """Rounds are over; whoever cannot be seen has made a token in each."""
        self.progress.rounds += rounds
        for flight in self._unseen.values():
            more = min(rounds, flight.sequence.max_tokens - flight.made)
            flight.made += more
            self.kv_held += more

    def _time(self, prompt_tokens: int, now: float, *, clean: bool) -> None:
        """Time this release, if it can be told from all others."""
        self._timed = None
        if clean and self._pace is not None:
            self._timed = _Timed(self._pace_s, prompt_tokens, self._pace)
        elif clean and not self._flights and not self._stall_seen:
            self._timed = _Timed(now, prompt_tokens, None)

    def _observe_prefill(self, timed: _Timed, seconds: float) -> None:
        self._timed = None
        if self._fit.observe(Action.PREFILL, timed.prompt_tokens, 0, 0, seconds):
            self.timings.append((Action.PREFILL, seconds))
