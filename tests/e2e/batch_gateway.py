"""What tests of batches share: agents, a gateway that keeps batches, and batches to give it."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

from openai import OpenAI
from openai.types import Batch

from tests.helpers import Process
from tests.waiting import eventually

MODEL = "llama-65b"
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
ENDPOINT: Literal["/v1/completions"] = "/v1/completions"


class Clients:
    """What clients do with batches, at a gateway's address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = OpenAI(base_url=url + "/v1", api_key="-", max_retries=0)

    def upload(self, lines: Sequence[object]) -> str:
        """A file of these lines, as JSON where they are no text."""
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        content = "\n".join(texts).encode()
        return self.client.files.create(file=("in.jsonl", content), purpose="batch").id

    def create(self, lines: Sequence[object], window: str = "24h") -> str:
        """A batch of them."""
        made = self.client.batches.create(
            input_file_id=self.upload(lines),
            endpoint=ENDPOINT,
            completion_window=cast("Literal['24h']", window),
        )
        return made.id

    def get(self, name: str) -> Batch:
        return self.client.batches.retrieve(name)

    def ended(self, name: str) -> Batch:
        """The batch once it has ended."""
        eventually(lambda: self.get(name).status not in OPEN, f"the end of {name}")
        return self.get(name)

    def answered(self, name: str) -> int:
        """Lines that have their result."""
        counts = self.get(name).request_counts
        assert counts is not None
        return counts.completed + counts.failed

    def wait_answered(self, name: str, count: int) -> None:
        """Until so many have."""
        eventually(lambda: self.answered(name) >= count, f"{count} answers")

    def read(self, name: str | None) -> list[dict[str, Any]]:
        """The lines of a file; none has none."""
        if name is None:
            return []
        return [json.loads(line) for line in self.client.files.content(name).text.splitlines()]


class Gateway(Process, Clients):
    """One that keeps batches in `store`: a folder, or a database's address."""

    def __init__(self, workers: Sequence[str], store: str, *more: str) -> None:
        where = ("--database", store) if "://" in store else ("--data", store)
        flags = ("--worker", ",".join(workers), "--port", "0", "--drain-s", "1", *where, *more)
        Process.__init__(self, "gateway", *flags)
        url = self.wait_for(r"listening url=(\S+)")
        self.wait_for(r"worker is (up)")
        Clients.__init__(self, url)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.client.close()
        return super().stop(sig)


@contextmanager
def agents(*more: str) -> Iterator[list[str]]:
    """The addresses of two emulated agents."""
    flags = ("agent", "--port", "0", *more)
    with Process(*flags, "--name", "one") as one, Process(*flags, "--name", "two") as two:
        yield [agent.wait_for(r"listening url=(\S+)") for agent in (one, two)]


def line(k: int, tokens: int = 4, **changes: object) -> dict[str, Any]:
    """The request of a line, but for `changes`."""
    body = {"model": MODEL, "prompt": f"{k} clips", "max_tokens": tokens, "ignore_eos": True}
    good = {"custom_id": f"line-{k}", "method": "POST", "url": ENDPOINT, "body": body}
    return {**good, **changes}


def check(gateway: Clients, name: str, count: int) -> None:
    """Each of so many good lines is answered, once."""
    batch = gateway.ended(name)
    assert batch.status == "completed"
    found = [one["custom_id"] for one in gateway.read(batch.output_file_id)]
    assert found == [f"line-{k}" for k in range(count)]
    assert batch.error_file_id is None
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (count, count, 0)


def moments(count: int, times: int, seed: str) -> list[int]:
    """When to kill somebody: after so many of `count` lines, seeded."""
    return sorted(random.Random(seed).sample(range(1, count * 9 // 10), times))
