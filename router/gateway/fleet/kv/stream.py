"""One publisher's messages, in order: which count, which are missing, and what is known by them.

Rules:
- messages are numbered from 0; the next one counts, a copy of one that has been counted does not
  (the latest `COPIES` are remembered, and the first), and one of a lower number is of an engine
  that has begun anew: all that was known of it is nothing;
- beyond a gap, and while a replay is awaited, what comes counts *early*, at once, and is held: what
  a replay then tells is taken in order from the gap on, and what is held after it
  (`contents`: nothing that was removed meanwhile comes back);
- a replay begins with the last message before the gap: if it is not the same, or there is none, the
  engine has begun anew. One with a hole is asked for again from there, as long as it comes further,
  and so is one behind which something may be missing; if it comes no further, what is missing
  cannot be had, and is a gap for good;
- who can be reached again, and has no answer to that, may be another: what was known is forgotten;
- an event that cannot be read would be the same in a replay. What has not even a number stands for
  no message: if one is missing, the next one's number, or a replay from the last one on, will tell;
- nothing is known for certain that does not go back, without a gap and all of it read and kept, to
  message 0 or to when the engine cleared its cache: else it is degraded, until it clears that, has
  restarted, or, after a gap, until what was missing has been replayed;
- what two workers tell of as theirs is of neither; a publisher that cannot be reached is believed
  for a moment, and then forgotten.

Must not know: sockets, clocks. Who calls takes all that is yielded, and pauses at each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

from router.gateway.fleet.kv.contents import MESSAGE, Contents
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import Partings

# Bytes of a worker's latest messages that wait for what is missing before them, and what one takes
# beside its own: a replay that ends before them is asked for again.
MOST_HELD_BYTES, HELD_BYTES = 16 << 20, 128
# Blocks that are removed meanwhile; beyond them a gap is one for good.
MOST_GONE = 1 << 17
COPIES = 256


class Knowledge(StrEnum):
    """How well it is known what a cache holds."""

    EXACT = "exact"
    DEGRADED = "degraded"
    ESTIMATED = "estimated"


class Stream:
    """See the module.

    Attributes:
        gaps, restarts: counted since its begin.
        shared: another worker tells of the same publisher as its own.
        void: nothing more of the replay under way counts.
        reached: the last message that counts, with all before it.
    """

    def __init__(
        self,
        most_blocks: int,
        partings: Partings | None = None,
        *,
        replays: bool,
        keeps: bool = True,
        held: int = MOST_HELD_BYTES,
    ) -> None:
        """Of messages that wait, `held` bytes are kept.

        `keeps`: who replays nothing has sent nothing, and not just kept nothing of it.
        """
        self._contents = Contents(most_blocks, partings)
        self._replays, self._keeps, self._most_held = replays, keeps, held
        self._linked = self._known = self._behind = self._wants = False
        self._heard = False  # a message, since it could be reached
        self._unsure = False  # whether it is still who it was
        self._silent = False  # it has not answered the last time
        # Of the replay under way: the last message before it, and whether nothing of it has come.
        self._asked, self._first = -1, True
        self._held: deque[tuple[int, bytes]] = deque()
        self.shared, self.gaps, self.restarts = False, 0, 0
        self._reset()

    def _reset(self) -> None:
        self._contents.forget()
        self.reached = self._seen = -1  # and the last that has come
        self._echo = 0  # what is in the message that was reached
        self._prints: dict[int, int] = {}  # what is in these
        self._missing = False  # a gap that has been counted
        self._unsure = False
        self.void = True
        self._drop_held()

    def _drop_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    @property
    def cache(self) -> CachedBlocks:
        """What the engine holds."""
        return self._contents.cache

    @property
    def blocks(self) -> int:
        """Told of since its begin."""
        return self._contents.blocks

    @property
    def garbage(self) -> int:
        """Events and messages that could not be read."""
        return self._contents.garbage

    @property
    def wrong(self) -> str:
        """What was wrong with the last garbage."""
        return self._contents.wrong

    @property
    def wanted(self) -> int | None:
        """From which message on a replay is wanted; None: from none."""
        return max(0, self.reached) if self._wants else None

    @property
    def knowledge(self) -> Knowledge:
        """Never better than it is."""
        return self._judged()[0]

    @property
    def why(self) -> str:
        """Why it is no better; empty if it is exact."""
        return self._judged()[1]

    def _judged(self) -> tuple[Knowledge, str]:
        told, lacks = self._contents, self._contents.lacks
        late = self._behind or self._seen > self.reached
        for holds, known, why in (
            (self.shared, Knowledge.ESTIMATED, "another worker tells of the same publisher"),
            (not self._known, Knowledge.ESTIMATED, "nothing has been heard of it"),
            (told.useless, Knowledge.ESTIMATED, lacks or "it does not say whose its blocks are"),
            (not self._linked, Knowledge.DEGRADED, "it cannot be reached"),
            (lacks, Knowledge.DEGRADED, lacks),
            (late, Knowledge.DEGRADED, "what may have been missed was not told again yet"),
            (self.cache.partial, Knowledge.DEGRADED, "not all blocks are kept, or of one size"),
        ):
            if holds:
                return known, why
        return Knowledge.EXACT, ""

    def linked(self) -> None:
        """It can be reached: again, perhaps, and it may be another one."""
        self._linked, self._heard = True, False
        self._drop_held()
        if not self._replays:
            self.forget()
            return
        if self.reached < 0:  # by nothing it could be known again
            self._reset()
        self._unsure = self.reached >= 0
        self._behind = self._wants = self.void = True

    def lost(self) -> None:
        """It cannot be reached."""
        self._linked = False

    def forget(self) -> None:
        """It could not be reached for too long."""
        self._reset()
        self._known = False

    def check(self) -> None:
        """Ask for what may have been missed, where that can be asked for."""
        self._wants = self._replays

    def broken(self, why: str) -> None:
        """What came was no message: perhaps one is missing now."""
        self._contents.unread(why)
        self._behind = True
        self.check()

    def live(self, number: int, payload: bytes) -> Iterator[None]:
        """A message has come."""
        if self._contents.pauses(MESSAGE):
            yield
        self._heard = True
        if self._prints.get(number) == hash(payload):
            return
        joins = not self._known
        self._known |= self._silent or not self._wants
        if number <= self._seen:
            joins = True
            self._is_another()
        if number > self._seen + 1:
            if not joins:
                self._miss()
            if self._replays:
                self._behind = self._wants = True
            else:
                self._jump(number)
        if self._wants:
            yield from self._early(number, payload)
        else:
            yield from self._in_order(number, payload)
            self._behind = False

    def _early(self, number: int, payload: bytes) -> Iterator[None]:
        self._hold(number, payload)
        yield from self._contents.take(number, payload, early=True)
        self._note(number, payload)
        if self._contents.cleared:
            self._catch_up()
        elif len(self._contents.gone) > MOST_GONE:
            self._miss()
            self._jump(number + 1)
            self._catch_up()

    def _in_order(self, number: int, payload: bytes) -> Iterator[None]:
        if number == 0:
            self._contents.lacks = ""
        yield from self._contents.take(number, payload, early=False)
        self._note(number, payload)
        self.reached, self._echo = number, hash(payload)
        if number == self._seen:
            self._missing = False
            self._contents.gone.clear()

    def _note(self, number: int, payload: bytes) -> None:
        self._seen = max(self._seen, number)
        self._prints[number] = hash(payload)
        if len(self._prints) > COPIES:
            first, second = islice(self._prints, 2)
            del self._prints[first or second]

    def _hold(self, number: int, payload: bytes) -> None:
        self._held.append((number, payload))
        self._held_bytes += HELD_BYTES + len(payload)
        while self._held_bytes > self._most_held:
            self._held_bytes -= HELD_BYTES + len(self._held.popleft()[1])

    def _miss(self) -> None:
        """What is before a message has not come; as long as that is so it is one gap."""
        self.gaps += not self._missing
        self._missing = True

    def _jump(self, number: int) -> None:
        """What is before it cannot be had."""
        self._contents.lacks = f"messages {self.reached + 1} to {number - 1} cannot be had"
        self.reached = number - 1

    def _catch_up(self) -> None:
        """What was missed is of no use any more, or given up."""
        self.reached, self._echo = self._seen, self._prints[self._seen]
        self._wants = self._behind = self._missing = self._unsure = False
        self.void = True
        self._contents.gone.clear()
        self._drop_held()

    def _is_another(self) -> None:
        self.restarts += 1
        self._reset()
        self._behind = self._wants = self._replays

    def ask(self) -> int:
        """A replay is asked for now: from which message on."""
        self._asked, self._first, self.void = self.reached, True, False
        return max(0, self.reached)

    def replayed(self, number: int, payload: bytes) -> Iterator[None]:
        """A message of the replay that was asked for."""
        if self._contents.pauses(MESSAGE):
            yield
        if self.void:
            return
        first, self._first = self._first, False
        if first and self._asked >= 0:
            if number != self._asked or hash(payload) != self._echo:
                self._is_another()
            return
        if number <= self.reached:
            return
        if number > self.reached + 1:
            if self.reached > self._asked:
                self.void = True
                return
            self._miss()
            self._jump(number)
        yield from self._in_order(number, payload)

    def replay_ended(self) -> Iterator[None]:
        """All of it has come; those that are held are next."""
        if self.void:
            return
        nothing = self._first
        if nothing and self._asked >= 0:
            self._is_another()
            return
        self._silent = self._unsure = False
        # Who has sent something, and does not say so, is not believed.
        fresh = self._keeps and not self._heard
        if nothing and fresh:
            self._contents.lacks = ""
        further = self.reached > self._asked
        if further and not self._held:
            return  # its last messages may be missing: the next one tells, or a live one has
        yield from self._take_held(further=further)
        if self._seen > self.reached:
            if further:
                return  # it is wanted again, from there on
            self._miss()
            self._jump(self._seen + 1)
        self._known |= fresh or not nothing or self._heard
        self._wants = self._behind = self._missing = False
        self._contents.gone.clear()
        self._drop_held()

    def _take_held(self, *, further: bool) -> Iterator[None]:
        """What follows the replay; `further`: it may go on to what is missing before that."""
        for number, payload in list(self._held):
            if number > self.reached + 1:
                if further:
                    return
                self._miss()
                self._jump(number)
            if number > self.reached:
                yield from self._in_order(number, payload)

    def replay_failed(self) -> None:
        """It broke off, or never came: it is to be asked for again."""
        if self._unsure:
            self._reset()
        self._behind, self._silent = True, True
        self._known |= self._heard
        self._wants = self._replays
