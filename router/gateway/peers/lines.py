"""What gateways tell each other: JSON lines, answers to ``POST SENDS_PATH`` as long as both live.

Rules:
- the first line names the gateway, so that nobody listens to itself, or twice to one;
- then, and whenever lines were lost, comes `Anew`: what was told before holds no more, and all that
  holds is told again behind it;
- a prompt that is sent to a worker is told once, when it is sent (`Sent`), when its first token has
  come (`Begun`), and when it has left, however (`Left`); of prompts only names are told: hashes of
  their blocks and marks (`solver.routing.marks`), and how long they are;
- what a gateway has at a worker that tells nothing of it by itself is told whole, whenever that
  changes (`Held`): a lost line is made good by the next; so is what waits for room (`Waiting`);
- workers are called by their URLs, and ranks: whoever calls one otherwise does not hear of it;
- a line of a kind that is not known is of a newer gateway, and is passed over;
- at the latest after `router.wire.HEARTBEAT_S` comes an empty line. Who says nothing for
  `router.wire.STATE_TIMEOUT_S` is gone, and has nothing anywhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import byteorder
from typing import Annotated

import msgspec
from msgspec import Meta

from router.wire import LONGEST_NAME, MOST_CONTEXT, MOST_SLOTS, MOST_TOKENS, WireError
from solver.routing.marks import MARKS, NAME_BYTES
from solver.routing.prefixes import MOST_BLOCKS
from solver.routing.sums import Backlog, LoadSums

SENDS_PATH = "/makespan/v1/sends"
_BLOCK_BYTES = 8
# A prompt's names at most, as base64, and what is beside them.
LONGEST_LINE = (len(MARKS) * NAME_BYTES + MOST_BLOCKS * _BLOCK_BYTES) * 4 // 3 + 4 * LONGEST_NAME

_Number = Annotated[int, Meta(ge=0, le=1 << 62)]
_Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
_Count = Annotated[int, Meta(ge=0, le=MOST_SLOTS)]
_Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
_Amount = Annotated[float, Meta(ge=0, le=MOST_TOKENS)]
_Names = Annotated[bytes, Meta(max_length=len(MARKS) * NAME_BYTES)]
_Blocks = Annotated[bytes, Meta(max_length=MOST_BLOCKS * _BLOCK_BYTES)]


class Line(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An array, its kind first; more elements at its end are a newer gateway's."""


class Gateway(Line, frozen=True, tag="gateway"):
    """Who tells."""

    name: _Name


class Anew(Line, frozen=True, tag="anew"):
    """So many lines were lost, and what follows is all."""

    lost: _Number


class Sent(Line, frozen=True, tag="sent"):
    """A prompt is on its way to a worker.

    Attributes:
        number: its own, as long as it is there.
        place: its worker.
        prompt_tokens: of all its `sequences`, as `block_tokens` are in each of its blocks.
        marks, blocks: their names.
    """

    number: _Number
    place: _Name
    prompt_tokens: Annotated[int, Meta(ge=1, le=MOST_CONTEXT)]
    sequences: Annotated[int, Meta(ge=1, le=MOST_SLOTS)]
    block_tokens: Annotated[float, Meta(ge=0, le=MOST_CONTEXT)]
    marks: _Names
    blocks: _Blocks


class Begun(Line, frozen=True, tag="begun"):
    """The first token of one that was sent has come."""

    number: _Number


class Left(Line, frozen=True, tag="left"):
    """One that was sent has left its worker; tokens `made` of it, if that is known and it is whole.

    Who was taken in before another, and made no more, has left the engine before it.
    """

    number: _Number
    made: _Tokens = 0


class Held(Line, frozen=True, tag="held"):
    """What a gateway has in flight at a worker: see `LoadSums`."""

    place: _Name
    sequences: _Count
    prefills: _Count
    prompt_tokens: _Tokens
    output_tokens: _Amount
    kv_tokens: _Amount
    kv_reserved: _Amount
    bulk: _Count
    paced: _Count

    @property
    def sums(self) -> LoadSums:
        """The same, as a load has them."""
        return LoadSums(
            self.sequences,
            self.prefills,
            self.prompt_tokens,
            self.output_tokens,
            self.kv_tokens,
            self.kv_reserved,
            self.bulk,
            self.paced,
        )


class Waiting(Line, frozen=True, tag="waiting"):
    """What waits in a gateway for room: see `Backlog`."""

    requests: Annotated[int, Meta(ge=0, le=MOST_CONTEXT)]
    prompt_tokens: _Amount
    output_tokens: _Amount

    @property
    def backlog(self) -> Backlog:
        """The same, as plans have it."""
        return Backlog(self.requests, self.prompt_tokens, self.output_tokens)


_KINDS = Gateway | Anew | Sent | Begun | Left | Held | Waiting
_TAGS = frozenset(("gateway", "anew", "sent", "begun", "left", "held", "waiting"))
# A number may be too large for it, and arrays too deep.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(_KINDS)


def encode(line: Line) -> bytes:
    """One line."""
    return _encoder.encode(line) + b"\n"


def decode(text: bytes) -> _KINDS | None:
    """Read one; None: it is of a newer gateway.

    Raises:
        WireError: if it is none.
    """
    try:
        line = _decoder.decode(text)
    except _UNREADABLE as error:
        if _is_newer(text):
            return None
        raise WireError(f"not what a gateway tells ({error}): {text[:200]!r}") from error
    if isinstance(line, Sent) and (
        len(line.marks) % NAME_BYTES or len(line.blocks) % _BLOCK_BYTES or not _has_names(line)
    ):
        raise WireError(f"names of no prompt: {text[:200]!r}")
    return line


def _has_names(line: Sent) -> bool:
    return bool(line.marks or line.blocks)


def _is_newer(text: bytes) -> bool:
    try:
        kind, *_ = msgspec.json.decode(text, type=list[object])
    except _UNREADABLE:
        return False
    return isinstance(kind, str) and kind not in _TAGS


def pack_blocks(blocks: Sequence[int]) -> bytes:
    """Hashes of blocks, of 64 bits."""
    return _big_endian(array("Q", blocks)).tobytes()


def read_blocks(packed: bytes) -> tuple[int, ...]:
    """As they were packed."""
    return tuple(_big_endian(array("Q", packed)))


def _big_endian(numbers: array[int]) -> array[int]:
    if byteorder == "little":
        numbers.byteswap()
    return numbers
