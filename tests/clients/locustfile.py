"""Users who ask, read the stream to its end, and ask again: ``locust -f`` this file.

Locust times a streamed answer up to its head; `whole stream` is up to its last event. When the run
time is over it may cut requests short that it has not counted yet: with ``--asks`` every user asks
so often and stops, and what locust counts is what was sent.
"""

from __future__ import annotations

import json
import time

from locust import HttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.exception import StopUser

BODY = {
    "model": "llama-65b",
    "messages": [{"role": "user", "content": "How many clips did Natalia sell?"}],
    "max_tokens": 40,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@events.init_command_line_parser.add_listener
def add_asks(parser: LocustArgumentParser) -> None:
    parser.add_argument("--asks", type=int, default=0, help="Requests of each user (0: no limit)")


class Reader(HttpUser):
    """Reads as fast as tokens come."""

    ended = 0  # requests, of all users

    def on_start(self) -> None:
        self.asked = 0

    @task
    def chat(self) -> None:
        start = time.perf_counter()
        tokens, done = 0, False
        with self.client.post(
            "/v1/chat/completions", json=BODY, stream=True, catch_response=True
        ) as answer:
            for line in answer.iter_lines():
                done = done or line == b"data: [DONE]"
                if line.startswith(b"data: {"):
                    usage = json.loads(line[6:]).get("usage") or {}
                    tokens = usage.get("completion_tokens", 0)
            if answer.status_code != 200 or not done or tokens != BODY["max_tokens"]:
                answer.failure(f"status {answer.status_code}, {tokens} tokens, done: {done}")
        self.environment.events.request.fire(
            request_type="SSE",
            name="whole stream",
            response_time=1000 * (time.perf_counter() - start),
            response_length=0,
            exception=None,
            context={},
        )
        self._count()

    def _count(self) -> None:
        options = self.environment.parsed_options
        Reader.ended += 1
        self.asked += 1
        if options.asks and Reader.ended == options.asks * options.num_users:
            self.environment.runner.quit()
        if self.asked == options.asks:
            raise StopUser
