"""A stream that its worker has broken off, continued by another one, to the letter.

The other worker gets the same request and says it all again. What the client has had already is
swallowed, as long as it is the same to the letter; from there on events pass, under the first
answer's id. So nothing is guessed: where the other worker says anything else, the stream ends with
an error event, as it would have without.

Rules:
- it is for requests whose words are determined: greedy or with a seed, one choice, and nothing in
  the body but `KNOWN`, as what is not known here might change what is said;
- a client gets whole events only, so that none is left half said;
- what has been said is kept up to `MOST_SAID` characters, an event up to `MOST_EVENT` bytes; beyond
  that, and of requests beyond `SMALL` bytes, nothing is continued.

Must not know: workers, connections.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from router.http.errors import WorkerFailed
from router.http.shorten import SMALL

KNOWN = frozenset(
    (
        "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "n",
        "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "stop",
        "stop_token_ids", "ignore_eos", "frequency_penalty", "presence_penalty",
        "repetition_penalty", "logit_bias", "user", "skip_special_tokens",
        "include_stop_str_in_output",
    )
)  # fmt: skip
# Of text; an answer of a hundred thousand tokens.
MOST_SAID = 1 << 19
MOST_EVENT = 1 << 16  # an event of a token has some hundred bytes
_DATA, _END = b"data:", b"\n\n"
_ENDS = re.compile(rb"\r?\n\r?\n")


class Diverged(WorkerFailed):
    """The other worker says something else."""

    def __init__(self) -> None:
        super().__init__("The worker broke off its answer, and no other one said the same again.")


def is_determined(body: bytes) -> bool:
    """Whether every worker says the same to this body of a request, as far as it says."""
    if len(body) > SMALL:  # reading it takes the loop's time
        return False
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(asked, dict) or not asked.get("stream") or asked.keys() - KNOWN:
        return False
    prompt = asked.get("prompt", "")
    single = isinstance(prompt, str) or all(isinstance(token, int) for token in prompt or ())
    exact = asked.get("temperature") == 0 or isinstance(asked.get("seed"), int)
    return single and exact and asked.get("n") in (None, 1)


class Continuation:
    """One stream as its client gets it, from one worker after another.

    Attributes:
        possible: what has been said so far can be said again.
    """

    def __init__(self) -> None:
        self.possible = True
        self._said, self._again = "", ""
        self._names: dict[str, Any] | None = None  # of the answer that the client knows
        self._replaying = self._ended = False
        self._rest = b""

    def restart(self) -> None:
        """Another worker begins."""
        self._rest, self._again = b"", ""
        self._replaying = self._names is not None

    def feed(self, chunk: bytes) -> bytes:
        """What the client is to get now that `chunk` has come from the worker.

        Raises:
            Diverged: if it is not what was said before.
        """
        *events, self._rest = _ENDS.split(self._rest + chunk)
        passed = b"".join([self._event(event) for event in events])
        if len(self._rest) <= MOST_EVENT:
            return passed
        if self._replaying:
            raise self._diverged()
        self.possible = False
        return passed + self.flush()

    def flush(self) -> bytes:
        """What is left of a stream that has ended well."""
        rest, self._rest = self._rest, b""
        return rest

    def _diverged(self) -> Diverged:
        self.possible = False
        return Diverged()

    def _event(self, event: bytes) -> bytes:
        data = event[len(_DATA) :].strip() if event.startswith(_DATA) else b""
        if not data or data == b"[DONE]":
            if data and self._replaying:
                raise self._diverged()
            if self._replaying:
                return b""
            return event + _END
        told = self._read(data)
        if told is None:  # an error, or what nobody knows
            self.possible = False
            return event + _END
        text, ended = _text_of(told), any(one.get("finish_reason") for one in told["choices"])
        if self._names is None:
            self._names = {name: told.get(name) for name in ("id", "created")}
        if self._replaying:
            return self._replayed(told, text, ended=ended)
        self._said += text
        self._ended |= ended
        self.possible &= len(self._said) <= MOST_SAID
        if told.get("id") == self._names["id"]:
            return event + _END
        return _event(told | self._names)

    def _replayed(self, told: dict[str, Any], text: str, *, ended: bool) -> bytes:
        """Nothing of what was said already; of an event with more, the rest."""
        assert self._names is not None
        self._again += text
        common = min(len(self._again), len(self._said))
        if self._again[:common] != self._said[:common]:
            raise self._diverged()
        if len(self._again) <= len(self._said) and not ended:
            return b""
        if len(self._again) < len(self._said):
            raise self._diverged()
        self._replaying = False
        if self._ended:
            return b""
        self._ended = ended
        _set_text(told, self._again[len(self._said) :])
        self._said = self._again
        return _event(told | self._names)

    @staticmethod
    def _read(data: bytes) -> dict[str, Any] | None:
        """An event with nothing but text, or None."""
        try:
            told = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        choices = told.get("choices") if isinstance(told, dict) else None
        if not isinstance(choices, list) or len(choices) > 1:
            return None
        plain = all(isinstance(one, dict) and _is_plain(one) for one in choices)
        return told if plain else None


def _is_plain(choice: dict[str, Any]) -> bool:
    """Whether it says nothing but text."""
    delta = choice.get("delta", {"content": choice.get("text")})
    more = {k: v for k, v in choice.items() if v is not None}.keys() - _CHOICE
    said = {k: v for k, v in delta.items() if v is not None}.keys() - {"role", "content"}
    return not more and not said and isinstance(delta.get("content") or "", str)


_CHOICE = frozenset(("index", "text", "delta", "finish_reason", "stop_reason"))


def _text_of(told: dict[str, Any]) -> str:
    texts = [one.get("delta", {}).get("content") or one.get("text") for one in told["choices"]]
    return "".join(text for text in texts if text)


def _set_text(told: dict[str, Any], text: str) -> None:
    for choice in told["choices"]:
        if "delta" in choice:
            choice["delta"]["content"] = text
        else:
            choice["text"] = text


def _event(told: dict[str, Any]) -> bytes:
    return _DATA + b" " + orjson.dumps(told) + _END
