"""Records what a vLLM tells of its prefix cache, for `tests/router/gateway/kv/test_recorded.py`.

    .venv/bin/python -m tests.engines.record_cache_events tests/engines/recorded/vllm.jsonl.gz

It starts a server with a tiny model and little memory, sends it prompts that begin alike, named as
a gateway names them, and writes in order what came: messages, and of each request its prompt, what
its length was taken to be, and how many tokens vLLM found in its cache.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import zmq

from router.kv_wire import FULL, REPORT_MODE, SESSION, XARGS, session_name
from solver.cost.estimators import TokenEstimator
from solver.routing.marks import Beginnings, hash_text
from solver.routing.prefixes import TEXT_BYTES
from tests.engines.publishing_vllm import serving, text

REQUESTS, DOCUMENTS = 150, 12


def ask(url: str, name: str, prompt: str) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    body[XARGS] = {REPORT_MODE: FULL}
    headers = {"content-type": "application/json", SESSION.decode(): name}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        usage: dict[str, Any] = json.load(answer)["usage"]
    return usage


class Recorder:
    """Listens to a publisher; `lines` is what is to be written."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.connect(endpoint.replace("*", "127.0.0.1"))
        self._socket.subscribe("")
        self.lines: list[dict[str, Any]] = []

    def listen(self, session: str, quiet_s: float = 0.3) -> None:
        """Until it has told of this session, and then of nothing for so long."""
        told = False
        while not told or self._socket.poll(int(quiet_s * 1000)):
            _, number, payload = self._socket.recv_multipart()
            told = told or session.encode() in payload
            event = base64.b64encode(payload).decode()
            self.lines.append({"number": int.from_bytes(number), "payload": event})


def record(url: str) -> list[dict[str, Any]]:
    """What came in order, of `REQUESTS` one after the other."""
    with urllib.request.urlopen(f"{url}/kv_event_sources") as page:
        sources = json.load(page)
    recorder = Recorder(sources["0"]["endpoint"])
    time.sleep(1.0)
    recorder.lines.append({"sources": sources})
    rng, estimator = random.Random(1), TokenEstimator()
    documents = [text(rng, rng.randrange(100, 260)) for _ in range(DOCUMENTS)]
    for k in range(REQUESTS):
        prompt = rng.choice(documents) + text(rng, rng.randrange(10, 80))
        tokens = estimator.estimate(len(prompt))
        block_tokens = TEXT_BYTES / len(prompt) * (tokens - 1)
        beginnings = Beginnings(hash_text(prompt, "tiny").marks, block_tokens)
        name = session_name("", f"gateway-{k}", beginnings)
        usage = ask(url, name, prompt)
        estimator.observe(len(prompt), usage["prompt_tokens"])
        cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
        asked = {"name": name, "prompt_tokens": usage["prompt_tokens"], "cached": cached}
        recorder.lines.append({"request": asked})
        recorder.listen(name)
    return recorder.lines


def main(path: Path) -> None:
    """Write a recording."""
    with serving() as url:
        lines = record(url)
    write(path, lines)


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """As lines of JSON, compressed."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
