"""Which model a request means that is relayed as it is, told so that its worker reads the same.

Rules:
- it is in the body, as JSON or in a form, or in the query; where two of them name two, or one names
  it twice, the request is refused: engines differ in which counts;
- of a body of another kind nothing is known: a key that may use some models only sends none, as an
  engine may read it whatever it is said to be.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from router.http.asgi import Scope, header
from router.http.bodies import BodyReader, is_json
from router.http.errors import RequestError
from router.http.forms import boundary_of, field_at
from router.http.relayed import ambiguous_model, query_model
from router.http.schemas import NO_CLAIMS, Claims
from router.http.shorten import SMALL

KIND = b"content-type"


class Named(NamedTuple):
    """What a request calls its model, empty if it names none.

    `at`: where in a form; `json`: its body is JSON, `within`: and has it; `previous`: the answer
    that it goes on from; `claims`: what else keys may not allow.
    """

    model: str
    at: tuple[int, int] | None = None
    json: bool = False
    within: bool = False
    previous: str = ""
    claims: Claims = NO_CLAIMS

    async def become(self, model: str, body: bytes, bodies: BodyReader) -> bytes:
        """The body with another model in its place."""
        if self.at is not None:
            return body[: self.at[0]] + model.encode() + body[self.at[1] :]
        if not self.json:
            return body
        return await bodies.with_model(body, model, named=self.within)


async def read_model(scope: Scope, body: bytes, bodies: BodyReader, *, limited: bool) -> Named:
    """What it calls its model; `limited`: its key may use some only.

    Raises:
        RequestError: if that cannot be told, or its body makes no sense.
    """
    if sum(name == KIND for name, _ in scope["headers"]) > 1:
        raise RequestError("The request has more than one 'content-type'.", code="invalid_header")
    found = await _in_body(header(scope, KIND), body, bodies, limited=limited)
    asked = query_model(scope["query_string"])
    if not asked:
        return found
    if found.model and found.model != asked:
        raise ambiguous_model()
    return found._replace(model=asked)


async def _in_body(kind: bytes | None, body: bytes, bodies: BodyReader, *, limited: bool) -> Named:
    if not body:
        return Named("")
    boundary = boundary_of(kind)
    if boundary is not None:
        if len(body) <= SMALL:
            at = field_at(body, boundary, "model")
        else:
            at = await asyncio.to_thread(field_at, body, boundary, "model")
        return Named("" if at is None else body[slice(*at)].decode("utf-8", "replace"), at)
    if is_json(kind):
        model, previous, claims = await bodies.names(body)
        return Named(model, json=True, within=bool(model), previous=previous, claims=claims)
    if limited:
        raise RequestError(
            "This key may use some models only, so its request's body must be JSON or a form, and "
            "said to be, in 'content-type'.",
            code="unsupported_media_type",
            status=415,
        )
    return Named("")
