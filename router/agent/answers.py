"""OpenAI's answer formats: one JSON object, or one SSE event a token."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from router.agent.engines.base import Logprob
from router.agent.loop import Piece
from router.http.schemas import CompletionRequest

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
        self._offsets: dict[int, int] = {}

    @property
    def id(self) -> str:
        """What the answer calls itself."""
        return str(self._head["id"])

    def chunk(self, pieces: Sequence[Piece]) -> bytes:
        """SSE events for `pieces`, one each."""
        return b"".join(self._open + self._choice(piece) + self._close for piece in pieces)

    def _choice(self, piece: Piece) -> bytes:
        choice: dict[str, Any] = {"index": piece.choice}
        if self._chat:
            delta = {"content": piece.token.text}
            if piece.choice not in self._greeted:
                self._greeted.add(piece.choice)
                delta = {"role": "assistant", **delta}
            choice["delta"] = delta
        else:
            choice["text"] = piece.token.text
        choice["logprobs"] = self._logprobs([piece])
        choice["finish_reason"] = piece.token.finish_reason
        return orjson.dumps(choice)

    def end(self, usage: Usage) -> bytes:
        """The stream's last events."""
        if not self._usage_wanted:
            return DONE
        return self._open + b'],"usage":' + orjson.dumps(usage) + b"}\n\n" + DONE

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """The answer as one JSON object; `pieces` are all tokens, in the order they were made."""
        made: dict[int, list[Piece]] = {}
        for piece in pieces:
            made.setdefault(piece.choice, []).append(piece)
        choices = [self._whole_choice(index, made[index]) for index in sorted(made)]
        return orjson.dumps({**self._head, "choices": choices, "usage": usage})

    def _whole_choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.token.text for piece in pieces)
        said: dict[str, Any] = {"text": text}
        if self._chat:
            said = {"message": {"role": "assistant", "content": text}}
        reason = pieces[-1].token.finish_reason
        logprobs = self._logprobs(pieces)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """In chat's form or in that of completions; None where none were asked for."""
        found = [(piece, piece.token.logprob) for piece in pieces]
        known = [(piece, logprob) for piece, logprob in found if logprob is not None]
        if not known:
            return None
        if self._chat:
            return {"content": [_chat_logprob(logprob) for _, logprob in known]}
        offsets: list[int] = []
        for piece, logprob in known:
            at = self._offsets.get(piece.choice, 0)
            offsets.append(at)
            self._offsets[piece.choice] = at + len(logprob.text)
        return {
            "tokens": [logprob.text for _, logprob in known],
            "token_logprobs": [logprob.logprob for _, logprob in known],
            "top_logprobs": [dict((*one.top, (one.text, one.logprob))) for _, one in known],
            "text_offset": offsets,
        }


def _chat_logprob(logprob: Logprob) -> dict[str, Any]:
    top = [_word(text, value) for text, value in logprob.top]
    return {**_word(logprob.text, logprob.logprob), "top_logprobs": top}


def _word(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
