"""Who has which key, and what each may do; see `router.settings.keys` for the file.

Rules:
- a key is found by its hash, which is then compared in constant time: what a stranger learns from
  how long a look takes is of the hash, which tells nothing of a key;
- once the file has changed (`router.http.reread`), what it says holds for whoever comes
  then. Requests under way go on, and what a key has had of its minute stays had. A file that makes
  no sense changes nothing, and is one line of the log;
- what a key has had counts in all processes of a gateway together (`Tally`).
"""

from __future__ import annotations

import hmac
import time
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import floor, inf
from pathlib import Path

from router.gateway.siblings.tally import Tally
from router.http.asgi import Scope
from router.http.errors import ForbiddenError, Headers, OverLimitError, UnauthorizedError
from router.http.relayed import is_for_any_key
from router.http.reply import LIMITS
from router.http.request_headers import API_KEY, AUTHORIZATION
from router.http.reread import Reread
from router.http.schemas import Claims
from router.settings.keys import Key, hash_of, read_keys
from solver.batching.priority import Priority
from solver.routing.quota import Level, Quota

_ROUNDING = 1e-6  # of what has come back
# Where engines keep conversations, and who may make them may name them.
CONVERSATIONS = "/v1/conversations"
# In a request's scope, what its key allows; none where the gateway has no keys.
GRANT = "makespan.grant"


class Grant:
    """What one key allows, and what it has had of its minute.

    Attributes:
        key: what the file says.
    """

    def __init__(self, key: Key, tally: Tally | None = None) -> None:
        self._quota, self._tally = Quota(), tally
        self.become(key)

    def become(self, key: Key) -> None:
        """The file says something else of the same key."""
        self.key = key
        limits = key.requests_per_minute, key.tokens_per_minute
        for bucket, limit in zip((self._quota.requests, self._quota.tokens), limits, strict=True):
            bucket.change(inf if limit is None else limit)

    def counting(self) -> AbstractContextManager[Quota]:
        """What it has had of its minute, everywhere, to look at and to change."""
        if self._tally is None or not self._quota.limited:
            return nullcontext(self._quota)
        return self._tally.counting(self.key.sha256, self._quota)

    def check_model(self, *names: str) -> None:
        """Whether it may use one, by any of its names; the first is what errors call it.

        Raises:
            ForbiddenError: if not.
        """
        if not any(map(self.allows, names)):
            message = f"This key may not use the model '{names[0]}'; GET /v1/models lists those."
            raise ForbiddenError(message, param="model", code="model_not_allowed")

    def check_path(self, method: str, path: str, others: Sequence[str]) -> None:
        """Whether it may ask for what is relayed as it is; `others`: what operators name.

        Raises:
            ForbiddenError: if not.
        """
        if not self.key.admin and not is_for_any_key(method, path, others):
            raise ForbiddenError(
                f"{path} wants a key with the right 'admin', which this one has not, or to be "
                "named by the gateway's setting 'relay'.",
                code="admin_only",
            )

    def check_claims(self, claims: Claims, others: Sequence[str]) -> None:
        """Whether it may say so in a body; `others`: paths that operators name.

        Engines differ in which numbers go first, and one that is 0 may go before bulk work. Whose a
        conversation is that they keep, they do not know.

        Raises:
            ForbiddenError: if not.
        """
        for name in claims.adapters:
            self.check_model(name)
        if claims.kept:
            self.check_path("POST", CONVERSATIONS, others)
        highest, rank = self.key.priority, claims.rank
        usual = rank is None or (rank == 0 and highest is Priority.DEFAULT)
        if not usual and highest is not Priority.INTERACTIVE:
            raise ForbiddenError(
                "This key may not set the engine's own 'priority'; it wants one that may be "
                "'interactive'.",
                param="priority",
                code="priority_not_allowed",
            )

    def allows(self, model: str) -> bool:
        """Whether it may use a model."""
        return self.key.models is None or model in self.key.models

    def reserve(self, tokens: float) -> Reservation:
        """A request of so many tokens, as predicted.

        Raises:
            OverLimitError: if it has to wait for its minute.
        """
        now = time.monotonic()
        with self.counting() as quota:
            waits_s = quota.take(tokens, now)
            levels = quota.requests.level(now), quota.tokens.level(now)
        at = 0 if waits_s[0] >= waits_s[1] else 1
        level = levels[at]
        if level is not None and waits_s[at] > 0:
            what, asked = (("requests", 1.0), ("tokens", tokens))[at]
            raise OverLimitError(what, level.limit, level.remaining, asked, waits_s[at])
        return Reservation(self, tokens)

    def headers(self) -> Headers:
        """What is left of its minute, as OpenAI tells it; nothing where there are no limits."""
        now = time.monotonic()
        with self.counting() as quota:
            levels = quota.requests.level(now), quota.tokens.level(now)
        found = Headers()
        for name, level in zip(("requests", "tokens"), levels, strict=True):
            if level is not None:
                found += _told(name, level)
        return found


class Reservation:
    """The tokens that a request has been let in with."""

    def __init__(self, grant: Grant, tokens: float) -> None:
        self._grant, self._tokens = grant, tokens

    def settle(self, used: float | None) -> None:
        """It has ended, and has used so many; None: nobody knows, so it is taken at its word."""
        if used is not None:
            with self._grant.counting() as quota:
                quota.settle(self._tokens, used)


class Keys:
    """All keys of a file."""

    def __init__(self, path: Path, tally: Tally | None = None) -> None:
        """Read them; `tally`: what they have had of all processes of the gateway.

        Raises:
            BadSettings: if the file makes no sense.
        """
        self._tally = tally
        self._reread = Reread([path], "keys", partial(read_keys, path), self._take)
        self._grants = {key.sha256: Grant(key, tally) for key in read_keys(path)}
        self._weights = self._weighed()

    def _weighed(self) -> dict[str, float]:
        return {grant.key.tenant: grant.key.weight for grant in self._grants.values()}

    def weight(self, tenant: str) -> float:
        """Of a tenant's share; 1 if no key is its."""
        return self._weights.get(tenant, 1.0)

    def find(self, scope: Scope, *, browser: bool = False) -> tuple[Grant | None, list[bytes]]:
        """What a request's key allows, and that key; without one, what it says that its key is.

        `browser`: the password that a person has told theirs is a key, too.
        """
        given = list(_given(scope, browser=browser))
        for key in given:
            found = hash_of(key)
            grant = self._grants.get(found)
            if grant is not None and hmac.compare_digest(grant.key.sha256, found):
                return grant, [key]
        return None, given

    def grant_of(self, sha256: str, tenant: str) -> Grant:
        """What a key allows, by its hash; if it is known no more, what another of its tenant does.

        Raises:
            UnauthorizedError: if the tenant has none.
        """
        grant = self._grants.get(sha256)
        if grant is None or grant.key.tenant != tenant:
            all_of_it = (one for one in self._grants.values() if one.key.tenant == tenant)
            grant = next(all_of_it, None)
        if grant is None:
            raise UnauthorizedError(given=True)
        return grant

    async def run(self) -> None:
        """Read the file again whenever it has changed, until cancelled."""
        await self._reread.run()

    def _take(self, keys: Sequence[Key]) -> int:
        grants: dict[str, Grant] = {}
        for key in keys:
            grant = self._grants.get(key.sha256)
            if grant is None:
                grant = Grant(key, self._tally)
            elif grant.key != key:
                grant.become(key)
            grants[key.sha256] = grant
        self._grants = grants
        self._weights = self._weighed()
        return len(grants)


def _given(scope: Scope, *, browser: bool) -> Iterator[bytes]:
    """What a request says that its key is; Anthropic's clients may send two headers."""
    for name, value in scope["headers"]:
        if name == API_KEY:
            yield value.strip()
        elif name == AUTHORIZATION:
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield rest.strip()
            elif scheme.lower() == b"basic" and browser:
                yield _password(rest)


def _password(told: bytes) -> bytes:
    try:
        return b64decode(told.strip(), validate=True).partition(b":")[2]
    except NoBase64:
        return b""


def _told(name: str, level: Level) -> Headers:
    """OpenAI's three headers of a limit."""
    said = {
        "limit": _amount(level.limit, level.limit),
        "remaining": _amount(level.remaining, level.limit),
        "reset": _duration(level.reset_s),
    }
    return [(LIMITS + f"{what}-{name}".encode(), text.encode()) for what, text in said.items()]


def _amount(count: float, limit: float) -> str:
    """As many whole ones as may be had at once; of less than one a minute, the fraction."""
    return f"{floor(count + _ROUNDING):d}" if limit >= 1 else f"{count:.3g}"


def _duration(seconds: float) -> str:
    """As Go writes it, and with it OpenAI: 6m0s, 1.5s, 20ms, 0s."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return (f"{minutes:.0f}m" if minutes else "") + f"{rest:g}s"
