"""What both applications need of FastAPI: OpenAI's error object for whatever goes wrong."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from router.errors import error_body


def add_error_handlers(app: FastAPI) -> None:
    """Answer unknown paths, wrong methods, bad parameters and defects in OpenAI's form."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {_phrase(error)}"
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

    async def defect(request: Request, _: Exception) -> Response:
        body = error_body(f"{request.url.path}: internal error; see the log.", "server_error")
        return _json(500, body, {})

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, defect)


def _phrase(error: HTTPException) -> str:
    return str(error.detail) if error.detail else HTTPStatus(error.status_code).phrase


def _json(status: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status, headers, media_type="application/json")
