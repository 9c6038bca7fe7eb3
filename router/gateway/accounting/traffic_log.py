"""The traffic log: a JSON line for each request that has ended, without a word of it.

Rules:
- a line has what `makespan simulate` and `replay` take, by their names, and how the request ended:
  lengths, times, tenant, and hashes of its prompt's blocks of `BLOCKS` of the gateway's own, which
  tell prompts apart and nothing of them;
- lines are gathered and written every `WRITE_S` by a thread: no request waits for a disk. What
  cannot be written, or would wait beyond `MOST_WAITING_BYTES` for a disk that hangs, is dropped,
  counted, and one line of the log;
- processes of one gateway write to one file, under its lock. Once it would have more than its bytes
  it goes on as FILE.1, that before as FILE.2, up to `KEPT` of them.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import orjson

from router.gateway.explanations.request_record import RequestRecord
from router.observe.metrics import GatewayMetrics
from solver.batching.kv import BLOCK_TOKENS as TRACE_BLOCK_TOKENS
from solver.routing.prefixes import BLOCK_TOKENS

log = logging.getLogger(__name__)

WRITE_S = 1.0  # what a killed process loses
KEPT = 4
# Some ten thousands of lines: a minute of a thousand requests a second.
MOST_WAITING_BYTES = 1 << 25
# A trace's blocks have so many of the gateway's: as each hash tells of all before it, the last.
BLOCKS = TRACE_BLOCK_TOKENS // BLOCK_TOKENS


class TrafficLog:
    """See the module; to `path`, in files of at most so many bytes."""

    def __init__(self, path: Path, most_bytes: int, metrics: GatewayMetrics) -> None:
        self._path, self._most_bytes, self._metrics = path, most_bytes, metrics
        self._lines: list[bytes] = []
        self._waiting_bytes = 0  # of lines, and of those that are being written
        self._complaint = ""

    def note(
        self,
        record: RequestRecord,
        blocks: Sequence[int] = (),
        made: int | None = None,
        path: str | None = None,
    ) -> None:
        """A request has ended; `made` output tokens, if it broke off.

        `path`: what it was for, if it was relayed as it is.
        """
        row = _row(record, blocks, made, path)
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        if self._waiting_bytes + len(line) > MOST_WAITING_BYTES:
            self._drop(1, "too much waits for the disk")
            return
        self._waiting_bytes += len(line)
        self._lines.append(line)

    async def run(self) -> None:
        """Write what there is now and then, until cancelled; then what is left."""
        try:
            while True:
                await asyncio.sleep(WRITE_S)
                written = await asyncio.to_thread(self.write)
                self._waiting_bytes -= written  # of what it has become meanwhile
        finally:
            self.write()

    def write(self) -> int:
        """All that has been noted; the bytes that wait no longer."""
        lines, self._lines = self._lines, []
        data = b"".join(lines)
        if not data:
            return 0
        try:
            self._append(data)
            self._complaint = ""
        except OSError as error:
            self._drop(len(lines), str(error))
        return len(data)

    def _drop(self, lines: int, why: str) -> None:
        self._metrics.traffic_log_dropped.inc(lines)
        if why != self._complaint:
            self._complaint = why
            told = {"lines": lines, "why": why}
            log.error("the traffic log cannot be written; what it misses is lost", extra=told)

    def _append(self, data: bytes) -> None:
        while True:
            with self._path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(file.fileno()).st_size
                if not self._is_current(file.fileno()):
                    continue  # another process has begun a new one meanwhile
                if size and size + len(data) > self._most_bytes:
                    self._rotate()
                    continue
                file.write(data)
                return

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _row(
    record: RequestRecord, blocks: Sequence[int], made: int | None, path: str | None
) -> dict[str, Any]:
    """Seconds after its arrival are given as such; targets by the names that traces have."""
    begun, ended, targets = record.first_token_s, record.ended_s, record.targets
    prompt = record.used_prompt_tokens or record.prompt_tokens
    return {
        "arrival_s": record.received_s,
        "request": record.id,
        "model": record.model,
        "tenant": record.tenant,
        "path": path,
        "priority": record.priority,
        "prompt_tokens": prompt,
        "output_tokens": made if record.output_tokens is None else record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "choices": record.choices,
        "stream": record.stream,
        "hash_ids": blocks[BLOCKS - 1 :: BLOCKS],
        "deadline_s": record.deadline_s,
        "ttft_s": None if targets.ttft_s == inf else targets.ttft_s,
        "tpot_s": None if targets.tpot_s == inf else targets.tpot_s,
        "outcome": record.outcome,
        "status": record.status,
        "worker": record.worker,
        "begun_after_s": None if begun is None else begun - record.received_s,
        "ended_after_s": None if ended is None else ended - record.received_s,
    }
