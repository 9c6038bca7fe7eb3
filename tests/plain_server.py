"""An OpenAI-compatible server without an agent, as a process: ``python -m tests.plain_server``.

Prints its port. Answers ``max_tokens`` words, one every 2 ms; ``x-fail: STATUS`` makes it refuse,
``x-cut: N`` makes it break off after N words, ``half``
within the sixth event, ``silent`` without its ``[DONE]``, ``error`` and ``error-done`` after an
event that says why, the latter with its ``[DONE]``. ``GET /seen`` returns the last request.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

LAST: dict[str, Any] = {"aborted": 0}


async def complete(request: web.Request) -> web.StreamResponse:
    LAST["headers"], LAST["body"] = dict(request.headers), await request.text()
    LAST["query"], LAST["dup"] = (
        request.rel_url.raw_query_string,
        request.headers.getall("x-dup", []),
    )
    if "x-fail" in request.headers:
        status = int(request.headers["x-fail"])
        return web.json_response({"error": {"message": "as asked"}}, status=status)
    body = json.loads(LAST["body"])
    try:
        return await _answer(request, body)
    except (asyncio.CancelledError, ConnectionResetError):
        LAST["aborted"] += 1
        raise


async def _answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    tokens = int(body.get("max_tokens", 16))
    if not body.get("stream"):
        await asyncio.sleep(0.002 * tokens)
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        return web.json_response({"choices": [{"text": " w" * tokens}], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for k in range(tokens):
        if request.headers.get("x-cut") == str(k):
            assert request.transport is not None
            request.transport.abort()
        if k == 5 and request.headers.get("x-cut") == "half":
            await response.write(b'data: {"choices":[{"te')
            return response
        if k == 5 and request.headers.get("x-cut") == "silent":
            return response
        if k == 5 and request.headers.get("x-cut", "").startswith("error"):
            await response.write(b'data: {"error":{"message":"the engine is out of memory"}}\n\n')
            if request.headers["x-cut"] == "error-done":
                await response.write(b"data: [DONE]\n\n")
            return response
        await response.write(b'data: {"choices":[{"text":" w"}]}\n\n')
        await asyncio.sleep(0.002)
    await response.write(b"data: [DONE]\n\n")
    return response


async def odd_state(request: web.Request) -> web.StreamResponse:
    """State streams that no agent would send: a line without end, and a field that is null."""
    response = web.StreamResponse()
    await response.prepare(request)
    if request.path.startswith("/odd/big"):
        await response.write(b"x" * 3_000_000)
    else:
        await response.write(b'{"name": "odd", "model": "llama-65b", "slots": null}\n')
    await asyncio.sleep(60)
    return response


async def models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "plain", "object": "model"}]})


async def seen(_: web.Request) -> web.Response:
    return web.json_response(LAST)


async def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/seen", seen)
    app.router.add_get("/odd/{kind}/makespan/v1/state", odd_state)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"port {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
