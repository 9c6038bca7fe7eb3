"""The dashboard's page: files that are served as they lie in `router/gateway/dashboard/static`.

All that it needs comes from here, by relative addresses, so that it works under any prefix; its
content policy forbids it everything else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response

from router.look.palette import base_style

FILES = Path(__file__).with_name("static")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, but asked for again: a new version shows at once
}


class _File:
    def __init__(self, body: str, suffix: str) -> None:
        self.body = body.encode()
        self.media_type = f"{KINDS[suffix]}; charset=utf-8"
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        """The file, unless the browser has it already."""
        headers = {**HEADERS, "etag": self.tag}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def add_page(app: FastAPI) -> None:
    """``/`` and what it loads from ``/dashboard/``."""
    files = {
        path.name: _File(path.read_text(encoding="utf-8"), path.suffix)
        for path in FILES.iterdir()
        if path.suffix in KINDS
    }
    page = files.pop("index.html")
    files["look.css"] = _File(base_style(), ".css")

    async def index(request: Request) -> Response:
        return page.answer(request)

    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)

    for path, endpoint in (("/", index), ("/dashboard/{name}", part)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
