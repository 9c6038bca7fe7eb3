"""Files of keys that are read again once they have changed, without a restart.

They are looked at every `LOOK_S`. What makes no sense, however it does not, changes nothing, and is
one line of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from router.settings.base import BadSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0  # a revoked key is of use for so long at most; looking costs next to nothing

T = TypeVar("T")


class Reread(Generic[T]):
    """`read` reads `paths`, `take` gets what was read and tells how many keys that are.

    To be made before they are read for the first time, so that no change is missed.
    """

    def __init__(
        self, paths: Sequence[Path], what: str, read: Callable[[], T], take: Callable[[T], int]
    ) -> None:
        self._paths, self._what, self._read, self._take = paths, what, read, take
        self._seen = self._stamps()
        self._complaint = ""

    async def run(self) -> None:
        """Read them again whenever one has changed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            stamps = await asyncio.to_thread(self._stamps)
            if stamps != self._seen:
                self._seen = stamps
                await self._again()

    async def _again(self) -> None:
        try:
            number = self._take(await asyncio.to_thread(self._read))
        except Exception as error:
            why = str(error) if isinstance(error, BadSettings) else repr(error)
            if why != self._complaint:
                self._complaint = why
                log.error("the %s stay as they were", self._what, extra={"why": why})
            return
        self._complaint = ""
        log.info("the %s have been read again", self._what, extra={"keys": number})

    def _stamps(self) -> list[tuple[int, ...]]:
        """By which files are told from those before; empty where there is none."""
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
