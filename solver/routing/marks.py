"""A prompt as far as engines' caches go: names of its beginnings, of which two prompts share some.

An engine names blocks of its cache by token ids that a router without a tokenizer does not know.
So a router names beginnings of a prompt's text, and engines tell by these whose blocks they have.

Rules:
- a prompt is looked at at its *marks*: after each eighth token of its first 1,024 (by its bytes),
  and then after every 16th, 32nd and so on: who parts between two of them is missed by less than
  a 64th of what is before;
- a mark's name stands for all text before it; that at the end of a router's block is the block's
  own hash, so that nobody can make up a prompt that is taken for another for longer than a block;
- where prompts part, how many of the engine's blocks they share is no guess (`Partings`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import byteorder
from zlib import crc32

from solver.routing.prefixes import ID_BLOCK_BYTES, MOST_BLOCKS, TEXT_BYTES, chain, text_data

# Marks in a router's block, at the finest.
PARTS = 16
# Bytes of a mark's name. Two prompts are told apart by many of them; one alone is the same by
# chance once in 10^7 times, and then a mark's distance is taken to be shared.
NAME_BYTES = 3
# Prompts that are remembered to part somewhere, the latest ones: some 200 bytes each.
MOST_PARTINGS = 1 << 14


def _steps() -> list[int]:
    """How far apart marks are within each block, in the finest distance; more than a block's."""
    steps, step = [1] * 8, 2
    while len(steps) < MOST_BLOCKS:
        steps += [step] * len(steps)
        step *= 2
    return steps


_STEPS = _steps()
# Where marks are, in a router's blocks; 576 in the longest prompt.
MARKS = tuple(
    unit / PARTS
    for block, step in enumerate(_STEPS)
    for unit in range(block * PARTS + 1, (block + 1) * PARTS + 1)
    if unit % step == 0
)


class Hashed:
    """A prompt's blocks by their hashes, and the names of its marks; of a short one only these.

    Both are worked out when somebody asks: only workers that cache prompts need the hashes, and
    only engines that tell of their caches the names.
    """

    __slots__ = ("_blocks", "_made_of", "_marks")

    def __init__(self, prompt: str | bytes = "", salt: str = "") -> None:
        self._made_of = prompt, salt  # as its request has it: no copy
        self._blocks: tuple[int, ...] | None = None
        self._marks: bytes | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """The hashes of its blocks."""
        if self._blocks is None:
            prompt, salt = self._made_of
            self._blocks = chain(*_data(prompt), salt)
        return self._blocks

    @property
    def marks(self) -> bytes:
        """The names of its marks, one after the other."""
        if self._marks is None:
            prompt, salt = self._made_of
            self._marks = _names_of(*_data(prompt), self.blocks, salt)
        return self._marks


def hash_text(text: str, salt: str = "") -> Hashed:
    """A prompt of text; prompts of different `salt` share nothing."""
    return Hashed(text, salt)


def hash_ids(ids: bytes, salt: str = "") -> Hashed:
    """A prompt of token ids, four bytes each."""
    return Hashed(ids, salt)


def _data(prompt: str | bytes) -> tuple[bytes, int]:
    """What of a prompt is looked at, and bytes of it in a block."""
    if isinstance(prompt, str):
        return text_data(prompt), TEXT_BYTES
    return prompt, ID_BLOCK_BYTES


def _names_of(data: bytes, block_bytes: int, blocks: Sequence[int], salt: str) -> bytes:
    """The names of a prompt's marks, one after the other, from its bytes and its blocks' hashes."""
    size, last = block_bytes // PARTS, crc32(salt.encode("utf-8", "surrogatepass"))
    found, end = list[int](), len(data) - len(data) % size
    for k, step in enumerate(_STEPS[: len(blocks) + 1]):
        if step < PARTS:
            start, width = k * block_bytes, step * size
            for at in range(start, min(start + block_bytes - width, end - width + 1), width):
                last = crc32(data[at : at + width], last)
                found.append(last)
        if k < len(blocks):
            last = blocks[k] >> 32
            if not (k + 1) * PARTS % step:
                found.append(last)
    return _names(found)


def _names(numbers: list[int]) -> bytes:
    """The last bytes of each, of 32 bits."""
    names = array("I", numbers)
    if byteorder == "little":
        names.byteswap()
    found = bytearray(names.tobytes())
    del found[:: names.itemsize]
    return bytes(found)


NO_PROMPT = Hashed()  # that a cache could have


def common_marks(one: bytes, other: bytes, start: int = 0) -> int:
    """How many marks, from the first on, `one` shares with `other` from its byte `start` on."""
    size = min(len(one), len(other) - start)
    apart = int.from_bytes(one[:size]) ^ int.from_bytes(other[start : start + size])
    return (size - (apart.bit_length() + 7) // 8) // NAME_BYTES


class Beginnings:
    """A prompt, as far as caches go: its marks' names, and tokens in each of a router's blocks.

    `tail` names what is behind its last mark, its answer too.
    """

    __slots__ = ("block_tokens", "marks", "tail")

    def __init__(self, marks: bytes, block_tokens: float, tail: int = 0) -> None:
        self.marks, self.block_tokens, self.tail = marks, block_tokens, tail


class Partings:
    """How many of an engine's blocks prompts share that part behind a mark, where two have shown.

    That is the text's and its tokenizer's: it holds for all engines, and longer than any keeps it.
    """

    def __init__(self, most: int = MOST_PARTINGS) -> None:
        self._most = most
        self._known: dict[tuple[int, int, bytes], int] = {}

    def learn(self, marks: bytes, block_tokens: int, shared: int) -> None:
        """Prompts that begin with these marks, and part then, share so many blocks."""
        key = _key(marks, block_tokens)
        self._known.pop(key, None)
        self._known[key] = shared
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def shared(self, marks: bytes, block_tokens: int) -> int | None:
        """As was learnt; None if it was not."""
        return self._known.get(_key(marks, block_tokens))


def _key(marks: bytes, block_tokens: int) -> tuple[int, int, bytes]:
    """The last names are as good as all."""
    return block_tokens, len(marks), marks[-3 * NAME_BYTES :]
