"""Words of prompts, and keys: not in logs, metrics, traces, explanations or errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests import http
from tests.e2e.test_unwell_workers import FAULTS as BROKEN
from tests.faulty_server import MODEL, Call, FaultyServer, good, status
from tests.helpers import Process
from tests.otlp_sink import Sink
from tests.waiting import eventually

PROMPT, KEY = "zebra-quartz-prompt", "sk-violet-key"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {KEY}", "x-api-key": KEY, "content-type": "application/json"}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4}
PART = {"type": "text", "text": PROMPT}
MESSAGE = {"role": "user", "content": PROMPT}
# Good, wrong and broken; each has the words in it.
BODIES: list[tuple[str, object]] = [
    (COMPLETIONS, TEXT),
    (COMPLETIONS, TEXT | {"stream": True}),
    (COMPLETIONS, TEXT | {"prompt": [PROMPT, PROMPT], "n": 2}),
    (CHAT, {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}),
    (CHAT, {"model": MODEL, "messages": [{"role": "user", "content": [PART]}], "stream": True}),
    (COMPLETIONS, {"model": MODEL, "prompt": {PROMPT: PROMPT}}),
    (COMPLETIONS, TEXT | {"stream": PROMPT}),
    (COMPLETIONS, TEXT | {"max_tokens": PROMPT}),
    (COMPLETIONS, TEXT | {"stop": [PROMPT] * 40, "n": -1}),
    (COMPLETIONS, TEXT | {"model": "another", "suffix": PROMPT}),
    (COMPLETIONS, TEXT | {PROMPT: PROMPT, "user": PROMPT}),
    (CHAT, {"model": MODEL, "messages": PROMPT}),
    (CHAT, {"model": MODEL, "messages": [PROMPT]}),
    (CHAT, {"model": MODEL, "messages": [{"role": PROMPT, "content": {"a": PROMPT}}]}),
    ("/v1/responses", {"model": MODEL, "input": PROMPT, "instructions": PROMPT}),
    ("/v1/responses", {"model": MODEL, "input": [{"type": PROMPT, "content": PROMPT}]}),
    ("/v1/responses", {"model": MODEL, "input": [PART], "tools": [{"name": PROMPT}]}),
    ("/v1/messages", {"model": MODEL, "max_tokens": 4, "system": PROMPT, "messages": [MESSAGE]}),
    ("/v1/messages", {"model": MODEL, "max_tokens": 4, "messages": PROMPT}),
    ("/v1/messages/count_tokens", {"model": MODEL, "messages": [MESSAGE], "tools": [PROMPT]}),
    ("/v1/embeddings", {"model": MODEL, "input": PROMPT}),
    ("/v1/embeddings", b'{"model": "m", "input": "' + PROMPT.encode()),
    (COMPLETIONS, [PROMPT]),
    (COMPLETIONS, PROMPT),
    (COMPLETIONS, b'{"model": "m", "prompt": "' + PROMPT.encode()),
    (COMPLETIONS, PROMPT.encode() + b'{"model": "m"}'),
    (COMPLETIONS, b'{"prompt": "' + PROMPT.encode() + b'\xff"}'),
]


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[FaultyServer, Sink, dict[str, Process]]]:
    """A gateway before a sidecar and a plain server, and an agent; all tell all they can."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        sink, server = stack.enter_context(Sink()), stack.enter_context(FaultyServer())
        told = ("--port", "0", "--log-level", "debug", "--otel-endpoint", sink.url)
        sidecar = ("--name", "sidecar", "--engine", "openai", "--upstream", server.url)
        agent = ("--name", "agent", "--model", MODEL, "--speed", "50", "--faults")
        made: dict[str, Process] = {}
        for flags in (sidecar, agent):
            process = stack.enter_context(Process("agent", *told, *flags))
            made[process.wait_for(r"listening url=(\S+)")] = process
        once = ("--wait-for-worker-s", "0")
        workers = f"{next(iter(made))},{server.url}"
        gateway = stack.enter_context(Process("gateway", *told, "--worker", workers, *once))
        url = gateway.wait_for(r"listening url=(\S+)")
        eventually(lambda: sum("worker is up" in line for line in gateway.lines) == 2)
        yield server, sink, {url: gateway, **made}


async def well(call: Call) -> None:
    """It answers what makes sense, and refuses the rest without a word of it."""
    try:
        await good(call)
    except (ValueError, TypeError, AttributeError):
        await status(400)(call)


@contextmanager
def answering(server: FaultyServer, kind: str) -> Iterator[None]:
    server.answer = {"well": well, "401": status(401), "503": status(503), **BROKEN}[kind]
    yield
    server.answer = well


@pytest.mark.parametrize("kind", ["well", "401", "503", *BROKEN])
def test_no_word_of_a_prompt_and_no_key_is_told(
    processes: tuple[FaultyServer, Sink, dict[str, Process]], kind: str
) -> None:
    server, sink, running = processes
    told: list[str] = []
    with answering(server, kind):
        for url in running:
            for k, (path, body) in enumerate(BODIES if kind == "well" else BODIES[:2] * 3):
                name = f"{kind}-{k}"
                answer = ask(f"{url}{path}?key={KEY}", body, name)
                if answer.status_code != 200:
                    told.append(answer.text)
                if url == next(iter(running)):
                    told.append(http.get(f"{url}/makespan/v1/requests/{name}").text)
    for url, process in running.items():
        told += [http.get(url + "/metrics").text, *process.lines]
    front = next(iter(running))
    told += [http.get(f"{front}/makespan/v1/{page}").text for page in ("workers", "plans/latest")]
    eventually(lambda: len(sink.spans) > 0)
    told.append(repr(sink.spans))
    assert any("request ended" in line for line in told), "they tell all they can"
    for word in (PROMPT, KEY):
        assert not [text for text in told if word in text]


def ask(url: str, body: object, name: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(url, content=content, headers={**HEADERS, "x-request-id": name})
