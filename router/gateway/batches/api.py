"""``/v1/files`` and ``/v1/batches``, as OpenAI's clients ask for them.

A tenant is whose key it is; where there are no keys, all clients are one. What changes something is
taken from pages of this gateway's own origin, or of an allowed one, alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.batches.batches import Batches
from router.gateway.batches.checking import ENDPOINTS
from router.gateway.batches.database import StoreLost
from router.gateway.batches.files import Files, Found
from router.gateway.batches.lines import Counts
from router.gateway.batches.objects import batch_object, file_object, list_object
from router.gateway.batches.tables import Status
from router.gateway.batches.upload import Upload
from router.http.asgi import ClientDisconnected, read_body
from router.http.bodies import check_json
from router.http.browsers import is_own
from router.http.drain import Drain
from router.http.errors import ForbiddenError, RequestError
from router.http.schemas import load

log = logging.getLogger(__name__)

# Of a body that makes a batch: its metadata may have 16 keys of 64 and values of 512 characters.
MOST_BODY = 256 << 10
MOST_KEYS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW_S = 30 * 86_400
_WINDOW = re.compile(r"([1-9]\d{0,6})([smhd])")
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """See the module; `more` is told of a batch beside OpenAI's fields, `wake` its runner."""

    def __init__(
        self,
        files: Files,
        batches: Batches,
        most_line: int,
        origins: Collection[str],
        drain: Drain,
        wake: Callable[[], None],
        more: Callable[[Found, Counts], dict[str, Any]],
    ) -> None:
        self._files, self._batches, self._most_line = files, batches, most_line
        self._origins, self._drain, self._wake, self._more = origins, drain, wake, more

    def add_to(self, app: FastAPI) -> None:
        """Answer on an application's paths."""
        for method, path, handler in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list_files),
            ("GET", "/v1/files/{id}", self._file),
            ("DELETE", "/v1/files/{id}", self._delete),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list_batches),
            ("GET", "/v1/batches/{id}", self._batch),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ):
            app.router.add_route(path, self._guarded(handler), methods=[method])

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if request.method not in ("GET", "HEAD"):
                self._drain.check()
                if not is_own(request.scope, self._origins):
                    what = "Pages of this origin may not change files and batches."
                    raise ForbiddenError(what, code="origin_not_allowed")
            try:
                return await handler(request)
            except (ClientDisconnect, ClientDisconnected):
                return Response(status_code=400)  # for nobody
            except StoreLost as error:
                about = {"path": request.url.path, "why": error.why}
                log.warning("batches cannot be read or written", extra=about)
                raise

        return guarded

    async def _upload(self, request: Request) -> Response:
        upload = Upload(self._files, _tenant(request), self._most_line)
        kind = request.headers.get("content-type", "")
        return _json(file_object(await upload.run(kind, request.stream())))

    async def _list_files(self, request: Request) -> Response:
        asked = {name: _askable(text) for name, text in request.query_params.items()}
        order = asked.get("order", "desc")
        if order not in ("asc", "desc"):
            raise RequestError("'order' must be asc or desc.", param="order")
        rows, more = await self._files.list(
            _tenant(request),
            asked.get("after"),
            _limit(request, 10_000),
            asked.get("purpose"),
            ascending=order == "asc",
        )
        return _json(list_object([file_object(row) for row in rows], more=more))

    async def _file(self, request: Request) -> Response:
        return _json(file_object(await self._files.get(_id(request), _tenant(request))))

    async def _delete(self, request: Request) -> Response:
        name = _id(request)
        await self._files.delete(name, _tenant(request))
        return _json({"id": name, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        found = await self._files.get(_id(request), _tenant(request))
        headers = {"content-length": str(found.bytes)}
        pieces = await _begun(self._files.content(found))
        return StreamingResponse(pieces, headers=headers, media_type="application/jsonl")

    async def _create(self, request: Request) -> Response:
        check_json(request.scope)
        data = load(await read_body(request.scope, request.receive, MOST_BODY))
        endpoint, window = data.get("endpoint"), data.get("completion_window")
        if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
            message = f"'endpoint' must be one of {', '.join(ENDPOINTS)}."
            raise RequestError(message, param="endpoint", code="invalid_endpoint")
        window_s, metadata = _window_s(window), _metadata(data.get("metadata"))
        file, tenant = data.get("input_file_id"), _tenant(request)
        if not isinstance(file, str):
            message = "'input_file_id' must be the id of a file of purpose 'batch'."
            raise RequestError(message, param="input_file_id")
        found = await self._files.get(_askable(file), tenant)
        if found.purpose != "batch":
            message = f"The file '{file}' has the purpose '{found.purpose}'; it must be 'batch'."
            raise RequestError(message, param="input_file_id", code="invalid_purpose")
        await self._files.check_quota(tenant, 1)
        grant: Grant | None = request.scope.get(GRANT)
        key = "" if grant is None else grant.key.sha256
        made = (str(window), window_s)
        row = await self._batches.create(tenant, key, endpoint, file, made, metadata)
        self._wake()
        return _json(batch_object(row, Counts(), {}))

    async def _list_batches(self, request: Request) -> Response:
        after = request.query_params.get("after")
        rows, more = await self._batches.list(
            _tenant(request), None if after is None else _askable(after), _limit(request, 100, 20)
        )
        told = [batch_object(row, counts, self._more(row, counts)) for row, counts in rows]
        return _json(list_object(told, more=more))

    async def _batch(self, request: Request) -> Response:
        row, counts = await self._batches.get(_id(request), _tenant(request))
        return _json(batch_object(row, counts, self._more(row, counts)))

    async def _cancel(self, request: Request) -> Response:
        name, tenant = _id(request), _tenant(request)
        await self._batches.cancel(name, tenant)
        row, counts = await self._batches.get(name, tenant)
        if row.status not in (Status.CANCELLING, Status.CANCELLED):
            message = f"The batch '{name}' is {row.status} and cannot be cancelled."
            raise RequestError(message, code="batch_not_cancellable", status=409)
        self._wake()
        return _json(batch_object(row, counts, self._more(row, counts)))


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, with its first piece read: what fails at once has its own status."""
    first = await anext(pieces, b"")

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_of_it()


def _json(told: dict[str, Any]) -> Response:
    return Response(orjson.dumps(told), media_type="application/json")


def _tenant(request: Request) -> str:
    grant: Grant | None = request.scope.get(GRANT)
    return "" if grant is None else grant.key.tenant


def _id(request: Request) -> str:
    return _askable(str(request.path_params["id"]))


def _askable(text: str) -> str:
    """What a database may be asked for: nobody's name has a NUL, and PostgreSQL's text has none."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _limit(request: Request, most: int, usual: int | None = None) -> int:
    text = request.query_params.get("limit", str(usual or most))
    if re.fullmatch(r"[0-9]{1,9}", text) is None or not 1 <= int(text) <= most:
        message = f"'limit' must be a number from 1 to {most}."
        raise RequestError(message, param="limit", code="invalid_value")
    return int(text)


def _window_s(value: object) -> float:
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    seconds = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_WINDOW_S:
        raise RequestError(
            "'completion_window' must be like 24h, 30m or 90s, at most 30d.",
            param="completion_window",
            code="invalid_value",
        )
    return float(seconds)


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    good = (
        isinstance(value, dict)
        and len(value) <= MOST_KEYS
        and all(len(key) <= LONGEST_KEY and "\0" not in key for key in value)
        and all(isinstance(text, str) and len(text) <= LONGEST_VALUE for text in value.values())
        and not any("\0" in text for text in value.values())
    )
    if not good:
        message = (
            f"'metadata' must be an object of at most {MOST_KEYS} strings without NUL: keys of up "
            f"to {LONGEST_KEY} characters, values of up to {LONGEST_VALUE}."
        )
        raise RequestError(message, param="metadata", code="invalid_value")
    return {str(key): str(text) for key, text in value.items()}  # type: ignore[attr-defined]
