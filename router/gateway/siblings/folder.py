"""The folder by which the processes of one gateway know each other; their supervisor makes it.

For each process, by its id: a Unix socket on which it answers for itself alone, and the metrics
that it has last told anybody, so that no counter falls back when it ends. What has ended is added
up by the supervisor in one file, which begins with the ids of those that are in it: whoever reads
that file first counts nobody twice. What they share in memory, those do that lay it out alike
(`layout`): the processes of two versions, while one takes the other's place, do not read each
other's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2s
from pathlib import Path

from router.gateway.siblings import board, tally
from router.observe.merged import merge

_ENDED = "ended.metrics"


class Folder:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path, self._others = path, list[int]()

    @property
    def name(self) -> str:
        """What agents know the gateway by, all its processes together."""
        return blake2s(self.path.name.encode(), digest_size=6).hexdigest()

    def socket_of(self, pid: int) -> Path:
        """Where the process answers for itself."""
        return self.path / f"{pid}.sock"

    @property
    def board(self) -> Path:
        """The file of `router.gateway.siblings.board`."""
        return self.path / f"board-{board.LAYOUT}"

    @property
    def tally(self) -> Path:
        """The file of `router.gateway.siblings.tally`."""
        return self.path / f"tally-{tally.LAYOUT}"

    def others(self) -> list[int]:
        """The other processes that may answer; if nobody can look, those that did before."""
        with suppress(OSError):  # no more files may be open
            pids = {int(one.stem) for one in self.path.glob("*.sock")}
            self._others = sorted(pids - {os.getpid()})
        return self._others

    def keep(self, metrics: bytes) -> None:
        """What this process has last told."""
        self._replace(self._metrics_of(os.getpid()), metrics)

    def silent(self, answered: Iterable[int]) -> list[str]:
        """The last metrics of others that have not `answered`: they have ended, or are stuck."""
        ended = self._ended()
        known = set(map(int, ended.partition("\n")[0].split()[1:]))
        gone = known | {*answered, os.getpid()}
        texts = [ended]
        for one in self.path.glob("[0-9]*.metrics"):
            if int(one.stem) not in gone:
                with suppress(FileNotFoundError):  # it is in the next version of the sum
                    texts.append(one.read_text())
        return texts

    def fold(self, pid: int) -> None:
        """The process has ended: add its metrics to what has ended before. For the supervisor."""
        self.socket_of(pid).unlink(missing_ok=True)
        last, ended = self._metrics_of(pid), self._ended()
        if not last.exists():
            return
        pids = ended.partition("\n")[0].split()[1:]
        body = merge([], [ended, last.read_text()])
        self._replace(self.path / _ENDED, f"# {' '.join([*pids, str(pid)])}\n".encode() + body)
        last.unlink()

    def _metrics_of(self, pid: int) -> Path:
        return self.path / f"{pid}.metrics"

    def _ended(self) -> str:
        try:
            return (self.path / _ENDED).read_text()
        except FileNotFoundError:
            return "#\n"

    @staticmethod
    def _replace(path: Path, text: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(text)
        new.replace(path)
