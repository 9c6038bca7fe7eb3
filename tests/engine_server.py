"""A server with all of an engine's API, in vLLM's forms, on a thread of the test's process.

It answers what it should, and with 400 what an engine would not understand, so that what passes
through a gateway is seen to have come as it was sent. Of ``/v1/responses`` it keeps its answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.faulty_server import STREAM_HEAD, Call, FaultyServer, chunk

WORDS = [" one", " two", " three"]
TOOL = {"name": "weather", "arguments": '{"city": "Rome"}'}
RANKED = {"results": [{"index": 0}], "usage": {"total_tokens": 9}}
# What gateways look at, of which it has none.
LOOKS = ("/health", "/metrics", "/makespan/v1/state")
# Likewise, again and again; but whatever a client asks for has a name, wherever it goes.
PAGES, NAMED = ("/kv_event_sources", "/server_info"), "\r\nx-request-id:"
# Beside the answers that it keeps.
MADE = ("/v1/responses/input_tokens", "/v1/responses/compact")
Event = tuple[str, dict[str, Any]]


class EngineServer(FaultyServer):
    """Serves `names`, to who has the key; `told` are the requests that came, but looks."""

    def __init__(self, *names: str, number: int = 0, key: str = "") -> None:
        self._key = key
        super().__init__(self._chat, self._models, self._others)
        self.names, self.told = names or ("m",), list[Call]()
        self._kept: dict[str, dict[str, Any]] = {}
        self._ids = (f"{number}-{k}" for k in itertools.count())
        self.fails = 0  # so many of the next requests have no answer
        self.holds = False  # it answers nothing
        self.held = 0  # requests that have come meanwhile
        self.status = 200  # what it answers instead, with an error
        self.breaks_after: int | None = None  # so many events of a stream

    async def _answer(self, call: Call) -> None:
        if self._key and f"\r\nauthorization: bearer {self._key}\r\n" not in call.head:
            return await self._refuse(call, 401, "Unauthorized")
        if call.method == "POST":
            self.held += self.holds
            while self.holds:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            if self.status != 200:
                return await self._refuse(call, self.status, "as asked")
        return await super()._answer(call)

    async def _models(self, call: Call) -> None:
        rows = [{"id": name, "object": "model", "max_model_len": 4096} for name in self.names]
        await self._json(call, {"object": "list", "data": rows})

    async def _json(self, call: Call, answer: object, status: int = 200) -> None:
        await call.answer(status, json.dumps(answer).encode(), content_type="application/json")

    async def _refuse(self, call: Call, status: int, why: str) -> None:
        await self._json(call, {"error": {"message": why, "type": "x", "code": status}}, status)

    async def _stream(self, call: Call, events: list[Event]) -> None:
        await call.send(STREAM_HEAD)
        for k, (kind, told) in enumerate(events):
            if k == self.breaks_after:
                call.reset()
                return
            data = json.dumps({"type": kind, "sequence_number": k, **told})
            await call.send(chunk(f"event: {kind}\ndata: {data}\n\n".encode()))
        await call.send(chunk(b""))

    async def _chat(self, call: Call) -> None:
        """Chat and completions."""
        self.told.append(call)
        asked = json.loads(call.body)
        if asked["model"] not in self.names:
            return await self._refuse(call, 404, f"no model {asked['model']}")
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        base = {"id": f"chatcmpl-{next(self._ids)}", "model": asked["model"], "created": 1}
        if not asked.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": "".join(WORDS)}
            reason = "stop"
            if asked.get("tools"):
                call_ = {"id": "call_1", "type": "function", "function": TOOL}
                message, reason = {"role": "assistant", "content": None, "tool_calls": [call_]}, ""
            choice = {"index": 0, "message": message, "finish_reason": reason or "tool_calls"}
            whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
            return await self._json(call, whole)
        deltas: list[dict[str, Any]] = [{"content": word} for word in WORDS]
        reason = "stop"
        if asked.get("tools"):
            reason = "tool_calls"
            first = {"index": 0, "id": "call_1", "type": "function", "function": TOOL}
            deltas = [{"role": "assistant", "tool_calls": [first]}, {}, {}]
        await call.send(STREAM_HEAD)
        for k, delta in enumerate(deltas):
            end = reason if k == len(deltas) - 1 else None
            one = {**base, "object": "chat.completion.chunk"}
            one["choices"] = [{"index": 0, "delta": delta, "finish_reason": end}]
            await call.send(chunk(b"data: " + json.dumps(one).encode() + b"\n\n"))
        last = {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        await call.send(chunk(b"data: " + json.dumps(last).encode() + b"\n\n"))
        await call.send(chunk(b"data: [DONE]\n\n"), chunk(b""))
        return None

    async def _others(self, call: Call) -> None:
        look = call.path in LOOKS or (call.path in PAGES and NAMED not in call.head)
        if call.method == "GET" and look:
            return await self._refuse(call, 404, "Not Found")
        self.told.append(call)
        if self.fails:
            self.fails -= 1
            return call.reset()
        if call.path.startswith("/v1/responses/") and call.path not in MADE:
            return await self._of_kept(call)
        if call.path == "/v1/audio/transcriptions":
            digest = hashlib.sha256(call.body).hexdigest()
            return await self._json(call, {"text": digest})
        found: Callable[[Call, dict[str, Any]], Awaitable[None]] | None = {
            "/v1/responses": self._responses,
            "/v1/messages": self._messages,
            "/v1/messages/count_tokens": lambda call, _: self._json(call, {"input_tokens": 5}),
            MADE[0]: lambda call, _: self._json(call, {"input_tokens": 5}),
            MADE[1]: lambda call, _: self._json(call, {"object": "response.compaction"}),
            "/v1/embeddings": self._embeddings,
            "/v1/rerank": lambda call, _: self._json(call, RANKED),
            "/v1/score": lambda call, _: self._json(call, {"data": [{"score": 0.5}]}),
            "/tokenize": lambda call, _: self._json(call, {"count": 2, "tokens": [1, 2]}),
            "/detokenize": lambda call, _: self._json(call, {"prompt": "ab"}),
        }.get(call.path)
        if found is None or call.method != "POST":
            return await self._refuse(call, 404, "Not Found")
        asked = json.loads(call.body)
        if asked.get("model") not in self.names:
            return await self._refuse(call, 404, f"no model {asked.get('model')}")
        return await found(call, asked)

    async def _embeddings(self, call: Call, asked: dict[str, Any]) -> None:
        size = asked.get("dimensions", 2)
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 1.5] * (size // 2)}]
        usage = {"prompt_tokens": size, "total_tokens": size}
        row = {"object": "list", "model": asked["model"], "data": data, "usage": usage}
        await self._json(call, row)

    async def _of_kept(self, call: Call) -> None:
        _, _, _, name, *rest = call.path.split("/")
        if name not in self._kept:
            return await self._refuse(call, 404, f"Response with id '{name}' not found.")
        if call.method == "DELETE":
            del self._kept[name]
            gone = {"id": name, "object": "response.deleted", "deleted": True}
            return await self._json(call, gone)
        if rest == ["cancel"]:
            self._kept[name]["status"] = "cancelled"
        return await self._json(call, self._kept[name])

    async def _responses(self, call: Call, asked: dict[str, Any]) -> None:
        before = asked.get("previous_response_id")
        if before is not None and before not in self._kept:
            return await self._refuse(call, 404, f"Response with id '{before}' not found.")
        answer: dict[str, Any] = {
            "id": asked.get("request_id") or f"resp_{next(self._ids)}",
            "created_at": 1,
            "model": asked["model"],
            "object": "response",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "status": "in_progress",
        }
        said = "".join(WORDS)
        part = {"type": "output_text", "text": said, "annotations": []}
        item: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant"}
        item |= {"status": "completed", "content": [part]}
        deltas: list[Event] = [
            ("response.output_text.delta",
             {"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word,
              "logprobs": []})
            for word in WORDS
        ]  # fmt: skip
        if asked.get("tools"):
            item = {"id": "fc_1", "type": "function_call", "call_id": "call_1", **TOOL}
            item["status"] = "completed"
            of = {"item_id": "fc_1", "output_index": 0}
            deltas = [
                ("response.function_call_arguments.delta", {**of, "delta": TOOL["arguments"]})
            ]
        whole = {**answer, "output": [item], "status": "completed"}
        whole["usage"] = {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        }
        self._kept[answer["id"]] = whole
        if not asked.get("stream"):
            return await self._json(call, whole)
        begun = {**item, "status": "in_progress"} | (
            {"arguments": ""} if asked.get("tools") else {}
        )
        begun |= {} if asked.get("tools") else {"content": []}
        at = {"output_index": 0}
        more: list[Event] = []
        if not asked.get("tools"):
            of = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
            more = [("response.output_text.done", {**of, "text": said, "logprobs": []}),
                    ("response.content_part.done", {**of, "part": part})]  # fmt: skip
            deltas.insert(0, ("response.content_part.added", {**of, "part": {**part, "text": ""}}))
        else:
            more = [("response.function_call_arguments.done",
                     {"item_id": "fc_1", "output_index": 0, **TOOL})]  # fmt: skip
        await self._stream(call, [
            ("response.created", {"response": answer}),
            ("response.in_progress", {"response": answer}),
            ("response.output_item.added", {**at, "item": begun}),
            *deltas,
            *more,
            ("response.output_item.done", {**at, "item": item}),
            ("response.completed", {"response": whole}),
        ])  # fmt: skip
        return None

    async def _messages(self, call: Call, asked: dict[str, Any]) -> None:
        if "max_tokens" not in asked or "anthropic-version:" not in call.head:
            return await self._refuse(call, 400, "max_tokens and anthropic-version are required")
        block: dict[str, Any] = {"type": "text", "text": "".join(WORDS)}
        deltas = [{"type": "text_delta", "text": word} for word in WORDS]
        reason = "end_turn"
        empty: dict[str, Any] = {"type": "text", "text": ""}
        if asked.get("tools"):
            city = json.loads(TOOL["arguments"])
            block = {"type": "tool_use", "id": "toolu_1", "name": TOOL["name"], "input": city}
            deltas = [{"type": "input_json_delta", "partial_json": TOOL["arguments"]}]
            reason, empty = "tool_use", {**block, "input": {}}
        message: dict[str, Any] = {
            "id": f"msg_{next(self._ids)}",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "content": [block],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 3},
        }
        if not asked.get("stream"):
            return await self._json(call, message)
        begun = {**message, "content": [], "stop_reason": None}
        begun["usage"] = {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 0}
        ended = {"delta": {"stop_reason": reason, "stop_sequence": None}}
        await self._stream(call, [
            ("message_start", {"message": begun}),
            ("content_block_start", {"index": 0, "content_block": empty}),
            *[("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas],
            ("content_block_stop", {"index": 0}),
            ("message_delta", {**ended, "usage": {"output_tokens": 3}}),
            ("message_stop", {}),
        ])  # fmt: skip
        return None
