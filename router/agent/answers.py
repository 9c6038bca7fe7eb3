"""OpenAI's answer formats: one JSON object, or one SSE event a token."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from router.agent.engines.base import Logprob
from router.agent.loop import ChoiceOutput
from router.http.schemas import CompletionRequest

Usage = dict[str, Any]
DONE = b"data: [DONE]\n\n"


class AnswerFormatter:
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
        self._role_sent: set[int] = set()
        self._offsets: dict[int, int] = {}

    @property
    def id(self) -> str:
        """What the answer calls itself."""
        return str(self._head["id"])

    def chunk(self, outputs: Sequence[ChoiceOutput]) -> bytes:
        """SSE events for `outputs`, one each."""
        return b"".join(self._open + self._choice(output) + self._close for output in outputs)

    def _choice(self, output: ChoiceOutput) -> bytes:
        choice: dict[str, Any] = {"index": output.choice}
        if self._chat:
            delta = {"content": output.token.text}
            if output.choice not in self._role_sent:
                self._role_sent.add(output.choice)
                delta = {"role": "assistant", **delta}
            choice["delta"] = delta
        else:
            choice["text"] = output.token.text
        choice["logprobs"] = self._logprobs([output])
        choice["finish_reason"] = output.token.finish_reason
        return orjson.dumps(choice)

    def end(self, usage: Mapping[str, Any]) -> bytes:
        """The stream's last events."""
        if not self._usage_wanted:
            return DONE
        return self._open + b'],"usage":' + orjson.dumps(usage) + b"}\n\n" + DONE

    def full(self, outputs: Sequence[ChoiceOutput], usage: Mapping[str, Any]) -> bytes:
        """The answer as one JSON object; `outputs` are all tokens, in the order they were made."""
        made: dict[int, list[ChoiceOutput]] = {}
        for output in outputs:
            made.setdefault(output.choice, []).append(output)
        choices = [self._full_choice(index, made[index]) for index in sorted(made)]
        return orjson.dumps({**self._head, "choices": choices, "usage": usage})

    def _full_choice(self, index: int, outputs: Sequence[ChoiceOutput]) -> dict[str, Any]:
        text = "".join(output.token.text for output in outputs)
        content_fields: dict[str, Any] = {"text": text}
        if self._chat:
            content_fields = {"message": {"role": "assistant", "content": text}}
        reason = outputs[-1].token.finish_reason
        logprobs = self._logprobs(outputs)
        return {"index": index, **content_fields, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, outputs: Sequence[ChoiceOutput]) -> dict[str, Any] | None:
        """In chat's form or in that of completions; None where none were asked for."""
        found = [(output, output.token.logprob) for output in outputs]
        known = [(output, logprob) for output, logprob in found if logprob is not None]
        if not known:
            return None
        if self._chat:
            return {"content": [_chat_logprob(logprob) for _, logprob in known]}
        offsets: list[int] = []
        for output, logprob in known:
            at = self._offsets.get(output.choice, 0)
            offsets.append(at)
            self._offsets[output.choice] = at + len(logprob.text)
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
