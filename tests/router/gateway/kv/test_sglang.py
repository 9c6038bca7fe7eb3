"""What SGLang publishes is understood, in both of its forms, and no more is claimed than it tells.

As its ``mem_cache/events.py`` writes it: an event for each page, the first of a node's naming the
last of its parent's; what a request finds in the cache is not told again; a node goes from its
first page to its last. Maps are those of 0.5.23, arrays older ones, which do not say whose a page
is. (Written from its source: nothing here was recorded.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.kv_wire import session_name
from solver.routing.marks import Beginnings, hash_text
from solver.routing.prefixes import TEXT_BYTES

PAGE = 16  # tokens, of four bytes each
TOKEN_BYTES = 4


class RadixCache:
    """One rank's: pages by the text that they end with."""

    def __init__(self, *, maps: bool = True, names: bool = True, page: int = PAGE) -> None:
        self.maps, self.names, self.page = maps, names, page
        self.holds: dict[str, int] = {}
        self.sent = 0
        self.stream = Stream(1 << 20, replays=False)
        self.stream.linked()

    def _pages(self, text: str) -> Iterator[str]:
        size = self.page * TOKEN_BYTES
        return (text[: end + size] for end in range(0, len(text) - size + 1, size))

    def _event(self, kind: str, fields: dict[str, Any], more: dict[str, Any]) -> Any:  # noqa: ANN401
        return {"type": kind, **fields, **more} if self.maps else [kind, *fields.values()]

    def _tell(self, events: list[Any]) -> None:
        payload = msgspec.msgpack.encode([1.0, events, 0])
        list(self.stream.live(self.sent, payload))
        self.sent += 1

    def insert(self, text: str, medium: str = "GPU") -> None:
        """A request has ended, and what it has not found there is told."""
        events, parent = [], None
        for page in self._pages(text):
            number = self.holds.get(page)
            if number is None or medium != "GPU":
                number = self.holds.setdefault(page, (-1) ** len(self.holds) * hash(page) >> 2)
                fields = {
                    "block_hashes": [number],
                    "parent_block_hash": parent,
                    "token_ids": [(1, 2)] * self.page,  # as pairs, under EAGLE
                    "block_size": self.page,
                    "lora_id": None,
                    "medium": medium,
                }
                named = medium == "GPU" and self.names
                more = {"cache_salt": None, "session_id": name(text) if named else None}
                events.append(self._event("BlockStored", fields, more))
            parent = number
        self._tell(events)

    def evict(self, text: str, first: int) -> None:
        """The node of its pages from this one on, those of the text itself."""
        pages = [page for page in list(self._pages(text))[first:] if page in self.holds]
        fields = ({"block_hashes": [self.holds.pop(page)], "medium": "GPU"} for page in pages)
        self._tell([self._event("BlockRemoved", one, {}) for one in fields])

    def found(self, text: str) -> int:
        """Tokens that a request finds."""
        count = 0
        for page in self._pages(text):
            if page not in self.holds:
                break
            count += 1
        return count * self.page

    def known(self, text: str) -> float:
        """Tokens that a gateway takes it to find."""
        return self.stream.cache.held_tokens(hash_text(text).marks)


def name(text: str) -> str:
    tokens = TEXT_BYTES / TOKEN_BYTES
    return session_name("", f"gateway-{hash(text)}", Beginnings(hash_text(text).marks, tokens))


def text(document: int, own: int, size: int = 3000) -> str:
    """A document and a question, of tokens of four bytes."""
    shared = "".join(f"{document}{k:03x}"[:4] for k in range(size // TOKEN_BYTES))
    return shared + "".join(f"q{own}{k:02x}"[-4:] for k in range(100))


@pytest.mark.parametrize("page", [1, 16, 64])
def test_pages_are_where_they_are_though_what_is_found_is_not_told_again(page: int) -> None:
    cache = RadixCache(page=page)
    for document, own in ((1, 1), (1, 2), (2, 3), (1, 4), (2, 5)):
        asked = text(document, own)
        assert abs(cache.known(asked) - cache.found(asked)) < page + 16
        cache.insert(asked)
        # What is behind the last mark is known to who goes on from it alone.
        assert 0 <= cache.found(asked) - cache.known(asked) < page + 16
    assert cache.stream.knowledge is Knowledge.EXACT
    assert len(cache.stream.cache) == len(cache.holds)


def test_a_node_goes_from_its_first_page_on() -> None:
    cache, one, other = RadixCache(page=1), text(1, 1), text(1, 2)
    cache.insert(one)
    cache.insert(other)
    cache.evict(one, first=750)
    assert cache.known(one) == cache.found(one) == 750
    assert cache.found(other) - 16 < cache.known(other) <= cache.found(other) == 850
    cache.evict(other, first=0)
    assert (cache.known(one), len(cache.stream.cache)) == (0, 0)


def test_a_page_that_was_moved_to_the_host_saves_less() -> None:
    cache, asked = RadixCache(), text(1, 1)
    cache.insert(asked)
    whole = cache.known(asked)
    cache.insert(asked, medium="CPU_PINNED")
    assert cache.known(asked) == whole
    cache.evict(asked, first=0)
    assert cache.known(asked) == pytest.approx(0.9 * whole)


def test_a_rest_of_a_page_is_not_the_engines_block() -> None:
    """Nothing that is known is lost by it, but that it is all."""
    cache, asked = RadixCache(), text(1, 1)
    cache.insert(asked)
    before = cache.known(asked)
    rest = RadixCache(page=7)
    rest.stream, rest.sent = cache.stream, cache.sent
    rest.insert(text(2, 1, size=600))
    assert cache.known(asked) == before > 0
    assert cache.stream.knowledge is Knowledge.DEGRADED


@pytest.mark.parametrize("maps", [True, False])
def test_who_does_not_say_whose_a_page_is_is_not_known(maps: bool) -> None:
    """Plans go by what was sent there: what it holds of a prompt cannot be told."""
    cache = RadixCache(maps=maps, names=False)
    list(cache.stream.live(0, msgspec.msgpack.encode([1.0, [], 0])))
    cache.sent = 1
    known = [cache.stream.knowledge]
    cache.insert(text(1, 1))
    known.append(cache.stream.knowledge)
    assert cache.stream.cache.unknown == len(cache.holds)
    cache.evict(text(1, 1), first=0)
    known.append(cache.stream.knowledge)
    assert known == [Knowledge.EXACT, Knowledge.ESTIMATED, Knowledge.ESTIMATED]


def test_who_says_whose_a_page_is_is_known_whoever_else_asks_it() -> None:
    cache = RadixCache(names=False)
    cache.insert(text(1, 1))
    cache.names = True
    cache.insert(text(2, 1))
    assert cache.stream.knowledge is Knowledge.EXACT
    assert cache.known(text(2, 1)) > 0
