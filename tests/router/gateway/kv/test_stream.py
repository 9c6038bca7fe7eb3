"""Whatever is lost, repeated, broken or begun anew: exact is only what agrees with the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.kv import stream as kv_stream
from router.gateway.fleet.kv.contents import SLICE
from router.gateway.fleet.kv.stream import COPIES, Knowledge, Stream
from router.kv_wire import session_name, write_batch
from solver.routing.marks import NAME_BYTES, Beginnings
from tests.router.gateway.kv.publisher import (
    BLOCK_TOKENS,
    Publisher,
    block_stored,
    held,
    known,
    removed,
    stored,
)

MOST = 10_000
EXACT, DEGRADED, ESTIMATED = Knowledge.EXACT, Knowledge.DEGRADED, Knowledge.ESTIMATED


def joined(publisher: Publisher, *, replays: bool = True) -> Stream:
    stream = Stream(MOST, replays=replays)
    assert stream.knowledge is ESTIMATED
    stream.linked()
    publisher.replay(stream)
    return stream


def tell(stream: Stream, message: tuple[int, bytes]) -> None:
    list(stream.live(*message))


class Line:
    """Between a publisher and its stream: what happens to messages on their way, and to both.

    `lost`: the last message has not come, so that nobody can know of it; `unread`: documents that
    an event told of that could not be read, and never can.
    """

    def __init__(self, publisher: Publisher, *, replays: bool) -> None:
        self.publisher, self.replays = publisher, replays
        self.stream, self.lost = joined(publisher, replays=replays), False
        self.unread = set[int]()

    def restart(self, _: int) -> None:
        self.publisher.restart()
        self.stream.lost()
        self.stream.linked()
        self.lost, self.unread = False, set()

    def clear(self, _: int) -> None:
        tell(self.stream, self.publisher.clear())
        self.lost, self.unread = False, set()

    def replay(self, _: int) -> None:
        self.lost = self.lost and self.stream.wanted is None
        self.publisher.replay(self.stream)

    def silence(self, document: int) -> None:
        self.stream.check()
        self.replay(document)

    def old(self, _: int) -> None:
        if self.replays and self.publisher.buffer:  # else it is as if it had restarted
            tell(self.stream, self.publisher.buffer[0])

    def broken(self, document: int) -> None:
        tell(self.stream, self.publisher.change(document, spoilt=b"\x93\x01garbage"))
        self.lost, self.unread = False, self.unread | {document}

    def unnumbered(self, _: int) -> None:
        self.stream.broken("no number")

    def told(self, document: int) -> None:
        tell(self.stream, self.publisher.change(document))
        self.lost = False

    def lose(self, document: int) -> None:
        self.publisher.change(document)
        self.lost = True

    def twice(self, document: int) -> None:
        message = self.publisher.change(document)
        tell(self.stream, message)
        tell(self.stream, message)
        self.lost = False


WAYS = (
    Line.told,
    Line.lose,
    Line.twice,
    Line.broken,
    Line.unnumbered,
    Line.clear,
    Line.restart,
    Line.old,
    Line.replay,
    Line.silence,
)


@given(
    st.booleans(),
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 9)), max_size=30),
)
def test_exact_is_what_agrees_with_the_engine(
    replays: bool, before: int, steps: list[tuple[Callable[[Line, int], None], int]]
) -> None:
    publisher = Publisher()
    for document in range(before):
        publisher.change(document)
    line = Line(publisher, replays=replays)
    stream = line.stream
    for way, document in steps:
        way(line, document)
        if stream.knowledge is EXACT and not line.lost:
            assert known(stream) == publisher.held
    if replays:
        line.silence(0)
        assert stream.knowledge is (DEGRADED if line.unread else EXACT)
        assert known(stream) ^ publisher.held <= line.unread, "that costs itself alone"


def test_who_joins_late_asks_for_all_and_knows_all() -> None:
    publisher = Publisher()
    for document in (1, 2, 1):
        publisher.change(document)
    stream = joined(publisher)
    assert (stream.knowledge, known(stream)) == (EXACT, {2})


def test_what_the_buffer_has_lost_is_never_taken_to_be_known() -> None:
    publisher = Publisher(buffered=2)
    for document in (1, 2, 3):
        publisher.change(document)
    stream = joined(publisher)
    assert (stream.knowledge, known(stream)) == (DEGRADED, {2, 3})
    tell(stream, publisher.change(4))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {2, 3, 4})
    publisher.restart()
    tell(stream, publisher.change(5))
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, {5})


def test_a_gap_degrades_at_once_and_a_replay_recovers() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    assert stream.knowledge is EXACT
    publisher.change(1)
    after = publisher.change(2)
    tell(stream, after)
    assert (stream.knowledge, stream.wanted, stream.gaps) == (DEGRADED, 0, 1)
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, {2})


def test_without_replays_a_gap_is_never_made_good() -> None:
    publisher = Publisher()
    stream = joined(publisher, replays=False)
    assert stream.knowledge is ESTIMATED
    tell(stream, publisher.change(1))
    assert stream.knowledge is EXACT
    publisher.change(2)
    tell(stream, publisher.change(3))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {1, 3})


def test_an_engine_that_has_restarted_holds_nothing_of_before() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    for document in (1, 2, 3):
        tell(stream, publisher.change(document))
    stream.lost()
    assert (stream.knowledge, held(stream, 1)) == (DEGRADED, 512)
    publisher.restart()
    publisher.change(7)
    stream.linked()
    publisher.replay(stream)
    assert (stream.knowledge, known(stream), stream.restarts) == (EXACT, {7}, 1)


def test_who_cannot_be_reached_for_long_is_forgotten() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    stream.lost()
    stream.forget()
    assert (stream.knowledge, known(stream)) == (ESTIMATED, set())


def test_a_replay_that_never_ends_leaves_it_degraded() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    publisher.change(2)
    tell(stream, publisher.change(3))
    stream.replay_failed()
    assert stream.knowledge is DEGRADED
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, {1, 3, 2})


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_no_message_degrades_until_all_was_told_again(count: int) -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    for _ in range(count):
        stream.broken("no number")
    assert (stream.knowledge, known(stream)) == (DEGRADED, {1})
    publisher.replay(stream)
    assert (stream.knowledge, known(stream), stream.garbage) == (EXACT, {1}, count)


@pytest.mark.parametrize("replays", [True, False])
def test_who_sends_something_unreadable_again_and_again_is_known_but_for_that(
    replays: bool,
) -> None:
    publisher = Publisher()
    stream = joined(publisher, replays=replays)
    for document in range(10):
        tell(stream, publisher.change(document))
        tell(stream, publisher.change(15, spoilt=b"\xc1"))
        publisher.replay(stream)
        assert (stream.knowledge, known(stream)) == (DEGRADED, set(range(document + 1)))
    assert (stream.garbage, stream.restarts) == (10, 0)
    tell(stream, publisher.clear())
    tell(stream, publisher.change(3))
    assert (stream.knowledge, known(stream)) == (EXACT, {3})


def test_an_unreadable_event_costs_none_of_those_beside_it() -> None:
    stream = joined(Publisher())
    events = [stored(1), {"type": "BlockStored"}, stored(2), removed(1)]
    tell(stream, (0, write_batch(1.0, events)))
    assert (stream.knowledge, known(stream), stream.garbage) == (DEGRADED, {2}, 1)
    assert "block_hashes" in stream.why


@pytest.mark.parametrize("replays", [True, False])
@pytest.mark.parametrize("late", [1, 5, 2 * COPIES])
def test_a_late_copy_of_the_first_message_is_a_copy(late: int, replays: bool) -> None:
    publisher = Publisher()
    stream = joined(publisher, replays=replays)
    first = publisher.change(1)
    for message in (first, *(publisher.change(2 + k % 7) for k in range(late))):
        tell(stream, message)
    tell(stream, first)
    assert (stream.knowledge, stream.restarts, stream.wanted) == (EXACT, 0, None)
    assert known(stream) == publisher.held
    assert len(stream._prints) <= COPIES


@pytest.mark.parametrize("size", [BLOCK_TOKENS // 2, 2 * BLOCK_TOKENS])
def test_blocks_of_another_size_degrade_what_is_known_until_it_is_cleared(size: int) -> None:
    """And cost nothing of it, unless as many of them come in a row."""
    publisher = Publisher()
    stream = joined(publisher)
    for document in (1, 2):
        tell(stream, publisher.change(document))
    assert stream.knowledge is EXACT
    few = {**stored(3), "block_size": size}
    for number in (2, 3):
        tell(stream, (number, write_batch(float(number), [few, stored(1)])))
        assert (stream.knowledge, known(stream)) == (DEGRADED, {1, 2})
    many = [{**stored(document), "block_size": size} for document in (4, 5)]
    tell(stream, (4, write_batch(4.0, many)))
    assert (stream.knowledge, known(stream) & {1, 2}) == (DEGRADED, set())
    tell(stream, (5, write_batch(5.0, [{"type": "AllBlocksCleared"}, many[0]])))
    assert (stream.knowledge, known(stream)) == (EXACT, {4})


def test_what_waits_for_what_is_missing_is_bounded() -> None:
    publisher = Publisher()
    stream = Stream(MOST, replays=True, held=5_000)
    stream.linked()
    for document in range(20):
        tell(stream, publisher.change(document))
    assert 0 < stream._held_bytes <= 5_000
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, publisher.held)


def test_more_than_is_kept_is_not_exact() -> None:
    publisher, stream = Publisher(), Stream(10, replays=False)
    stream.linked()
    for document in range(3):
        tell(stream, publisher.change(document))
    assert stream.knowledge is DEGRADED
    assert len(stream.cache) <= 10


def test_what_is_held_is_not_known_for_certain() -> None:
    """Somebody asks whether it has restarted, and its answer takes its time."""
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(0))
    assert stream.knowledge is EXACT
    stream.check()
    tell(stream, publisher.change(1))
    assert stream.knowledge is DEGRADED
    publisher.replay(stream)
    assert stream.knowledge is EXACT
    assert known(stream) == publisher.held


def test_who_replays_nothing_though_messages_have_come_is_not_believed() -> None:
    publisher = Publisher()
    stream = Stream(MOST, replays=True)
    stream.linked()
    publisher.change(0)
    tell(stream, publisher.change(1))
    for _ in range(3):
        list(stream.replay_ended())
        assert stream.knowledge is not EXACT


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_a_replay_with_holes_is_asked_for_again_while_it_comes_further(
    count: int, parts: list[int], hole: int
) -> None:
    """Each time other messages are lost of it, its last ones too, but never the first two."""
    publisher = Publisher()
    for k in range(count):
        publisher.change(k % 7)
    stream, asked, holes = Stream(MOST, replays=True), 0, 0
    stream.linked()
    while stream.wanted is not None:
        messages = [one for one in publisher.buffer if one[0] >= stream.wanted]
        part, asked, lost = parts[asked % len(parts)] + 1, asked + 1, False
        stream.ask()
        for k, message in enumerate(messages):
            if k % (part + hole) < part:
                list(stream.replayed(*message))
            else:
                lost = True
        list(stream.replay_ended())
        holes += lost
    assert (stream.knowledge, known(stream)) == (EXACT, publisher.held)
    assert (stream.gaps, stream.restarts) == (0, 0)
    assert holes < asked <= count + 2


def test_what_no_replay_has_is_a_gap_that_is_told() -> None:
    publisher = Publisher()
    for document in (1, 2, 3, 4):
        publisher.change(document)
    lost = publisher.buffer[2]
    publisher.buffer.remove(lost)
    stream = joined(publisher)
    assert (stream.knowledge, known(stream), stream.gaps) == (DEGRADED, {1, 2, 4}, 1)
    assert (stream.wanted, stream.why) == (None, "messages 2 to 2 cannot be had")
    tell(stream, publisher.clear())
    assert (stream.knowledge, stream.why) == (EXACT, "")


def test_who_never_replays_is_known_by_what_it_tells() -> None:
    publisher = Publisher()
    publisher.change(9)
    stream = Stream(MOST, replays=True)
    stream.linked()
    stream.ask()
    stream.replay_failed()
    for document in (1, 2, 1):
        tell(stream, publisher.change(document))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {2})
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, {2, 9})


@given(
    st.integers(0, 6),
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=25),
    st.integers(0, 40),
)
def test_what_is_heard_to_be_removed_is_not_known_however_far_a_replay_comes(
    before: int, changes: list[tuple[bool, int]], until: int
) -> None:
    publisher = Publisher()
    for document in range(before):
        publisher.change(document)
    stream = joined(publisher)
    publisher.change(9)  # lost
    removed_at = dict[int, int]()
    for lost, document in changes:
        message = publisher.change(document)
        if not lost:
            tell(stream, message)
            removed_at.pop(document, None)
            if document not in publisher.held:
                removed_at[document] = message[0]
            assert not known(stream) & set(removed_at)
    if stream.wanted is not None:
        start = stream.ask()
        for message in list(publisher.buffer)[start : start + until]:
            list(stream.replayed(*message))
            gone = {one for one, number in removed_at.items() if number >= stream.reached}
            assert not known(stream) & gone
        stream.replay_failed()
        assert stream.knowledge is DEGRADED
    stream.check()
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, publisher.held)


def test_who_is_back_and_does_not_say_who_it_is_holds_nothing_for_certain() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    stream.lost()
    stream.linked()
    stream.ask()
    stream.replay_failed()
    assert (stream.knowledge is EXACT, known(stream)) == (False, set())
    tell(stream, publisher.change(2))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {2})
    publisher.replay(stream)
    assert (stream.knowledge, known(stream)) == (EXACT, {1, 2})


def test_more_is_removed_while_a_replay_is_awaited_than_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv_stream, "MOST_GONE", 5)
    publisher = Publisher()
    for document in (1, 2, 3):
        publisher.change(document)
    stream = joined(publisher)
    publisher.change(4)
    for document in (1, 2, 5):
        tell(stream, publisher.change(document))
    assert (stream.knowledge, known(stream), stream.gaps) == (DEGRADED, {3, 5}, 1)
    assert stream.wanted is None
    assert "cannot be had" in stream.why


def test_a_replay_of_nothing_is_believed_only_of_who_keeps_something() -> None:
    publisher = Publisher()
    told = []
    for keeps in (True, False):
        stream = Stream(MOST, replays=True, keeps=keeps)
        stream.linked()
        publisher.replay(stream)
        told.append(stream.knowledge)
    assert told == [EXACT, ESTIMATED]
    tell(stream, publisher.change(1))
    assert (stream.knowledge, known(stream)) == (EXACT, {1})


def test_what_two_workers_tell_of_is_of_neither() -> None:
    publisher = Publisher()
    stream = joined(publisher)
    tell(stream, publisher.change(1))
    stream.shared = True
    assert stream.knowledge is ESTIMATED
    assert "another worker" in stream.why
    stream.shared = False
    assert stream.knowledge is EXACT


def offloaded(document: int, medium: str = "CPU") -> list[dict[str, Any]]:
    """As vLLM tells of it by default: a block each, of no size, of nobody."""
    return [
        {**stored(document), "block_hashes": [block], "block_size": 0, "session_id": None}
        | {"medium": medium, "group_idx": 0}
        for block in stored(document)["block_hashes"]
    ]


def test_blocks_that_are_offloaded_are_known_where_they_are() -> None:
    stream = joined(Publisher())
    events = [*offloaded(7), stored(1), *offloaded(1)]
    tell(stream, (0, write_batch(0.0, events)))
    assert (stream.knowledge, stream.garbage, held(stream, 1)) == (EXACT, 0, 512)
    tell(stream, (1, write_batch(1.0, [removed(1)])))
    assert held(stream, 1) == pytest.approx(0.9 * 512)
    tell(stream, (2, write_batch(2.0, [{**removed(1), "medium": "CPU"}])))
    assert (stream.knowledge, held(stream, 1)) == (EXACT, 0)


PASSED: dict[str, dict[str, Any]] = {
    "medium": {"medium": "TAPE"},
    "kind": {"kv_cache_spec_kind": "unknown"},
    "new kind": {"kv_cache_spec_kind": "holographic"},
    "window": {"kv_cache_spec_kind": "sliding_window", "group_idx": 1},
    "group": {"group_idx": 1},
    "type": {"type": "BlockMoved"},
}


@pytest.mark.parametrize("what", PASSED)
def test_what_is_passed_over_is_not_exact(what: str) -> None:
    """And if there is nothing else, plans go by what was sent."""
    odd = {**stored(1), **PASSED[what]}
    alone, beside = joined(Publisher()), joined(Publisher())
    tell(alone, (0, write_batch(0.0, [odd])))
    assert (alone.knowledge, known(alone)) == (ESTIMATED, set())
    tell(beside, (0, write_batch(0.0, [stored(2), odd])))
    assert (beside.knowledge, known(beside)) == (DEGRADED, {2})
    assert alone.why == beside.why
    assert "known" in beside.why


@pytest.mark.parametrize("medium", ["gpu", "Gpu", "GPU", None])
def test_media_are_the_same_in_any_spelling(medium: str | None) -> None:
    stream = joined(Publisher())
    tell(stream, (0, write_batch(0.0, [{**stored(1), "medium": medium}, stored(2)])))
    tell(stream, (1, write_batch(1.0, [{**removed(2), "medium": medium}])))
    assert (stream.knowledge, known(stream)) == (EXACT, {1})


def test_a_block_of_several_groups_is_gone_when_any_has_dropped_it() -> None:
    stream = joined(Publisher())
    second = {**stored(1), "group_idx": 1, "kv_cache_spec_kind": "full_attention"}
    tell(stream, (0, write_batch(0.0, [stored(1), second, stored(2)])))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {1, 2})
    tell(stream, (1, write_batch(1.0, [{**removed(1), "group_idx": 0}])))
    assert known(stream) == {2}


def test_what_windows_drop_is_still_there_for_all_else() -> None:
    stream = joined(Publisher())
    window = {**stored(1), "group_idx": 0, "kv_cache_spec_kind": "sliding_window"}
    whole = {**stored(1), "group_idx": 1, "kv_cache_spec_kind": "full_attention"}
    tell(stream, (0, write_batch(0.0, [window, whole])))
    tell(stream, (1, write_batch(1.0, [{**removed(1), "group_idx": 0}])))
    assert (stream.knowledge, known(stream)) == (DEGRADED, {1})
    tell(stream, (2, write_batch(2.0, [{**removed(1), "group_idx": 1}])))
    assert known(stream) == set()


def test_blocks_that_are_gone_through_for_others_count_as_work() -> None:
    """Each event tells of one, and is far behind what another prompt has."""
    stream, publisher = Stream(MOST, replays=False), Publisher()
    names = [
        session_name("", f"attempt-{k}", Beginnings(bytes([k]) * 100 * NAME_BYTES, 128.0))
        for k in range(8)
    ]
    first = block_stored(list(range(500)), names[0])
    others = [
        block_stored([1000 + k], name) | {"parent_block_hash": 400}
        for k, name in enumerate(names[1:])
    ]
    for event in (first, *others):
        event["block_size"] = 16
    stream.linked()
    tell(stream, publisher.send([first]))
    pauses = len(list(stream.live(*publisher.send(others))))
    assert pauses >= len(others) * 400 // (SLICE + 400)
