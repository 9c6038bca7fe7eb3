"""A publisher of blocks in memory: what it has sent, what it replays, and what it holds."""

from __future__ import annotations

from collections import deque
from typing import Any

from router.gateway.fleet.kv.stream import Stream
from router.kv_wire import session_name, write_batch
from solver.routing.marks import Beginnings, hash_text
from solver.routing.prefixes import TEXT_BYTES

BLOCK_TOKENS = 128


def prompt_of(document: int) -> Beginnings:
    """Four blocks of a document's own."""
    text = "".join(f"{document}-{k}".ljust(TEXT_BYTES, ".") for k in range(4))
    return Beginnings(hash_text(text).marks, float(BLOCK_TOKENS))


def block_stored(hashes: list[int], session: str) -> dict[str, Any]:
    """An event as vLLM's maps have it: what a prompt begins with is in memory."""
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": None,
        "token_ids": [],
        "block_size": BLOCK_TOKENS,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "session_id": session,
    }


def stored(document: int) -> dict[str, Any]:
    hashes = [100 * document + k for k in range(4)]
    name = session_name("client|1", f"attempt-{document}", prompt_of(document))
    return block_stored(hashes, name)


def removed(document: int) -> dict[str, Any]:
    hashes = [100 * document + k for k in range(4)]
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}


class Publisher:
    """Documents come and go; `buffered` messages can be asked for again."""

    def __init__(self, buffered: int = 10_000) -> None:
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=buffered)
        self.starts = 0
        self.restart()

    def restart(self) -> None:
        self.held: set[int] = set()
        self.next, self.starts = 0, self.starts + 1
        self.buffer.clear()

    def change(self, document: int, spoilt: bytes | None = None) -> tuple[int, bytes]:
        """It is stored, or dropped if it was there; the message, `spoilt` or not."""
        was = document in self.held
        self.held ^= {document}
        return self.send([removed(document) if was else stored(document)], spoilt)

    def clear(self) -> tuple[int, bytes]:
        """All are dropped; the message."""
        self.held.clear()
        return self.send([{"type": "AllBlocksCleared"}])

    def send(self, events: list[dict[str, Any]], spoilt: bytes | None = None) -> tuple[int, bytes]:
        """These are told; the message, `spoilt` or not."""
        when = float(self.next) + 1e6 * self.starts
        payload = write_batch(when, events) if spoilt is None else spoilt + str(when).encode()
        message = self.next, payload
        self.next += 1
        self.buffer.append(message)
        return message

    def replay(self, stream: Stream) -> None:
        """Answer as long as it asks, as a gateway does."""
        for _ in range(5):
            if stream.wanted is None:
                return
            start = stream.ask()
            for number, payload in list(self.buffer):
                if number >= start:
                    list(stream.replayed(number, payload))
            list(stream.replay_ended())


def known(stream: Stream) -> set[int]:
    return {document for document in range(20) if held(stream, document)}


def held(stream: Stream, document: int) -> float:
    return stream.cache.held_tokens(prompt_of(document).marks)
