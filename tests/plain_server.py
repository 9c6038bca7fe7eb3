"""An OpenAI-compatible server without an agent, as a process.

    python -m tests.plain_server [PORT [SLOTS [tells]]]

Prints its port. It runs ``SLOTS`` requests at once, any number unless given, and others wait for
their turn; with ``tells`` its ``/metrics`` say how many, as vLLM's do. Answers ``max_tokens`` words
to each of ``n`` choices, one every 2 ms; ``x-fail: STATUS`` makes it refuse, ``x-cut: N`` makes it
break off after N words, ``half`` within the sixth event, ``silent`` without its ``[DONE]``,
``error`` and ``error-done`` after an event that says why, the latter with its ``[DONE]``;
``x-pace: SECONDS`` is the time that a word takes instead; ``x-pairs`` puts two words into each
event and says so by usage. ``GET /seen`` returns the last request, how many sequences run, and the
most that ever did: an answer of several choices runs as one from their end to its own, 5 ms later
in a stream. ``x-block: SECONDS`` keeps the whole server from doing anything before it answers.
``/echo/...`` answers with what came, ``/odd/...`` with what no agent says, ``/metrics`` with what
was put there. ``GET /seen`` counts the first two, who asked for models, and the most that waited at
once, too; ``PUT`` makes all of it as it was at first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from typing import Any

from aiohttp import web

COUNTS = ("aborted", "running", "peak", "waited", "answers", "models", "echoed", "odd")
LAST: dict[str, Any] = dict.fromkeys(COUNTS, 0)
PACE_S = 0.002
SLOTS, TELLS = int(sys.argv[2]) if sys.argv[2:] else 1 << 20, sys.argv[3:] == ["tells"]
FREE = asyncio.Semaphore(SLOTS)
WAITING = set[object]()  # tasks
METRICS: dict[str, bytes] = {}
ERROR = b'data: {"error":{"message":"the engine is out of memory"}}\n\n'
DONE = b"data: [DONE]\n\n"
LAST_WORDS = {
    "half": b'data: {"choices":[{"te',
    "silent": b"",
    "error": ERROR,
    "error-done": ERROR + DONE,
}


async def complete(request: web.Request) -> web.StreamResponse:
    if FREE.locked():
        WAITING.add(asyncio.current_task())
        LAST["waited"] = max(LAST["waited"], len(WAITING))
    try:
        await FREE.acquire()
    finally:
        WAITING.discard(asyncio.current_task())
    try:
        return await _complete(request)
    finally:
        FREE.release()


async def _complete(request: web.Request) -> web.StreamResponse:
    LAST["headers"], LAST["body"] = dict(request.headers), await request.text()
    LAST["query"], LAST["dup"] = (
        request.rel_url.raw_query_string,
        request.headers.getall("x-dup", []),
    )
    if "x-fail" in request.headers:
        status = int(request.headers["x-fail"])
        return web.json_response({"error": {"message": "as asked"}}, status=status)
    time.sleep(float(request.headers.get("x-block", 0)))  # noqa: ASYNC251
    body = json.loads(LAST["body"])
    width = int(body.get("n", 1))
    LAST["running"] += width
    LAST["peak"] = max(LAST["peak"], LAST["running"])
    left = [1] * width
    try:
        return await _answer(request, body, left)
    except (asyncio.CancelledError, ConnectionResetError):
        LAST["aborted"] += 1
        raise
    finally:
        _leave(left, 0)


def _leave(left: list[int], stay: int) -> None:
    LAST["running"] -= len(left[stay:])
    del left[stay:]


async def _answer(
    request: web.Request, body: dict[str, Any], left: list[int]
) -> web.StreamResponse:
    tokens, n = int(body.get("max_tokens", 16)), int(body.get("n", 1))
    pace_s = float(request.headers.get("x-pace", PACE_S))
    LAST["answers"] += 1
    if not body.get("stream"):
        await asyncio.sleep(pace_s * tokens)
        usage = {"prompt_tokens": 5, "completion_tokens": tokens * n}
        choices = [{"index": k, "text": " w" * tokens} for k in range(n)]
        return web.json_response({"choices": choices, "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    words = 2 if "x-pairs" in request.headers else 1
    for k in range(0, tokens, words):
        if request.headers.get("x-cut") == str(k):
            assert request.transport is not None
            request.transport.abort()
        if k == 5 and request.headers.get("x-cut") in LAST_WORDS:
            await response.write(LAST_WORDS[request.headers["x-cut"]])
            return response
        last = k + words >= tokens
        if last:
            _leave(left, 1)
        for index in range(n):
            choice = {"index": index, "text": " w" * words}
            choice["finish_reason"] = "length" if last else None
            event: dict[str, Any] = {"choices": [choice]}
            if words > 1:
                event["usage"] = {"prompt_tokens": 5, "completion_tokens": k + words}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await asyncio.sleep(0.005 if last else pace_s * words)
    await response.write(DONE)
    return response


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    LAST["echoed"] += 1
    told = {
        "method": request.method,
        "path": request.raw_path,
        "body": hashlib.sha256(body).hexdigest(),
        "type": request.headers.get("content-type"),
        "dup": request.headers.getall("x-dup", []),
    }
    return web.json_response(told, status=207, headers={"x-odd": "1"})


async def metrics(request: web.Request) -> web.Response:
    if request.method == "PUT":
        METRICS["page"] = await request.read()
    if TELLS:
        counts = {"running": LAST["running"], "waiting": len(WAITING)}
        return web.Response(
            text="".join(f"vllm:num_requests_{name} {n}\n" for name, n in counts.items())
        )
    if "page" not in METRICS:
        raise web.HTTPNotFound
    return web.Response(body=METRICS["page"], content_type="text/plain")


async def odd_state(request: web.Request) -> web.StreamResponse:
    """State streams that no agent would send: a line without end, and a field that is null."""
    LAST["odd"] += 1
    response = web.StreamResponse()
    await response.prepare(request)
    if request.path.startswith("/odd/big"):
        await response.write(b"x" * 3_000_000)
    else:
        await response.write(b'{"name": "odd", "model": "llama-65b", "slots": null}\n')
    await asyncio.sleep(60)
    return response


async def models(_: web.Request) -> web.Response:
    LAST["models"] += 1
    return web.json_response({"object": "list", "data": [{"id": "plain", "object": "model"}]})


async def seen(request: web.Request) -> web.Response:
    if request.method == "PUT":
        LAST.clear()
        LAST.update(dict.fromkeys(COUNTS, 0))
        METRICS.clear()
    return web.json_response(LAST)


async def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/seen", seen)
    app.router.add_put("/seen", seen)
    app.router.add_route("*", "/echo/{tail:.*}", echo)
    app.router.add_get("/metrics", metrics)
    app.router.add_put("/metrics", metrics)
    app.router.add_get("/odd/{kind}/makespan/v1/state", odd_state)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    port = int(sys.argv[1]) if sys.argv[1:] else 0
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(f"port {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
