"""Bodies of completions, from whoever sends them: checked, bounded, and read in short turns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from router.http.apis import Api
from router.http.asgi import BODY, Receive, Scope, header, read_body, too_large
from router.http.encodings import HEADER, decoded, encoding_of
from router.http.errors import RequestError, RouterError
from router.http.model_field import require_one_model, with_model
from router.http.outline import (
    LONGEST_SESSION,
    check_session,
    claims_of,
    model_of,
    outline,
    outline_shortened,
    previous_of,
)
from router.http.schemas import Claims, CompletionRequest, load
from router.http.shorten import SMALL, STUB, Shortened, shorten
from solver.routing.fair import Weight, alike
from solver.routing.portions import Portions

_USUAL = b"application/json"
_JSON = re.compile(rb"\s*application/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)


def is_json(kind: bytes | None) -> bool:
    """Whether a body of this content type, or of none, is JSON."""
    return kind is None or kind == _USUAL or _JSON.fullmatch(kind) is not None


def check_json(scope: Scope) -> None:
    """Whether a body is said to be JSON, as it is, see `check_type` and `check_encoding`."""
    check_type(scope)
    check_encoding(header(scope, HEADER))


def check_encoding(value: bytes | None) -> None:
    """Whether a body comes as it is.

    Raises:
        RequestError: 415 if it is said to be compressed.
    """
    if value is not None and value.strip().lower() not in (b"", b"identity"):
        raise RequestError(
            "The request's body is compressed ('content-encoding'); send it as it is.",
            code="unsupported_content_encoding",
            status=415,
        )


def check_type(scope: Scope) -> None:
    """Whether a body is said to be JSON.

    A page of any origin may make a browser POST text, forms, or a body of no type, but JSON only
    where it is allowed to. Who is no browser may leave the type out.

    Raises:
        RequestError: 415 if it is said to be anything else.
    """
    kind = header(scope, b"content-type")
    if not is_json(kind) or (kind is None and header(scope, b"origin") is not None):
        raise RequestError(
            "The request's body must be JSON, and said to be: set the header "
            "'content-type: application/json'.",
            code="unsupported_media_type",
            status=415,
        )


class BodyMemory:
    """Counts the bytes of all bodies that are held, by tenant, in `portions` of `limit`.

    Beyond that, or a tenant's portion of it, `full` makes the error that the tenant gets.
    """

    def __init__(
        self, limit: int, full: Callable[[str], RouterError], weight: Weight = alike
    ) -> None:
        self.limit, self.full, self.portions = limit, full, Portions(weight)

    @property
    def held(self) -> int:
        """Bytes."""
        return self.portions.total


class Held:
    """What one request holds of it, from the first byte of its body on until it is let go.

    Attributes:
        tenant: whose it is, from before its body comes.
    """

    __slots__ = ("_count", "_memory", "tenant")

    def __init__(self, memory: BodyMemory, tenant: str = "") -> None:
        self._memory, self._count, self.tenant = memory, 0, tenant

    def take(self, count: int) -> None:
        """More of its body has come.

        Raises:
            RouterError: if there is no room for it.
        """
        portions, most = self._memory.portions, self._memory.limit
        full = portions.total + count > most
        if full or not portions.may_have(self.tenant, count, most):
            raise self._memory.full(self.tenant)
        portions.add(self.tenant, count)
        self._count += count

    def let_go(self) -> None:
        """The request has ended."""
        if self._count:
            self._memory.portions.add(self.tenant, -self._count)
            self._count = 0


class BodyReader:
    """Reads bodies of at most `limit` bytes; `decodes`: also compressed ones, of as many then."""

    def __init__(self, limit: int, *, decodes: bool = False) -> None:
        self._limit, self._decodes = limit, decodes
        # Of many large bodies one is looked at at a time: each takes short turns, all together not.
        self._one = asyncio.Lock()

    async def read(self, scope: Scope, receive: Receive, held: Held | None = None) -> bytes:
        """The request's body, counted in `held`.

        Raises:
            RequestError: if it is no JSON by its headers, or over the limit.
            RouterError: if too much is held.
            ClientDisconnected: if the client does not wait to the end of its own body.
        """
        encoding = self._encoding(scope)
        check_type(scope)
        if held is None:
            return await read_body(scope, receive, self._limit)
        body = await read_body(scope, receive, self._limit, held.take)
        return await self.decode(body, encoding, held) if encoding else body

    def at_once(self, scope: Scope, held: Held) -> bytes | None:
        """A body that has come with its head, if it is small; its head has been looked at.

        Raises:
            RequestError, RouterError: as `read`.
        """
        body: bytes = scope[BODY]
        size = len(body)
        if size > SMALL:
            return None
        if size > self._limit:
            raise too_large(self._limit)
        held.take(size)
        return body

    def _encoding(self, scope: Scope) -> str:
        value = header(scope, HEADER)
        if value is None:
            return ""
        if not self._decodes:
            check_encoding(value)
        return encoding_of(value)

    async def decode(self, body: bytes, encoding: str, held: Held) -> bytes:
        """A body as it was before it was compressed, counted in `held`.

        Raises:
            RequestError: if it is broken, or over the limit.
            RouterError: if too much is held.
        """
        async with self._one:
            whole = await asyncio.to_thread(decoded, body, encoding, self._limit)
        held.take(max(0, len(whole) - len(body)))
        return whole

    async def names(self, body: bytes) -> tuple[str, str, Claims]:
        """The model that a body names, the answer that it goes on from, and what else it claims.

        The first two are empty if it names none.

        Raises:
            RequestError: if it is no JSON object, or its model is no name.
        """
        longest = LONGEST_SESSION
        if len(body) > SMALL:
            longest = STUB
            async with self._one:
                body = (await self._shortened(body)).body
        else:
            require_one_model(body)
        found = load(body)
        check_session(found, longest)
        return model_of(found), previous_of(found), claims_of(found)

    async def with_model(self, body: bytes, model: str, *, named: bool) -> bytes:
        """The same body with this model in the place of its own, or of none; it has one at most."""
        if len(body) <= SMALL:
            return with_model(body, model, named=named)
        return await asyncio.to_thread(with_model, body, model, named=named)

    async def outline(self, body: bytes, api: Api) -> CompletionRequest:
        """What a router needs to know of a body.

        Raises:
            RequestError: if it cannot be routed.
        """
        if len(body) <= SMALL:
            return self.outline_small(body, api)
        async with self._one:
            return outline_shortened(await self._shortened(body), len(body), api)

    @staticmethod
    def outline_small(body: bytes, api: Api) -> CompletionRequest:
        """The same of a body of at most `SMALL` bytes."""
        require_one_model(body)
        return outline(body, api)

    @staticmethod
    async def _shortened(body: bytes) -> Shortened:
        short = await shorten(body)
        await asyncio.to_thread(require_one_model, short.body)
        return short
