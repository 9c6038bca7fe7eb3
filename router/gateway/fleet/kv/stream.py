"""One publisher's messages, in order: which count, which are missing, and what is known by them.

Rules:
- messages are numbered from 0; the next one counts, a copy of one that has been counted does not
  (the latest `COPIES` are remembered, and the first), and beyond a gap they are held until what is
  missing has been replayed;
- the last message is asked for again with what follows it: if it is not the same, or there is none
  of that number, the engine has restarted, and all that was known of it is nothing;
- an event that cannot be read, or a message of nothing else, costs what it would have told: what
  was known before stays, and is not certain any more. It would be the same in a replay. What has
  not even a number stands for no message: if one is missing, the next one's number, or a replay
  from the last one on, will tell;
- nothing is known for certain that does not go back, without a gap and all of it read and kept, to
  message 0 or to when the engine cleared its cache: else it is degraded, until it clears that, has
  restarted, or, after a gap, until what was missing has been replayed;
- one that does not say whose any of its blocks are tells nothing of prompts;
- a publisher that cannot be reached is believed for a moment, and then forgotten.

Must not know: sockets, clocks. Who calls takes all that is yielded, and pauses at each: so much has
been done since the one before, in this message or in several.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

from router.kv_wire import (
    Cleared,
    Hash,
    Removed,
    Stored,
    Unreadable,
    WireError,
    numbers,
    read_batch,
    read_session,
)
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import Beginnings, Partings

# Blocks that are gone through at once, about half a millisecond; and of how many an event, and a
# message, take the time beside their blocks.
SLICE, EVENT, MESSAGE = 512, 8, 64
# Bytes of a worker's messages that wait for what is missing before them, and what one takes beside
# its own; what comes then is missed, too.
MOST_HELD_BYTES, HELD_BYTES = 16 << 20, 128
COPIES = 256


class Knowledge(StrEnum):
    """How well it is known what a cache holds."""

    EXACT = "exact"
    DEGRADED = "degraded"
    ESTIMATED = "estimated"


class Stream:
    """See the module.

    Attributes:
        cache: what the engine holds.
        wanted: from which message on a replay is wanted; None: from none.
        blocks, gaps, restarts, garbage: counted since its begin.
        why: what was wrong with the last garbage.
    """

    def __init__(
        self,
        most_blocks: int,
        partings: Partings | None = None,
        *,
        replays: bool,
        held: int = MOST_HELD_BYTES,
    ) -> None:
        """Of messages that wait, `held` bytes are kept."""
        self.cache = CachedBlocks(most_blocks, partings)
        self._replays, self._most_held = replays, held
        self._linked = self._known = self._behind = False
        # Of the replay under way: whether nothing of it has come, and whether it is another's.
        self._first, self._stale = True, False
        self._odd = False  # the last one ended before messages that had come
        self._heard = False  # a message, since it could be reached
        self._held: list[tuple[int, bytes]] = []
        self._held_bytes = self._group = 0
        self._done = 0  # since the last pause, in blocks
        # The last request that was told of by its name, and its prompt.
        self._session: str | None = None
        self._prompt: Beginnings | None = None
        self.wanted: int | None = None
        self.blocks = self.gaps = self.restarts = self.garbage = 0
        self.why = ""
        self._reset()

    def _reset(self) -> None:
        self.cache.clear()
        self._whole = False
        self._last = -1  # of the messages that count
        self._prints: dict[int, int] = {}  # what is in these
        self._names, self._nameless = False, 0  # whether it names sessions, and blocks of none

    @property
    def knowledge(self) -> Knowledge:
        """Never better than it is."""
        if not self._known or (self._nameless and not self._names):
            return Knowledge.ESTIMATED
        late = self._behind or self._held
        exact = self._linked and self._whole and not late and not self.cache.partial
        return Knowledge.EXACT if exact else Knowledge.DEGRADED

    def linked(self) -> None:
        """It can be reached: again, perhaps, and it may be another one."""
        self._linked, self._odd, self._heard = True, False, False
        self._let_go()
        if self._replays:
            self._behind = True
            self.check()
        else:
            self.forget()

    def lost(self) -> None:
        """It cannot be reached."""
        self._linked = False

    def forget(self) -> None:
        """It could not be reached for too long."""
        self._reset()
        self._known = False

    def check(self) -> None:
        """Ask for what may have been missed, where that can be asked for."""
        if self._replays and self.wanted is None:
            self._want()

    def _want(self) -> None:
        self.wanted, self._first, self._stale = max(0, self._last), True, False

    def broken(self, why: str) -> None:
        """What came was no message: perhaps one is missing now."""
        self.garbage, self.why, self._behind = self.garbage + 1, why, True
        self.check()

    def live(self, number: int, payload: bytes) -> Iterator[None]:
        """A message has come."""
        if self._pauses(MESSAGE):
            yield
        self._heard = True
        if self.wanted is not None:
            self._hold(number, payload)
            return
        if not self._known:
            self._known, self._whole, self._last = True, number == 0, number - 1
        self._whole |= number == 0 and self._last < 0
        if self._counted(number, payload):
            return
        if number != self._last + 1:
            self.gaps += number > self._last
            if self._replays:
                self._behind = True
                self.check()
                self._hold(number, payload)
                return
            self._jump(number)
        yield from self._apply(number, payload)
        self._behind = False

    def _counted(self, number: int, payload: bytes) -> bool:
        return self._prints.get(number) == hash(payload)

    def _jump(self, number: int) -> None:
        """What is before it cannot be had."""
        if number <= self._last:
            self.restarts += 1
            self._reset()
            self._whole = number == 0
        else:
            self._whole = False
        self._last = number - 1

    def _hold(self, number: int, payload: bytes) -> None:
        size = HELD_BYTES + len(payload)
        if self._held_bytes + size <= self._most_held:
            self._held_bytes += size
            self._held.append((number, payload))

    def replayed(self, number: int, payload: bytes) -> Iterator[None]:
        """A message of the replay that was wanted."""
        if self._pauses(MESSAGE):
            yield
        if self._stale:
            return
        first, self._first = self._first, False
        if first and self._last >= 0:
            self._stale = number != self._last or not self._counted(number, payload)
            return
        if first:
            self._whole, self._last = number == 0, number - 1
        if number <= self._last:
            return
        if number > self._last + 1:
            self._jump(number)
        yield from self._apply(number, payload)

    def replay_ended(self) -> Iterator[None]:
        """All of it has come; those that were held are next."""
        nothing = self._first
        if self._stale or (nothing and self._last >= 0):
            self.restarts += 1
            self._reset()
            self._behind = True
            self._want()
            return
        if nothing:  # it has not sent anything yet: who has, and does not say so, is not believed
            self._whole = not self._heard or bool(self._held and self._held[0][0] == 0)
        self.wanted, self._known, self._behind = None, True, True
        for number, payload in self._let_go():
            if number <= self._last:
                continue
            if number > self._last + 1 and not self._odd:  # another engine's, before it restarted
                self._odd = self._behind = True
                self._reset()
                self.check()
                return
            if number > self._last + 1:
                self._jump(number)
            yield from self._apply(number, payload)
        self._odd = self._behind = False

    def _let_go(self) -> list[tuple[int, bytes]]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def replay_failed(self) -> None:
        """It broke off, or never came: it is to be asked for again."""
        self._behind = True
        self._want()

    def _apply(self, number: int, payload: bytes) -> Iterator[None]:
        self._last = number
        self._prints[number] = hash(payload)
        if len(self._prints) > COPIES:
            first, second = islice(self._prints, 2)
            del self._prints[first or second]
        try:
            for event in read_batch(payload):
                if self._pauses(EVENT):
                    yield
                if isinstance(event, Cleared):
                    self.cache.clear()
                    self._whole = True
                elif isinstance(event, Unreadable):
                    self._unread(event.why)
                elif event is not None and self._counts(event):
                    yield from self._take(event)
        except WireError as error:
            self._unread(str(error))

    def _unread(self, why: str) -> None:
        self.garbage, self.why, self._whole = self.garbage + 1, why, False

    def _pauses(self, more: int) -> bool:
        """So much more is done; whether it is time for a pause before it."""
        pauses = self._done + more > SLICE
        self._done = more if pauses else self._done + more
        return pauses

    def _counts(self, event: Stored | Removed) -> bool:
        """Whether what can be reused depends on it."""
        if isinstance(event, Stored) and event.whole:
            self._group = event.group
        return event.group == self._group and not (
            isinstance(event, Stored) and event.whole is False
        )

    def _take(self, event: Stored | Removed) -> Iterator[None]:
        hashes = event.blocks
        for start in range(0, len(hashes), SLICE):
            part = numbers(hashes[start : start + SLICE])
            if self._pauses(len(part)):
                yield
            self.blocks += len(part)
            if isinstance(event, Removed):
                self.cache.remove(part, event.tier)
                continue
            self._names = self._names or event.session is not None
            self._nameless += event.session is None
            if event.session != self._session:
                self._session = event.session
                self._prompt = None if event.session is None else read_session(event.session)
            before: Hash | None = hashes[start - 1] if start else event.parent
            parent = None if before is None else numbers((before,))[0]
            self.cache.store(part, parent, event.block_tokens, self._prompt, event.tier)
