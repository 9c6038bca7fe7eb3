"""Large JSON in slices: where its strings begin and end, and how deep it is there.

Whether a byte is inside a string is told of a whole slice at once: no byte costs a step of Python,
and between slices others get their turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A slice takes about a millisecond.
SLICE = 64 << 10


class Marks(NamedTuple):
    """Of each byte of a slice, whether it is a quote, in a string, a brace or bracket; how deep.

    A quote that opens a string is inside it, the one that closes it is not.
    """

    quotes: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    braces: NDArray[np.bool_]
    depth: NDArray[np.int32]


def slices(body: bytes) -> Iterator[bytes]:
    """All of it, cut between escapes."""
    start = 0
    while start < len(body):
        end = start + SLICE
        part = body[start:end]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:  # an escape begins with its last byte
            end += 1
            part = body[start:end]
        yield part
        start = end


def look(part: bytes, *, inside: bool = False, depth: int = 0) -> Marks:
    """A slice that begins inside a string, or not, and so deep."""
    seen = np.frombuffer(part.replace(b"\\\\", b"__").replace(b'\\"', b"__"), dtype=np.uint8)
    quotes = seen == ord('"')
    within = np.bitwise_xor.accumulate(quotes) ^ inside
    opens, closes = (seen | 0x20) == ord("{"), (seen | 0x20) == ord("}")
    opens &= ~within
    closes &= ~within
    steps = opens.astype(np.int8) - closes.astype(np.int8)
    return Marks(quotes, within, opens | closes, depth + np.cumsum(steps, dtype=np.int32))
