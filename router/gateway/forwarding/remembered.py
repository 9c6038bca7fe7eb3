"""A client's headers, which may come again, and what workers are sent of them."""

from __future__ import annotations

from router.http.errors import Headers
from router.http.reply import hop_by_hop
from router.kv_wire import SESSION, apart_from_names


class Remembered(list[tuple[bytes, bytes]]):
    """Headers that nobody changes."""

    __slots__ = ("_lines",)

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self._lines: dict[frozenset[bytes], bytes] = {}

    def lines(self, left_out: frozenset[bytes]) -> bytes:
        """Lines of all others that go on: a few sets of names are left out."""
        found = self._lines.get(left_out)
        if found is None:
            stay = left_out | hop_by_hop(self)
            found = self._lines[left_out] = b"".join(
                b"%b: %b\r\n" % (name, apart_from_names(value) if name == SESSION else value)
                for name, value in self
                if name not in stay
            )
        return found


def remembered(headers: Headers) -> Remembered:
    """The same headers, to be asked for lines of them."""
    return headers if isinstance(headers, Remembered) else Remembered(headers)
