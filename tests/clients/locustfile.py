"""Users who ask, read the stream to its end, and ask again: ``locust -f`` this file."""

from __future__ import annotations

import json
import time

from locust import HttpUser, task

BODY = {
    "model": "llama-65b",
    "messages": [{"role": "user", "content": "How many clips did Natalia sell?"}],
    "max_tokens": 40,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


class Reader(HttpUser):
    """Reads as fast as tokens come; first tokens have statistics of their own."""

    @task
    def chat(self) -> None:
        start = time.perf_counter()
        first, tokens, done = None, 0, False
        with self.client.post(
            "/v1/chat/completions", json=BODY, stream=True, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(answer.text)
                return
            for line in answer.iter_lines():
                if line == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    first = first or time.perf_counter()
                    tokens = (json.loads(line[6:])["usage"] or {}).get("completion_tokens", 0)
            if not done or tokens != BODY["max_tokens"]:
                answer.failure(f"the stream ended after {tokens} tokens, done: {done}")
        if first is not None:
            self.environment.events.request.fire(
                request_type="SSE",
                name="first token",
                response_time=1000 * (first - start),
                response_length=0,
                exception=None,
                context={},
            )
