"""Agents take requests from their gateways alone, where they have a secret that both know.

By the same secret gateways know each other (`router.gateway.peers`).

Rules:
- a request to an agent carries the secret in a header of its own, which ends there: neither engines
  nor clients ever get it, and what a client sends under that name stays at the gateway;
- whoever does not have it gets 401 and a challenge. A gateway tells it only to who has asked for
  it in that way: a server without an agent never hears of it;
- how well a wrong one fits does not show in the time that it takes to say no;
- probes and Prometheus look at `OPEN`, which says nothing of requests.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b

from router.http.asgi import Receive, Scope, Send, respond
from router.http.errors import Headers, error_body

SECRET = b"x-makespan-secret"
# What an agent answers to who has not told it: by this a gateway knows it for one.
CHALLENGE = (b"www-authenticate", b"Makespan")
OPEN = frozenset(("/health", "/ready", "/metrics"))
REFUSAL = (
    "This agent takes requests from its gateways alone: give the gateway the --secret-file that "
    "the agent has, or ask the gateway."
)


def is_challenge(status: int, www_authenticate: str | bytes | None) -> bool:
    """Whether it is an agent's word to who does not know its secret."""
    told = www_authenticate
    return status == 401 and told in (CHALLENGE[1], CHALLENGE[1].decode())


def prompt_key(secret: bytes | None) -> str:
    """What names of prompts begin with, for all who know the secret; without one, nothing."""
    return "" if secret is None else blake2b(secret, digest_size=16, person=b"prompts").hexdigest()


class GatewaysOnly:
    """An ASGI application before another one; `refusal` is told to who stays outside."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        secrets: Sequence[bytes],
        refusal: str = REFUSAL,
    ) -> None:
        self._app, self._secrets, self._refusal = app, tuple(secrets), refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse who does not know a secret; what knows of it is taken off the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = [value for name, value in scope["headers"] if name == SECRET]
        if told:
            kept = [pair for pair in scope["headers"] if pair[0] != SECRET]
            scope = {**scope, "headers": kept}
        if scope["path"] in OPEN or any(map(self._is_known, told)):
            await self._app(scope, receive, send)
            return
        headers: Headers = [(b"content-type", b"application/json"), CHALLENGE]
        body = error_body(self._refusal, "invalid_request_error", code="unauthorized")
        await respond(send, 401, headers, body)

    def _is_known(self, told: bytes) -> bool:
        # All are compared, whichever fits: neither which nor how well shows.
        return sum(hmac.compare_digest(told, secret) for secret in self._secrets) > 0
