"""An engine of several data-parallel ranks behind one address, as strict as vLLM is.

A rank that it has not is 400, and so is any where it `refuses` them; who names none may go to any.
Its metrics have a line for each rank, and its ranks publish what the test says that they hold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import zmq

from router.kv_wire import session_name, write_batch
from solver.routing.marks import Beginnings, hash_text
from solver.routing.prefixes import BLOCK_TOKENS
from tests.faulty_server import MODEL, Call, FaultyServer, good
from tests.router.gateway.kv.publisher import block_stored

NAMED = re.compile(r"\r\nx-data-parallel-rank: (.*)\r\n")


class Rank:
    """One rank's publisher, on a free port."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._socket = context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._sent = self._blocks = 0

    @property
    def heard(self) -> bool:
        """Whether somebody listens, from now on."""
        return bool(self._socket.poll(0))

    def store(self, prompt: str) -> int:
        """It has got this prompt, from nobody that the gateway knows; its blocks."""
        hashed = hash_text(prompt, MODEL)
        blocks, marks = hashed.blocks, hashed.marks
        named = Beginnings(marks, float(BLOCK_TOKENS))
        hashes = [self._blocks + k for k in range(len(blocks))]
        self._blocks += len(blocks)
        event = block_stored(hashes, session_name("", f"elsewhere-{self._sent}", named))
        payload = write_batch(0.0, [event])
        self._socket.send_multipart([b"", self._sent.to_bytes(8), payload])
        self._sent += 1
        return len(blocks)


class RankedServer(FaultyServer):
    """See the module.

    Attributes:
        ranks: whose publishers its page tells of.
        count: how many it has; its metrics tell of as many.
        tells: its page tells of them.
        refuses: it refuses whatever rank is named.
        named: how often which was named, None: none.
    """

    def __init__(self, count: int = 2, *, tells: bool = True) -> None:
        super().__init__(self._complete, others=self._others)
        self.count, self.tells, self.refuses = count, tells, False
        self.named: Counter[str | None] = Counter()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ranks = [Rank(self._context) for _ in range(count)]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._context.destroy(linger=0)

    async def _complete(self, call: Call) -> None:
        found = NAMED.findall(call.head)
        assert len(found) <= 1, "it is named twice"
        rank = found[0] if found else None
        self.named[rank] += 1
        if rank is not None and (self.refuses or rank not in map(str, range(self.count))):
            error = {"message": f"data_parallel_rank {rank} is out of range", "code": 400}
            return await call.answer(400, json.dumps({"error": error}).encode())
        return await good(call)

    async def _others(self, call: Call) -> None:
        if call.path == "/kv_event_sources" and self.tells:
            page: dict[str, Any] = {str(k): self._source(k) for k in range(self.count)}
            body, kind = json.dumps(page).encode(), "application/json"
        elif call.path == "/metrics":
            body, kind = self._metrics().encode(), "text/plain"
        else:
            return await call.answer(404)
        return await call.answer(200, body, content_type=kind)

    def _source(self, rank: int) -> dict[str, Any]:
        port = self.ranks[min(rank, len(self.ranks) - 1)].port
        return {"enable_kv_cache_events": True, "endpoint": f"tcp://*:{port}", "topic": ""}

    def _metrics(self) -> str:
        names = {"running": "num_requests_running", "waiting": "num_requests_waiting"}
        return "".join(
            f'vllm:{name}{{engine="{k}",model_name="m"}} 0\n'
            for name in names.values()
            for k in range(self.count)
        )
