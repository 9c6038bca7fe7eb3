"""What one engine's events come to: the blocks that it holds, and what is not known of them.

Rules:
- what is passed over, or cannot be read, is lacking: what was known before stays, and is not all;
- of groups of layers those count that attend to all that is before, or say nothing of themselves
  as the only ones; of several, a block is gone when it is gone from any;
- blocks that have been copied to another tier are there, too: whose they are was told before;
- events may come *early*, before older ones that were missed: an older one brings back nothing that
  was removed since;
- who does not say whose any of its blocks are tells nothing of prompts.

Must not know: messages' numbers, sockets, clocks. Who calls takes all that is yielded, and pauses
at each: so much has been done since the one before, in this message or in several.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.kv_wire import (
    Cleared,
    Copied,
    Hash,
    PassedOver,
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
from solver.routing.tiers import Tier

# Blocks that are gone through at once, about half a millisecond; and of how many an event, and a
# message, take the time beside their blocks.
SLICE, EVENT, MESSAGE = 512, 8, 64
MOST_GROUPS = 64  # of layers that an engine may have
NOT_BEGUN = "it was not heard from its beginning on"


class Contents:
    """See the module.

    Attributes:
        cache: the blocks.
        lacks: why they are not all; empty if they are, as of the last message.
        cleared: the last message has said that there are no others than it tells of.
        gone: blocks, each with its tier, that an early message has removed: its number.
        blocks, garbage: counted since its begin; `wrong` is what was wrong with the last garbage.
    """

    def __init__(self, most_blocks: int, partings: Partings | None) -> None:
        self.cache = CachedBlocks(most_blocks, partings)
        self.blocks = self.garbage = self._done = 0
        self.wrong = ""
        # The last request that was told of by its name, and its prompt.
        self._session: str | None = None
        self._prompt: Beginnings | None = None
        self.forget()

    def forget(self) -> None:
        """It may hold anything."""
        self.cache.clear()
        self.lacks, self.cleared, self.gone = NOT_BEGUN, False, dict[int, int]()
        # Whether it names sessions, and how often it has told of what is of no use without.
        self._names, self._useless = False, 0
        self._whole, self._windows = set[int](), set[int]()  # groups of layers

    @property
    def useless(self) -> bool:
        """Whether all that it has told says nothing of prompts."""
        return self._useless > 0 and not self._names

    def unread(self, why: str) -> None:
        """Something cannot be read."""
        self.garbage, self.wrong = self.garbage + 1, why

    def pauses(self, more: int) -> bool:
        """So much more is done; whether it is time for a pause before it."""
        pauses = self._done + more > SLICE
        self._done = more if pauses else self._done + more
        return pauses

    def take(self, number: int, payload: bytes, *, early: bool) -> Iterator[None]:
        """The events of message `number`; `early`: older ones were missed."""
        self.cleared = False
        try:
            for event in read_batch(payload):
                if self.pauses(EVENT):
                    yield
                if isinstance(event, Cleared):
                    self.cache.clear()
                    self.lacks, self.cleared = "", True
                elif isinstance(event, Unreadable):
                    self.unread(event.why)
                    self.lacks = event.why
                elif isinstance(event, PassedOver):
                    self._pass_over(event.why)
                elif self._counts(event):
                    yield from self._change(event, number, early=early)
        except WireError as error:
            self.unread(str(error))
            self.lacks = str(error)

    def _pass_over(self, why: str) -> None:
        self._useless += 1
        self.lacks = why

    def _counts(self, event: Stored | Copied | Removed) -> bool:
        """Whether what can be reused depends on it."""
        group = event.group
        if not isinstance(event, Stored):
            return group not in self._windows
        whole = event.whole
        if whole is None:
            whole = group in self._whole or (group == 0 and group not in self._windows)
        groups = self._whole if whole else self._windows
        if group not in groups and len(groups) < MOST_GROUPS:
            groups.add(group)
        if not whole:
            self._pass_over(
                f"layers of group {group} do not attend to all, or are of no known kind"
            )
        elif len(self._whole) > 1:
            self.lacks = "several groups of layers are taken as one"
        return whole

    def _change(
        self, event: Stored | Copied | Removed, number: int, *, early: bool
    ) -> Iterator[None]:
        hashes, tier = event.blocks, event.tier
        for start in range(0, len(hashes), SLICE):
            part = numbers(hashes[start : start + SLICE])
            if self.pauses(len(part)):
                yield
            self.blocks += len(part)
            if isinstance(event, Removed):
                self.cache.remove(part, tier)
                if early:
                    self.gone.update(dict.fromkeys(_at(part, tier), number))
                continue
            if isinstance(event, Copied):
                self.cache.store(part, None, 0, None, tier)
            else:
                before = hashes[start - 1] if start else event.parent
                self._store(event, part, before)
            if early:
                for at in _at(part, tier):
                    self.gone.pop(at, None)
            elif self.gone:
                places = zip(part, _at(part, tier), strict=True)
                gone = [one for one, at in places if self.gone.get(at, number) > number]
                self.cache.remove(gone, tier)

    def _store(self, event: Stored, part: list[int], before: Hash | None) -> None:
        self._names = self._names or event.session is not None
        self._useless += event.session is None
        if event.session != self._session:
            self._session = event.session
            self._prompt = None if event.session is None else read_session(event.session)
        parent = None if before is None else numbers((before,))[0]
        self.cache.store(part, parent, event.block_tokens, self._prompt, event.tier)
        self._done += self.cache.take_copied()


def _at(blocks: list[int], tier: Tier) -> list[int]:
    return [block * len(Tier) + tier for block in blocks]
