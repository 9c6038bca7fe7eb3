"""What each process of a gateway has in flight at each worker, in memory that all of them share.

And what tenants have had of it, and which of them wait in it (`solver.routing.elsewhere`).

Rules:
- a process writes its own row alone, and reads the others'; nobody waits for anybody, and whoever
  reads in the midst of a change sees a figure that is a moment old;
- a process takes a row that nobody has, by a lock on its byte of the file, and keeps it as long as
  it lives; who ends wipes it, and of who is killed the supervisor does (`wipe`);
- a row names workers and tenants by hashes of their URLs and names, as processes may find them in
  different orders.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from router.gateway.siblings.layout import layout_of
from solver.routing.elsewhere import Elsewhere, Tenant
from solver.routing.fair import HALF_LIFE_S, MOST
from solver.routing.sums import NOTHING, Backlog, LoadSums

# Of a row: its process, how often its places have been given anew, how many are used, and what
# waits for room there; and of a place: its worker, and the sums of what is there.
_HEAD, _PLACE = struct.Struct("=qqqqdd"), struct.Struct("=Qqqqdddqq")
# Workers that a row has places for; of those beyond, the others hear nothing.
PLACES = 1024
# How many tenants a row tells of, as of when; and of each what it has had, its weight, and whether
# it waits.
_COUNT, _TENANT = struct.Struct("=qd"), struct.Struct("=Qddq")
_TENANTS = _HEAD.size + PLACES * _PLACE.size
MOST_TENANTS = MOST + 1  # the others have a name of their own
_ROW = _TENANTS + _COUNT.size + MOST_TENANTS * _TENANT.size
LAYOUT = layout_of(_HEAD, _PLACE, PLACES, _COUNT, _TENANT, MOST_TENANTS, meaning=1)


@lru_cache(maxsize=PLACES)
def _name(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest(), "little") or 1


def _fade(tenant: tuple[int, float, float, int], seconds: float, names: dict[int, str]) -> Tenant:
    """As it is so many seconds later; a name that nobody knows here is none that a header has."""
    name, had, weight, waits = tenant
    faded = had * 2.0 ** (-max(0.0, seconds) / HALF_LIFE_S)
    return Tenant(names.get(name, f"\n{name}"), faded, weight, bool(waits))


class _Row:
    """Another process's."""

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self._memory, self._at = memory, number * _ROW
        self._known: tuple[int, int, int] | None = None
        self._places: dict[int, int] = {}

    @property
    def waiting(self) -> Backlog:
        """What waits for room there."""
        pid, _, _, *waiting = _HEAD.unpack_from(self._memory, self._at)
        return Backlog(*waiting) if pid else Backlog()

    def tenants(self, names: dict[int, str], now: float) -> list[Tenant]:
        """What it tells of tenants."""
        pid, *_ = _HEAD.unpack_from(self._memory, self._at)
        if not pid:
            return []
        at = self._at + _TENANTS
        count, as_of_s = _COUNT.unpack_from(self._memory, at)
        end = at + _COUNT.size + min(count, MOST_TENANTS) * _TENANT.size
        found = _TENANT.iter_unpack(self._memory[at + _COUNT.size : end])
        return [_fade(one, now - as_of_s, names) for one in found]

    def sums(self, worker: int) -> LoadSums:
        """What it has in flight there."""
        pid, given, used, *_ = _HEAD.unpack_from(self._memory, self._at)
        if not pid:
            return NOTHING
        if (pid, given, used) != self._known:
            self._known = pid, given, used
            self._places = {}
            for place in range(min(used, PLACES)):
                at = self._at + _HEAD.size + place * _PLACE.size
                self._places[_PLACE.unpack_from(self._memory, at)[0]] = at
        at = self._places.get(worker, 0)
        if not at:
            return NOTHING
        name, *figures = _PLACE.unpack_from(self._memory, at)
        return LoadSums(*figures) if name == worker and figures[0] > 0 else NOTHING


class Board:
    """This process's view of the board; see the module. `rows`: at least one for each process."""

    def __init__(self, path: Path, rows: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, rows * _ROW)
        self._memory = mmap.mmap(self._file, rows * _ROW)
        self._mine = next(row for row in range(rows) if self._take(row))
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._given = self._used = 0
        self.wait(Backlog())
        self.tell_tenants((), 0.0)
        self._others = [_Row(self._memory, row) for row in range(rows) if row != self._mine]

    def _take(self, row: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
        except OSError:
            return False
        return True

    def tell(self, url: str, own: LoadSums) -> None:
        """This process has this in flight at a worker."""
        place = self._places.get(url)
        new = place is None
        if place is None:
            if own == NOTHING or (not self._free and self._used == PLACES):
                return
            place = self._free.pop() if self._free else self._used
            self._places[url] = place
            self._used = max(self._used, place + 1)
            self._given += 1
        figures = own.sequences, own.prefills, own.prompt_tokens
        tokens = own.output_tokens, own.kv_tokens, own.kv_reserved
        at = self._mine * _ROW + _HEAD.size + place * _PLACE.size
        yielding = own.bulk, own.paced
        _PLACE.pack_into(self._memory, at, _name(url), *figures, *tokens, *yielding)
        if new:
            self.wait(self._waiting)
        if own == NOTHING:  # the place may be another worker's next
            self._free.append(self._places.pop(url))

    def wait(self, backlog: Backlog) -> None:
        """What waits in this process for room."""
        self._waiting = backlog
        head = os.getpid(), self._given, self._used
        sums = backlog.requests, backlog.prompt_tokens, backlog.output_tokens
        _HEAD.pack_into(self._memory, self._mine * _ROW, *head, *sums)

    def tell_tenants(self, tenants: Sequence[Tenant], now: float) -> None:
        """What tenants have had of this process, and who waits in it."""
        told = tenants[:MOST_TENANTS]
        at = self._mine * _ROW + _TENANTS
        for k, one in enumerate(told):
            place = at + _COUNT.size + k * _TENANT.size
            row = _name(one.name), one.had, one.weight, one.waits
            _TENANT.pack_into(self._memory, place, *row)
        _COUNT.pack_into(self._memory, at, len(told), now)

    def tenants(self, known: Collection[str], now: float) -> Elsewhere:
        """What they have had of the others, and who waits there; by name those that are known."""
        names = {_name(name): name for name in known}
        return Elsewhere(row.tenants(names, now) for row in self._others)

    def held(self, url: str) -> LoadSums:
        """What the others have in flight at a worker, all together."""
        name, found = _name(url), NOTHING
        for row in self._others:
            found = found + row.sums(name)
        return found

    def wanting(self) -> int:
        """In how many others requests wait for room."""
        return sum(row.waiting.requests > 0 for row in self._others)

    def backlog(self) -> Backlog:
        """What waits in the others, all together."""
        return sum((row.waiting for row in self._others), Backlog())

    def content(self, url: str) -> int:
        """Sequences at a worker of those whose requests do not wait, in others' way there."""
        sums = [row.sums(_name(url)) for row in self._others if not row.waiting.requests]
        return sum(one.sequences - one.bulk - one.paced for one in sums)

    def close(self) -> None:
        """This process has nothing in flight any more; what it still tells, nobody hears."""
        _HEAD.pack_into(self._memory, self._mine * _ROW, 0, 0, 0, 0, 0.0, 0.0)
        self._memory = mmap.mmap(-1, len(self._memory))
        os.close(self._file)


def wipe(path: Path, pid: int) -> None:
    """The process is no more, and has nothing in flight.

    For the supervisor: whoever has a row loses it with the first of its files that it closes.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        for at in range(0, path.stat().st_size, _ROW):
            file.seek(at)
            if _HEAD.unpack(file.read(_HEAD.size))[0] == pid:
                file.seek(at)
                file.write(bytes(_HEAD.size))
