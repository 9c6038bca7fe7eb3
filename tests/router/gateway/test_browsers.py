"""What web pages of other origins get out of a gateway, and what it says of itself to people."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from router.gateway.app import create_app
from router.settings.gateway import GatewaySettings
from tests import http

PATH = "/v1/chat/completions"
BODY = json.dumps([])
OWN = "https://chat.example.com"
FOREIGN = "https://evil.example"


def client(**settings: object) -> httpx.AsyncClient:
    app = create_app(GatewaySettings(worker="http://w:1", **settings))  # type: ignore[arg-type]
    return http.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


# What a page can make a browser send without asking first, and what says that it is JSON.
SENT: list[tuple[dict[str, str], int]] = [
    ({"content-type": "text/plain", "origin": FOREIGN}, 415),
    ({"content-type": "text/plain;charset=UTF-8"}, 415),
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ({"content-type": "text/plain; application/json", "origin": FOREIGN}, 415),
    ({"content-type": ""}, 415),
    ({"origin": FOREIGN}, 415),
    ({"origin": "null"}, 415),
    ({"content-type": "application/json", "content-encoding": "gzip"}, 400),
    ({"content-type": "application/json", "content-encoding": "br"}, 415),
    ({"content-type": "application/json", "content-encoding": "identity"}, 400),
    ({"content-type": "application/json"}, 400),
    ({"content-type": "Application/JSON; charset=utf-8"}, 400),
    ({"content-type": "application/vnd.api+json"}, 400),
    ({}, 400),
]


async def test_a_body_has_to_say_that_it_is_json() -> None:
    """400: it was read, and is no request."""
    async with client() as browser:
        for headers, status in SENT:
            answer = await browser.post(PATH, content=BODY.encode(), headers=headers)
            assert answer.status_code == status, headers
            assert answer.json()["error"]["message"]
            assert answer.headers["x-request-id"]


async def test_only_pages_of_allowed_origins_may_look() -> None:
    for origins, origin, let_in in (
        ("", FOREIGN, False),
        (OWN, FOREIGN, False),
        (OWN, OWN + ".evil.example", False),
        (OWN, "null", False),
        (OWN + "/," + "http://localhost:3000", OWN, True),
        (OWN, OWN.upper(), True),
        ("*", FOREIGN, True),
    ):
        async with client(allowed_origins=origins) as browser:
            headers = {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            }
            for path in (PATH, "/v1/models", "/nowhere"):
                first = await browser.options(path, headers=headers)
                assert first.status_code == 204
                assert "POST" in first.headers["allow"]
                assert ("access-control-allow-origin" in first.headers) is let_in
                assert ("access-control-allow-headers" in first.headers) is let_in
            for answer in (
                await browser.get("/v1/models", headers={"origin": origin}),
                await browser.post(PATH, json=[], headers={"origin": origin}),
            ):
                allowed = answer.headers.get("access-control-allow-origin")
                assert allowed == (origin if let_in else None), (origins, origin)
            assert "access-control-allow-origin" not in (await browser.get("/health")).headers


async def test_pages_for_people_are_there_where_they_are_asked_for_and_load_nothing() -> None:
    async with client() as browser:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            assert (await browser.get(path)).status_code == 404
    async with client(docs=True) as browser:
        page = await browser.get("/docs")
        assert page.status_code == 200
        assert not re.search(r"https?://|<script|<link|<img|//", page.text.replace("</", ""))
        assert "default-src 'none'" in page.headers["content-security-policy"]
        paths = (await browser.get("/openapi.json")).json()["paths"]
        for path in ("/v1/completions", PATH, "/v1/models", "/health", "/metrics"):
            assert path in paths
            assert path in page.text


@pytest.mark.parametrize("given", ["", "a.example", "a.example,b.example"])
def test_lists_of_names_are_read(given: str) -> None:
    told: dict[str, Any] = {"worker": "http://w:1", "allowed_hosts": given}
    settings = GatewaySettings(**told)
    assert ",".join(settings.allowed_hosts) == given
