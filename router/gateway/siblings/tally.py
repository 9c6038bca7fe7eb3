"""What keys have had of their minute, in memory that all processes of a gateway share.

Rules:
- a key has a place of its own, found by a hash of its name, and keeps it; what is there is what
  `solver.routing.quota` counts by, and no limit: each process knows those from the file of keys;
- whoever counts has the lock of the place for as long as that takes, some microseconds, or until it
  has a core again. Should the one who has it be stopped in the midst of that, the others go on
  without: a request too many is better than none;
- clocks are one, as the processes are on one machine (`time.monotonic`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from router.gateway.siblings.layout import layout_of
from solver.routing.quota import Quota

# Of a place: whose it is, and of its requests and its tokens what was missing, and when.
_PLACE = struct.Struct("=Qdddd")
# Most of the file is never written, and takes no memory then.
PLACES = 1 << 16
LAYOUT = layout_of(_PLACE, PLACES, meaning=1)
# For so long one looks at a lock before one goes on without: some turns of a busy core.
PATIENCE_S = 0.01


class Tally:
    """This process's view of it; see the module."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, PLACES * _PLACE.size)
        self._memory = mmap.mmap(self._file, PLACES * _PLACE.size)
        self._places: dict[str, int] = {}

    @contextmanager
    def counting(self, key: str, quota: Quota) -> Iterator[Quota]:
        """The quota as all have left it, and what becomes of it is for all."""
        place = self._place(key)
        with self._locked(place):
            self._read(place, quota)
            yield quota
            self._write(place, key, quota)

    def _read(self, place: int, quota: Quota) -> None:
        requests, tokens = quota.requests, quota.tokens
        name, *had = _PLACE.unpack_from(self._memory, place * _PLACE.size)
        if name:
            requests.taken, requests.at_s, tokens.taken, tokens.at_s = had

    def _write(self, place: int, key: str, quota: Quota) -> None:
        requests, tokens = quota.requests, quota.tokens
        had = requests.taken, requests.at_s, tokens.taken, tokens.at_s
        _PLACE.pack_into(self._memory, place * _PLACE.size, _name(key), *had)

    def _place(self, key: str) -> int:
        """The first from its own on that is its, or nobody's; others may ask at the same time."""
        place = self._places.get(key)
        if place is None:
            name = _name(key)
            own = name % PLACES
            places = (at % PLACES for at in range(own, own + PLACES))
            place = next((at for at in places if self._take(at, name)), own)
            self._places[key] = place
        return place

    def _take(self, place: int, name: int) -> bool:
        with self._locked(place):
            whose, *had = _PLACE.unpack_from(self._memory, place * _PLACE.size)
            if not whose:
                _PLACE.pack_into(self._memory, place * _PLACE.size, name, *had)
            return whose in (0, name)

    @contextmanager
    def _locked(self, place: int) -> Iterator[None]:
        locked = self._lock(place)
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _lock(self, place: int) -> bool:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(0)  # whoever has it may want this core
            else:
                return True


def _name(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") or 1
