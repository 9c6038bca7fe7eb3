"""What engines publish of their prefix caches, and how requests are named for that.

vLLM and SGLang send ZeroMQ messages of a topic, a sequence number of 8 bytes (big-endian) and
msgpack: ``[seconds, events, rank?]``, an event being a map with a ``type``, or, from older vLLMs,
an array that begins with it. Agents publish the same. Asked for what was missed (`replay_request`),
a publisher answers with a message each, and one of `END` at the end.

Everything here is a function of bytes. What is longer than is known here is taken as far as it is
known, events of other types are passed over, and numbers are bounded where they are read.

A request is named by `Name`, as a session: its events carry that back, to every gateway that
listens. Source: vLLM 0.32 ``distributed/kv_events.py``, SGLang 0.5.23 ``disaggregation/kv_events``.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Union

import msgspec

from solver.batching.kv import Gone, Kept
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings
from solver.routing.prefixes import TEXT_BYTES
from solver.routing.tiers import Tier

SOURCES_PATH = "/kv_event_sources"
SESSION = b"x-session-id"
# By which vLLM tells of blocks that it has found in its cache, too.
XARGS, REPORT_MODE, FULL = "vllm_xargs", "kv_cache_report_mode", "full"
END = (1 << 64) - 1
# The largest message that is read: a step's blocks of some 40,000 tokens' prompts take a quarter.
MOST_BYTES = 4 << 20
# Up to here all events of a message are read at once: in a millisecond or two.
AT_ONCE_BYTES = 256 << 10
MOST_BLOCK_TOKENS = 1 << 16
# Hashes are 64-bit numbers, or longer bytes: so many bits of them make Python's smaller integers.
_HASH_MASK = (1 << 60) - 1
_LONGEST_NAME = 4096
# Of a message: what its transport puts before it, its topic, its number and its events.
MOST_FRAMES = 4
# Of a block of text, whose tokens have at least a byte.
_MOST_TEXT_TOKENS = TEXT_BYTES
# As any version of vLLM or SGLang calls them, in capitals.
_TIERS = {
    "": Tier.GPU,
    "GPU": Tier.GPU,
    "CPU": Tier.CPU,
    "CPU_PINNED": Tier.CPU,
    "CPU_TIER1": Tier.CPU,
    "CPU_TIER2": Tier.CPU,
    "STORAGE": Tier.DISK,
    "DISK": Tier.DISK,
    "FS": Tier.DISK,
    "OBJ": Tier.DISK,
    "EXTERNAL": Tier.DISK,
}
# Groups of layers whose blocks decide what can be reused; windows and states do not.
_WHOLE_ATTENTION = frozenset(("full_attention", "mla_attention", "sink_full_attention"))

# No engine counts more, of tokens or of microseconds in thirty years.
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Hash = Union[int, bytes]  # noqa: UP007 - msgspec reads it at run time
# As many as a message has room for, were none of them made up; a message of nothing but its events'
# beginnings would be read for longer than a turn of the loop may take.
_Hashes = Annotated[list[Hash], msgspec.Meta(max_length=MOST_BYTES // 9)]
MOST_EVENTS = 1 << 16
MOST_JOINED = 512  # blocks of events that are one, read at once
_Count = msgspec.Meta(max_length=MOST_EVENTS)


class _Stored(msgspec.Struct, tag_field="type", tag="BlockStored", gc=False):
    """Token ids and what else is in it are passed over."""

    block_hashes: _Hashes
    block_size: int
    parent_block_hash: Hash | None = None
    medium: str | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    session_id: str | None = None


class _Removed(msgspec.Struct, tag_field="type", tag="BlockRemoved", gc=False):
    block_hashes: _Hashes
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag_field="type", tag="AllBlocksCleared", gc=False):
    pass


_NOTHING = msgspec.Raw(b"\xc0")


class _StoredRow(msgspec.Struct, array_like=True, tag="BlockStored", gc=False):
    block_hashes: _Hashes
    parent_block_hash: Hash | None
    token_ids: msgspec.Raw
    block_size: int
    lora_id: msgspec.Raw = _NOTHING
    medium: str | None = None
    lora_name: msgspec.Raw = _NOTHING
    extra_keys: msgspec.Raw = _NOTHING
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: msgspec.Raw = _NOTHING
    locality: msgspec.Raw = _NOTHING
    ownership: msgspec.Raw = _NOTHING
    session_id: str | None = None


class _RemovedRow(msgspec.Struct, array_like=True, tag="BlockRemoved", gc=False):
    block_hashes: _Hashes
    medium: str | None = None
    group_idx: int | None = None


class _ClearedRow(msgspec.Struct, array_like=True, tag="AllBlocksCleared", gc=False):
    pass


_BLOCKS = (_Stored, _StoredRow, _Removed, _RemovedRow)


class _Maps(msgspec.Struct, array_like=True):
    ts: float
    events: Annotated[list[_Stored | _Removed | _Cleared], _Count]


class _Any(msgspec.Struct, array_like=True):
    ts: float
    events: Annotated[list[msgspec.Raw], _Count]


class _Type(msgspec.Struct):
    type: str


class _TypeRow(msgspec.Struct, array_like=True):
    type: str


_MAPS = msgspec.msgpack.Decoder(_Maps)
_ANY = msgspec.msgpack.Decoder(_Any)
_MAP = msgspec.msgpack.Decoder(_Stored | _Removed | _Cleared)
_ROW = msgspec.msgpack.Decoder(_StoredRow | _RemovedRow | _ClearedRow)
_TYPES = (msgspec.msgpack.Decoder(_Type), msgspec.msgpack.Decoder(_TypeRow))
_KNOWN = ("BlockStored", "BlockRemoved", "AllBlocksCleared")
# What decoders raise: the second for what is nested thousands deep.
_UNREADABLE = (msgspec.DecodeError, RecursionError)


class WireError(ValueError):
    """A message that no publisher should have sent; says what is wrong."""


class Stored(msgspec.Struct):
    """Blocks that follow `parent` in a prompt, or begin one, of a session if it is told.

    `group` is whose layers they are of; `whole`: whether these attend to all that is before, None
    where that is not told.
    """

    blocks: list[Hash]
    parent: Hash | None
    block_tokens: int
    tier: Tier
    session: str | None
    group: int = 0
    whole: bool | None = None


class Removed(msgspec.Struct):
    """Blocks that are no longer there."""

    blocks: list[Hash]
    tier: Tier
    group: int = 0


class Copied(msgspec.Struct):
    """Blocks that are in this tier, too; whose they are, and of what size, was told before."""

    blocks: list[Hash]
    tier: Tier
    group: int = 0


class Cleared(msgspec.Struct):
    """All of them."""


class PassedOver(msgspec.Struct):
    """An event that may count, and of a kind that nobody knows here; says which."""

    why: str


class Unreadable(msgspec.Struct):
    """An event, and nobody knows which; says what is wrong with it."""

    why: str


Event = Stored | Copied | Removed | Cleared | PassedOver | Unreadable


def read_batch(payload: bytes) -> Iterator[Event]:
    """The events of a message, one by one.

    Those that go on from the one before are one with it: SGLang tells of each page by itself.

    Raises:
        WireError: if it is none, so that not even its events can be told from each other.
    """
    if len(payload) > MOST_BYTES:
        raise WireError(f"{len(payload)} bytes are more than {MOST_BYTES}")
    return map(_event, _joined(_structs(payload)))


def _joined(structs: Iterable[Any]) -> Iterator[Any]:
    before: Any = None
    for one in structs:
        if before is not None:
            if _goes_on(before, one):
                before.block_hashes += one.block_hashes
                continue
            yield before
            before = None
        if isinstance(one, _BLOCKS):
            before = one
        else:
            yield one
    if before is not None:
        yield before


def _goes_on(before: Any, one: Any) -> bool:  # noqa: ANN401
    blocks = before.block_hashes
    if one.__class__ is not before.__class__ or not 0 < len(blocks) < MOST_JOINED:
        return False
    if one.medium != before.medium or one.group_idx != before.group_idx:
        return False
    if isinstance(one, (_Removed, _RemovedRow)):
        return True
    return bool(
        one.parent_block_hash == blocks[-1]
        and one.session_id == before.session_id
        and one.block_size == before.block_size
        and one.kv_cache_spec_kind == before.kv_cache_spec_kind
    )


def _structs(payload: bytes) -> Iterator[Any]:
    """All at once, if there are few, and none is of a form that only few publishers send."""
    try:
        if len(payload) <= AT_ONCE_BYTES:
            with suppress(msgspec.DecodeError):
                return iter(_MAPS.decode(payload).events)
        return map(_read_one, _ANY.decode(payload).events)
    except _UNREADABLE as error:
        raise WireError(f"not a batch of events: {_short(error)}") from error


def _short(error: Exception) -> str:
    return str(error)[:200]


_SHORT = 40  # of a name that is told, so much


def _read_one(raw: msgspec.Raw) -> Any:  # noqa: ANN401
    as_row = bytes(memoryview(raw)[:1]) in _ARRAYS
    try:
        kind = _TYPES[as_row].decode(raw).type
        if kind not in _KNOWN:
            return PassedOver(f"an event of type {kind[:_SHORT]!r} is not known")
        return (_ROW if as_row else _MAP).decode(raw)
    except _UNREADABLE as error:
        return Unreadable(f"not an event: {_short(error)}")


# First bytes of msgpack's arrays.
_ARRAYS = frozenset(bytes([b]) for b in (*range(0x90, 0xA0), 0xDC, 0xDD))


def _event(one: Any) -> Event:  # noqa: ANN401
    if isinstance(one, (_Cleared, _ClearedRow)):
        return Cleared()
    if isinstance(one, (Unreadable, PassedOver)):
        return one
    tier, group = _TIERS.get((one.medium or "").upper()), one.group_idx or 0
    if tier is None:
        return PassedOver(f"a medium {one.medium[:_SHORT]!r} is not known")
    if isinstance(one, (_Removed, _RemovedRow)):
        return Removed(one.block_hashes, tier, group)
    return _stored(one, tier, group)


def _stored(one: _Stored | _StoredRow, tier: Tier, group: int) -> Stored | Copied | Unreadable:
    if not one.block_size and one.parent_block_hash is None and tier is not Tier.GPU:
        return Copied(one.block_hashes, tier, group)  # vLLM's offloading, unless it describes them
    if not 1 <= one.block_size <= MOST_BLOCK_TOKENS:
        return Unreadable(f"block_size: {one.block_size} is not from 1 to {MOST_BLOCK_TOKENS}")
    kind = one.kv_cache_spec_kind
    whole = None if kind is None else kind in _WHOLE_ATTENTION
    hashes, parent = one.block_hashes, one.parent_block_hash
    return Stored(hashes, parent, one.block_size, tier, one.session_id, group, whole)


def numbers(hashes: Iterable[Hash]) -> list[int]:
    """Their last bits; of bytes those of Python's own hash, another one in each process, and fast.

    Of integers that hash is no name: it is the same of -1 and -2, and of 0 and 2^61 - 1.
    """
    return [(one if one.__class__ is int else hash(one)) & _HASH_MASK for one in hashes]


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine pushes of its load (SGLang): requests, tokens, and prefills since its start.

    `uncached_s` is how long it has prefilled `uncached` tokens.
    """

    running: int
    waiting: int
    kv_used: int
    kv_tokens: int
    slots: int
    uncached: int
    uncached_s: float


class _LoadRow(msgspec.Struct, array_like=True, tag="LoadStat", gc=False):
    """What may follow in later versions is passed over."""

    running: _Number
    waiting: _Number
    kv_used: _Number
    kv_tokens: _Number
    rank: _Number
    waiting_uncached: _Number
    tokens: _Number
    slots: _Number
    uncached: _Number
    busy_us: _Number


_LOAD = msgspec.msgpack.Decoder(_LoadRow)


def read_load(payload: bytes) -> Load:
    """What an engine has pushed of its load.

    Raises:
        WireError: if it is something else, or no engine's numbers.
    """
    try:
        row = _LOAD.decode(payload)
    except _UNREADABLE as error:
        raise WireError(f"not an engine's load: {_short(error)}") from error
    return Load(
        row.running,
        row.waiting,
        row.kv_used,
        row.kv_tokens,
        row.slots,
        row.uncached,
        row.busy_us / 1e6,
    )


def replay_request(start: int) -> list[bytes]:
    """Asks a publisher for what it has from message `start` on, by a DEALER."""
    return [b"", start.to_bytes(8)]


def read_message(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Number and events of a message, live or replayed, with or without its topic.

    Raises:
        WireError: if it is none.
    """
    if not 2 <= len(frames) <= MOST_FRAMES or len(frames[-2]) != 8:
        raise WireError(f"{len(frames)} frames are not a topic, a number of 8 bytes and events")
    return int.from_bytes(frames[-2]), frames[-1]


def session_name(client: str, attempt: str, prompt: Beginnings) -> str:
    """What a request is called as a session: by its client, its attempt, and its prompt's marks."""
    marks = urlsafe_b64encode(prompt.marks).decode()
    return f"{client}|{attempt}|{prompt.block_tokens:.2f}|{marks}"


def apart_from_names(session: bytes) -> bytes:
    """A client's session as engines hear of it: no request's name, alone or after another's."""
    return session.replace(b"|", b"/")


def may_be_name(session: str) -> bool:
    """Whether a session could be read as a request's name, whoever has made it up."""
    return session.count("|") >= 3


def read_session(name: str) -> Beginnings | None:
    """The prompt that a request named so has; None if no gateway has named it."""
    return _read_session(name[-_LONGEST_NAME:])


@lru_cache(2048)  # a request's name comes with each of its blocks
def _read_session(name: str) -> Beginnings | None:
    parts = name.rsplit("|", 3)
    if len(parts) != 4:
        return None
    try:
        tokens, marks = float(parts[2]), urlsafe_b64decode(parts[3])
    except ValueError:
        return None
    count, rest = divmod(len(marks), NAME_BYTES)
    if not 1 <= tokens <= _MOST_TEXT_TOKENS or rest or not 1 <= count <= len(MARKS):
        return None
    return Beginnings(marks, tokens, tail_of(parts[1]))


def tail_of(attempt: str) -> int:
    """How what is behind the last mark of an attempt's prompt is called; no mark is called so."""
    digest = blake2b(attempt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) | 1 << 64


def wants_full_report(body: Any) -> bool:  # noqa: ANN401
    """Whether a request asks that blocks be told that were in the cache before, too."""
    xargs = body.get(XARGS)
    return isinstance(xargs, dict) and xargs.get(REPORT_MODE) == FULL


def write_batch(ts: float, events: list[dict[str, Any]]) -> bytes:
    """A message's events, of the first rank."""
    return msgspec.msgpack.encode([ts, events, 0])


def event_of(
    change: Kept | Gone, block_tokens: int, session: str | None, *, full: bool
) -> dict[str, Any] | None:
    """What has become of a cache's blocks, as vLLM tells it; None: nothing new.

    There are no token ids to tell in an engine that has no tokenizer.
    """
    if isinstance(change, Gone):
        return {"type": "BlockRemoved", "block_hashes": change.blocks, "medium": "GPU"}
    begin = 0 if full else change.reused
    if begin == len(change.blocks):
        return None
    return {
        "type": "BlockStored",
        "block_hashes": change.blocks[begin:],
        "parent_block_hash": change.blocks[begin - 1] if begin else None,
        "token_ids": (),
        "block_size": block_tokens,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "group_idx": 0,
        "session_id": session,
    }
