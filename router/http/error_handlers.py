"""What both applications need of FastAPI: OpenAI's error object for whatever goes wrong."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from router.http.errors import RouterError, error_body

# What load balancers and clients look at without wanting the body.
_ALSO_HEAD = frozenset(("/health", "/ready", "/metrics", "/v1/models"))


def answer_head(app: FastAPI) -> None:
    """Let HEAD ask what GET does; the server leaves the body out."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and route.path in _ALSO_HEAD:
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def add_error_handlers(app: FastAPI) -> None:
    """Answer unknown paths, wrong methods, bad parameters and defects in OpenAI's form."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {_phrase(error)}"
        if error.status_code == 404:
            message += _hint(app, request.url.path)
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        code = HTTPStatus(error.status_code).name.lower()
        body = error_body(message, kind, code=code)
        return _json(error.status_code, body, dict(error.headers or {}))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        body = error_body(f"{request.url.path}: {where}: {first['msg']}", "invalid_request_error")
        return _json(400, body, {})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RouterError)
        headers = {name.decode(): value.decode() for name, value in error.headers()}
        return _json(error.status, error.body(), headers)

    async def defect(request: Request, _: Exception) -> Response:
        body = error_body(f"{request.url.path}: internal error; see the log.", "server_error")
        return _json(500, body, {})

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RouterError, refused)
    app.add_exception_handler(Exception, defect)


def _hint(app: FastAPI, path: str) -> str:
    """The path that was perhaps meant: base URLs lack their ``/v1``, or have it twice."""
    known = {getattr(route, "path", None) for route in app.routes}
    tidy = "/" + "/".join(part for part in path.split("/") if part)
    for meant in (tidy, "/v1" + tidy, tidy.replace("/v1/v1/", "/v1/")):
        if meant != path and meant in known:
            return f"; did you mean {meant}?"
    return ""


def _phrase(error: HTTPException) -> str:
    return str(error.detail) if error.detail else HTTPStatus(error.status_code).phrase


def _json(status: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status, headers, media_type="application/json")
