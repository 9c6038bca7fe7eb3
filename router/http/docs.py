"""``/docs`` and ``/openapi.json``: what an application answers to, from its own routes alone."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

# Nothing is loaded from anywhere.
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1><p><a href="openapi.json">openapi.json</a></p>
<table>{rows}</table></html>
"""
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
}
_ANSWER = {"200": {"description": "As OpenAI's, as JSON or as a stream of server-sent events."}}


def add_docs(app: FastAPI, completions: dict[str, str]) -> None:
    """Both pages; `completions` : paths that are no routes of FastAPI, and what they are."""

    def schema() -> dict[str, Any]:
        found = get_openapi(title=app.title, version="1", routes=app.routes)
        for path, summary in completions.items():
            post = {"summary": summary, "requestBody": _BODY, "responses": _ANSWER}
            found["paths"][path] = {"post": post}
        return found

    async def openapi() -> dict[str, Any]:
        return schema()

    async def docs() -> Response:
        rows = "".join(
            f"<tr><td>{method.upper()}<td><code>{escape(path)}</code>"
            f"<td>{escape(str(told.get('description') or told.get('summary', '')))}"
            for path, methods in schema()["paths"].items()
            for method, told in methods.items()
        )
        page = _PAGE.format(title=escape(app.title), rows=rows)
        headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    app.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
