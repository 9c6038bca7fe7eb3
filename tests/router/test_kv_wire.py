"""Events of prefix caches are read in both forms, and whatever is sent is an event or an error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import kv_wire
from router.kv_wire import (
    AT_ONCE_BYTES,
    END,
    MOST_BYTES,
    MOST_EVENTS,
    MOST_JOINED,
    Cleared,
    Copied,
    Event,
    PassedOver,
    Removed,
    Stored,
    Unreadable,
    WireError,
    event_of,
    numbers,
    read_batch,
    read_message,
    read_session,
    replay_request,
    session_name,
    tail_of,
    write_batch,
)
from solver.batching.kv import Gone, Kept
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings
from solver.routing.tiers import Tier

HASHES: list[int | bytes] = [b"\x01" * 24 + (7).to_bytes(8), (1 << 63) + 5]
MAP = {
    "type": "BlockStored",
    "block_hashes": HASHES,
    "parent_block_hash": None,
    "token_ids": list(range(32)),
    "block_size": 16,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
    "extra_keys": [None, ["salt"]],
    "group_idx": 2,
    "kv_cache_spec_kind": "full_attention",
    "session_id": "one",
}
ROW = [MAP["type"], *(MAP[name] for name in list(MAP)[1:9]), 2, "full_attention"]
LONG_ROW: list[object] = [*ROW, None, "LOCAL", None, "one", "of a version to come", {}]
STORED = Stored(HASHES, None, 16, Tier.GPU, "one", 2, whole=True)


def read(*events: object, more: tuple[Any, ...] = (0,)) -> list[Event | None]:
    return list(read_batch(msgspec.msgpack.encode([1.5, events, *more])))


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (MAP, STORED),
        ({**MAP, "unknown": [1, {}]}, STORED),
        (LONG_ROW, STORED),
        (ROW, Stored(HASHES, None, 16, Tier.GPU, None, 2, whole=True)),
        (ROW[:6], Stored(HASHES, None, 16, Tier.GPU, None)),
        (
            {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": 9, "block_size": 4},
            Stored([1], 9, 4, Tier.GPU, None),
        ),
        ({**MAP, "medium": "CPU_PINNED"}, Stored(HASHES, None, 16, Tier.CPU, "one", 2, True)),
        (
            {**MAP, "kv_cache_spec_kind": "mamba"},
            Stored(HASHES, None, 16, Tier.GPU, "one", 2, False),
        ),
        ({**MAP, "medium": "fs"}, Stored(HASHES, None, 16, Tier.DISK, "one", 2, True)),
        ({**MAP, "medium": "CPU", "block_size": 0}, Copied(HASHES, Tier.CPU, 2)),
        ({"type": "BlockRemoved", "block_hashes": HASHES}, Removed(HASHES, Tier.GPU)),
        (
            {"type": "BlockRemoved", "block_hashes": HASHES, "medium": "gpu"},
            Removed(HASHES, Tier.GPU),
        ),
        (["BlockRemoved", HASHES, "STORAGE", 1], Removed(HASHES, Tier.DISK, 1)),
        (["AllBlocksCleared"], Cleared()),
        ({"type": "AllBlocksCleared"}, Cleared()),
    ],
)
@pytest.mark.parametrize("more", [(), (0,), (3, "longer")])
def test_events_of_both_forms(event: object, found: Event, more: tuple[Any, ...]) -> None:
    assert read(event, more=more) == [found]


def test_a_long_message_is_read_event_by_event_and_is_the_same() -> None:
    events = [MAP, LONG_ROW, {"type": "BlockMoved"}, {"type": "AllBlocksCleared"}]
    filler = {**MAP, "token_ids": list(range(AT_ONCE_BYTES // 4))}
    assert read(*events, filler) == [*read(*events), STORED]


@pytest.mark.parametrize("unknown", [{"type": "BlockMoved", "to": 3}, ["BlockMoved", 3]])
def test_events_of_other_types_are_passed_over(unknown: object) -> None:
    why = "an event of type 'BlockMoved' is not known"
    assert read(unknown, ROW, MAP) == [PassedOver(why), *read(ROW), STORED]


def pages(count: int, first: int = 0, **more: object) -> list[dict[str, Any]]:
    """Events of a page each, that follow each other."""
    return [
        {**MAP, "block_hashes": [k], "parent_block_hash": k - 1 if k else None, **more}
        for k in range(first, first + count)
    ]


def test_events_that_go_on_from_each_other_are_one() -> None:
    gone = [{"type": "BlockRemoved", "block_hashes": [k], "medium": "GPU"} for k in range(9)]
    alike = [*pages(5), *gone, *pages(4, 5)]
    assert read(*alike) == [
        Stored([*range(5)], None, 16, Tier.GPU, "one", 2, whole=True),
        Removed([*range(9)], Tier.GPU),
        Stored([*range(5, 9)], 4, 16, Tier.GPU, "one", 2, whole=True),
    ]
    many = [one for one in read(*pages(2_000)) if isinstance(one, Stored)]
    assert [k for one in many for k in one.blocks] == [*range(2_000)]
    assert max(len(one.blocks) for one in many) == MOST_JOINED


@pytest.mark.parametrize(
    "other",
    [
        {"session_id": "other"},
        {"session_id": None},
        {"block_size": 32},
        {"medium": "CPU"},
        {"group_idx": 3},
        {"kv_cache_spec_kind": "mamba"},
        {"parent_block_hash": None},
        {"parent_block_hash": 1},
    ],
)
def test_and_those_that_differ_in_anything_are_not(other: dict[str, object]) -> None:
    one, two = pages(3), pages(1, 3, **other)
    assert read(*one, *two) == [*read(*one), *read(*two)]


@pytest.mark.parametrize("medium", ["TAPE"])
def test_where_nobody_knows_a_medium_nothing_is_known(medium: str) -> None:
    assert read({**MAP, "medium": medium}) == [PassedOver(f"a medium {medium!r} is not known")]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 10,
        msgspec.msgpack.encode({"events": []}),
        msgspec.msgpack.encode([1.0]),
        b"\x93" * 500,
        b"\x92\x01\x91" + b"\x91" * 5000,
        b"\x92\x01\x91\x82\xa4type\xabBlockStored\xa1x" + b"\x91" * 5000,
        bytes(5 << 20),
        msgspec.msgpack.encode([1.0, [{"type": "BlockMoved"}] * (MOST_EVENTS + 1)]),
    ],
)
def test_what_is_no_batch_is_an_error(payload: bytes) -> None:
    with pytest.raises(WireError):
        list(read_batch(payload))


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        "BlockStored",
        [],
        {"of": "no type"},
        ["BlockStored"],
        {**MAP, "block_size": 0},
        {**MAP, "block_size": 1 << 40},
        {**MAP, "block_hashes": "no list"},
        {**MAP, "block_hashes": [1.5]},
        ["BlockRemoved", [1] * (MOST_BYTES // 2)],
    ],
)
def test_what_is_no_event_is_one_that_cannot_be_read_among_those_that_can(wrong: object) -> None:
    before, unread, after = read(MAP, wrong, ROW)
    assert [before, after] == read(MAP, ROW)
    assert isinstance(unread, Unreadable)
    assert 0 < len(unread.why) < 300


NAMES = st.one_of(st.integers(-(1 << 59), (1 << 59) - 1), st.binary(min_size=8, max_size=32))


@given(st.sets(NAMES, max_size=50))
def test_blocks_of_different_names_are_different(names: set[int | bytes]) -> None:
    assert len(set(numbers(names))) == len(names)


@pytest.mark.parametrize("others", [(-1, -2), (0, (1 << 61) - 1), ((1 << 61) + 6, 7)])
def test_and_so_are_integers_that_python_hashes_alike(others: tuple[int, int]) -> None:
    assert hash(others[0]) == hash(others[1])
    assert len({*numbers(others)}) == 2


def test_of_a_long_name_its_end_is_remembered() -> None:
    name = session_name("client", "attempt", Beginnings(bytes(NAME_BYTES), 4.0, 0))
    before = kv_wire._read_session.cache_info()
    first, *others = (read_session("x" * more + "|" + name) for more in (5000, 6000, 1 << 20))
    after = kv_wire._read_session.cache_info()
    assert first is not None
    assert all(one is first for one in others)
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_an_error(payload: bytes) -> None:
    try:
        list(read_batch(payload))
    except WireError:
        return


@pytest.mark.parametrize("topic", [[], [b""], [b"kv@pod"], [b"", b"kv@pod"]])
def test_messages_with_their_topic_and_without(topic: list[bytes]) -> None:
    assert read_message([*topic, (5).to_bytes(8), b"x"]) == (5, b"x")


@pytest.mark.parametrize("frames", [[], [b"x"], [b"1", b"x"], [b""] * 5])
def test_frames_that_are_no_message(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        read_message(frames)


def test_a_replay_is_asked_for_and_ends_as_in_vllm() -> None:
    assert replay_request(258) == [b"", b"\0\0\0\0\0\0\1\2"]
    assert read_message([b"", b"", b"\xff" * 8, b""])[0] == END


@settings(max_examples=30)
@given(
    st.text(max_size=20),
    st.binary(min_size=NAME_BYTES, max_size=len(MARKS) * NAME_BYTES),
    st.floats(1, 400),
)
def test_a_request_is_known_by_its_name(client: str, marks: bytes, tokens: float) -> None:
    marks = marks[: len(marks) // NAME_BYTES * NAME_BYTES]
    found = read_session(session_name(client, "gateway-1-2", Beginnings(marks, tokens)))
    assert found is not None
    assert found.marks == marks
    assert found.block_tokens == pytest.approx(tokens, abs=0.006)
    assert found.tail == tail_of("gateway-1-2")


@pytest.mark.parametrize(
    "name", ["", "chat-7", "a|b|c|d", "a|b|128|", "a|b|nan|AAAAAAAF", "a|b|128|AAA", "|||"]
)
def test_sessions_that_no_gateway_has_named(name: str) -> None:
    assert read_session(name) is None


def test_what_an_agent_tells_is_what_a_gateway_reads() -> None:
    kept, gone = Kept("7", (1, 2, 3), 2), Gone((1, 2))
    some = event_of(kept, 128, "s", full=False)
    everything = event_of(kept, 128, "s", full=True)
    events = [one for one in (some, everything, event_of(gone, 128, None, full=True)) if one]
    assert list(read_batch(write_batch(1.0, events))) == [
        Stored([3], 2, 128, Tier.GPU, "s"),
        Stored([1, 2, 3], None, 128, Tier.GPU, "s"),
        Removed([1, 2], Tier.GPU),
    ]
    assert event_of(Kept("7", (1, 2), 2), 128, "s", full=False) is None
