"""OpenAI's answer formats: one JSON object, or one SSE event a token."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from router.agent.loop import Piece
from router.schemas import CompletionRequest

Usage = dict[str, Any]
DONE = b"data: [DONE]\n\n"


class Format:
    """Turns tokens into the bytes of one request's answer."""

    def __init__(self, request: CompletionRequest, model: str, engine: str) -> None:
        self._chat, self._usage_wanted = request.chat, request.include_usage
        kind = "chat.completion" if request.chat else "text_completion"
        prefix = "chatcmpl-" if request.chat else "cmpl-"
        self._head: dict[str, Any] = {
            "id": prefix + uuid.uuid4().hex,
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"makespan-{engine}",
        }
        chunk = {**self._head, "object": kind + ".chunk" if request.chat else kind}
        self._open = b"data: " + orjson.dumps(chunk)[:-1] + b',"choices":['
        self._close = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"
        self._greeted: set[int] = set()

    def chunk(self, pieces: Sequence[Piece]) -> bytes:
        """SSE events for `pieces`, one each."""
        return b"".join(self._open + self._choice(piece) + self._close for piece in pieces)

    def _choice(self, piece: Piece) -> bytes:
        choice: dict[str, Any] = {"index": piece.choice}
        if self._chat:
            delta = {"content": piece.text}
            if piece.choice not in self._greeted:
                self._greeted.add(piece.choice)
                delta = {"role": "assistant", **delta}
            choice["delta"] = delta
        else:
            choice["text"] = piece.text
        choice["logprobs"] = None
        choice["finish_reason"] = piece.finish_reason
        return orjson.dumps(choice)

    def end(self, usage: Usage) -> bytes:
        """The stream's last events."""
        if not self._usage_wanted:
            return DONE
        return self._open + b'],"usage":' + orjson.dumps(usage) + b"}\n\n" + DONE

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """The answer as one JSON object; `pieces` are all tokens, in the order they were made."""
        texts: dict[int, list[str]] = {}
        reasons: dict[int, str | None] = {}
        for piece in pieces:
            texts.setdefault(piece.choice, []).append(piece.text)
            reasons[piece.choice] = piece.finish_reason
        choices = [
            self._whole_choice(index, "".join(texts[index]).lstrip(), reasons[index])
            for index in sorted(texts)
        ]
        return orjson.dumps({**self._head, "choices": choices, "usage": usage})

    def _whole_choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text}
        if self._chat:
            said = {"message": {"role": "assistant", "content": text}}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
