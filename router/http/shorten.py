"""Large JSON made small before it is read, in slices: no body holds up the event loop.

Building Python's objects of 32 MiB of JSON takes up to a second, and of many small ones more. So of
a large body the beginning is kept, and of what follows only the first bytes of each string and of
each list of numbers; how much was left out is counted. That is still JSON, with the same structure,
and small. What has too much structure to be that is refused. Two strings that are no text, images
say, stay different: a checksum of what was left out ends them.

What a request is routed by is not cut (`_NAMES`), up to a length that no name has.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router.http.errors import RequestError
from router.http.json_slices import Marks, look, slices

# Smaller ones are read as they are, whatever is in them, in some milliseconds.
SMALL = 64 << 10
# Bytes that are kept of the beginning: as much of a prompt as is looked for in prefix caches.
KEPT = 256 << 10
# Bytes that are kept of each string or list of numbers after that.
STUB = 64
# Bytes that are kept of the outermost object's names: all of those that are looked at.
NAME_STUB = 8 << 10
# Quotes, and each brace or bracket as as many of them: what makes objects takes time and memory.
MOST_UNITS, BRACE_UNITS = 320_000, 6

_SPACE = b" \t\r\n"
# The longest escape, which may be the first half of a pair.
_ESCAPE = 12
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
# The key of the string or list that begins at the end.
_KEY = re.compile(rb'"(\w{1,32})"\s{0,32}:\s{0,32}["\[]$')
_TEXT = frozenset(
    (b"content", b"text", b"prompt", b"input", b"instructions", b"system", b"output", b"arguments")
)
_NAMES = frozenset((b"model", b"previous_response_id", b"prompt_cache_key", b"service_tier"))


@dataclass(frozen=True, slots=True)
class Shortened:
    """A small body of the same structure; text and token ids that were left out of prompts."""

    body: bytes
    text_bytes: int = 0
    token_ids: int = 0


async def shorten(body: bytes) -> Shortened:
    """A body as small as can be read at once.

    Raises:
        RequestError: 413 if it has too much structure for that.
    """
    made = _Shortener()
    for part in slices(body):
        made.feed(part)
        await asyncio.sleep(0)
    return Shortened(bytes(made.out), made.text_bytes, made.token_ids)


class _Shortener:
    """Fed with slices that end between escapes.

    A *run* is what stands between two quotes, braces or brackets: a string, or numbers and commas.
    """

    def __init__(self) -> None:
        self.out = bytearray()
        self.text_bytes = self.token_ids = 0
        self._units = 0
        self._whole = True  # so far
        self._inside, self._depth = False, 0  # a string; of objects and arrays
        # Of the run that has not ended yet: its bytes; those in `out`, but for spaces; whether it
        # is cut, and then whether it is of a prompt; whether what it ends with so far is a comma.
        self._run = self._kept = 0
        self._is_cut = self._counts = self._comma = False
        self._begin = 0  # where in `out` it begins
        self._left = 0  # the checksum of what was left out of it

    def feed(self, part: bytes) -> None:
        """One more slice."""
        seen = look(part, inside=self._inside, depth=self._depth)
        self._units += int(seen.quotes.sum()) + BRACE_UNITS * int(seen.braces.sum())
        if self._units > MOST_UNITS:
            raise RequestError(
                "The request's body has too many strings, arrays or objects to be routed: "
                f"{MOST_UNITS // 2} strings, or {MOST_UNITS // BRACE_UNITS // 2} of the others, "
                "are the most.",
                code="request_too_large",
                status=413,
            )
        marks, string = np.flatnonzero(seen.quotes | seen.braces), bool(seen.inside[-1])
        self._whole = self._whole and len(self.out) + len(part) <= KEPT
        if self._whole:
            self.out += part
            self._go_on(part, marks, string=string)
        else:
            self._cut(part, marks, seen)
        self._inside, self._depth = string, int(seen.depth[-1])

    def _go_on(self, part: bytes, marks: NDArray[np.intp], *, string: bool) -> None:
        """The last run of a slice may go on in the next; it is in `out`."""
        run = part[int(marks[-1]) + 1 :] if len(marks) else part
        if len(marks):
            self._begin = len(self.out) - len(run)
            self._run = self._kept = 0
            self._is_cut = self._comma = False
        self._run += len(run)
        self._kept += len(run if string else run.translate(None, _SPACE))
        self._see_comma(run)

    def _see_comma(self, run: bytes) -> None:
        end = run[-STUB:].rstrip(_SPACE) or run.rstrip(_SPACE)
        self._comma = end.endswith(b",") if end else self._comma

    def _cut(self, part: bytes, marks: NDArray[np.intp], seen: Marks) -> None:
        starts = np.concatenate(([0], marks + 1))
        ends = np.concatenate((marks, [len(part)]))
        lengths = ends - starts
        lengths[0] += self._run
        long = np.flatnonzero(lengths > STUB).tolist()
        position = 0
        for k in long:
            start, end = int(starts[k]), int(ends[k])
            self.out += part[position:start]
            if k:
                self._begin, self._kept = len(self.out), 0
                self._is_cut = self._comma = False
            string = bool(seen.inside[marks[k - 1]]) if k else self._inside
            outermost = (int(seen.depth[marks[k - 1]]) if k else self._depth) == 1
            self._stub(part[start:end], string=string, named=outermost, ends=k < len(marks))
            position = end
        self.out += part[position:]
        if long and long[-1] == len(marks):
            self._run = int(lengths[-1])
        else:
            self._go_on(part, marks, string=bool(seen.inside[-1]))

    def _stub(self, run: bytes, *, string: bool, named: bool, ends: bool) -> None:
        """Keep the first bytes of a run, or of its rest; whether it `ends` here.

        `named`: it is the outermost object's.
        """
        if not string:
            self._see_comma(run)
            run = run.translate(None, _SPACE)
        if not self._is_cut:
            begin = self._begin
            key = _KEY.search(self.out, max(0, begin - 100), begin)
            kept_whole = string and named and key is not None and key[1] in _NAMES
            room = max(0, (NAME_STUB if kept_whole else STUB) - self._kept)
            self.out += run[:room]
            self._kept += len(run[:room])
            if len(run) <= room:
                return
            run = run[room:]
            self._is_cut, self._counts = True, key is None or key[1] in _TEXT
            self._left = 0
            if string:
                self._trim_string(begin)
            else:
                run = self._trim_numbers(begin) + run
        if self._counts and string:
            self.text_bytes += len(run)
        elif self._counts:
            self.token_ids += run.count(b",")
        elif string:
            self._left = crc32(run, self._left)
            if ends:
                self.out += b"%08x" % self._left
        if ends and not string and self._comma:
            self.out += b","

    def _trim_string(self, begin: int) -> None:
        """No half of an escape or of a character is left in the run that begins at `begin`."""
        out = self.out
        escape = out.find(b"\\", max(begin, len(out) - _ESCAPE))
        if escape >= 0:
            del out[escape:]
            if _HALF_PAIR.search(out, max(begin, len(out) - 6)):
                del out[-6:]
            del out[len(out.rstrip(b"\\")) :]
        while out[-1] & 0xC0 == 0x80:
            del out[-1]
        if out[-1] >= 0xC0:
            del out[-1]

    def _trim_numbers(self, begin: int) -> bytes:
        """Take away the last number, which may be half of one, and the comma before it."""
        comma = self.out.rfind(b",", begin)
        if comma < 0:
            return b""
        taken = bytes(self.out[comma:])
        del self.out[comma:]
        return taken
