"""The dashboard's files: all there, all from here, and in what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from router.gateway.dashboard.page import FILES, add_page
from router.look.palette import base_style
from tests import http
from tests.helpers import ROOT


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    add_page(app)
    return http.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_a_browser_gets_a_page_that_may_load_nothing_from_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<style" not in answer.text
    assert not re.search(r"\s(style|on\w+)=", answer.text)


async def test_whatever_the_page_and_its_modules_name_is_there(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    todo = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page)
    assert "dashboard/app.js" in todo
    seen = set()
    while todo:
        path = todo.pop()
        seen.add(path)
        answer = await client.get(f"/{path}")
        assert answer.status_code == 200, path
        if path.endswith(".js"):
            assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
            imports = re.findall(r'from "\./([^"]+)"', answer.text)
            todo += [f"dashboard/{name}" for name in imports if f"dashboard/{name}" not in seen]
    files = {f"dashboard/{path.name}" for path in FILES.iterdir()} - {"dashboard/index.html"}
    assert seen == files | {"dashboard/look.css"}
    assert (await client.get("/dashboard/look.css")).text == base_style()


async def test_a_browser_that_has_it_is_told_so(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/dashboard/app.js")).headers["etag"]
    again = await client.get("/dashboard/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.head("/")).status_code == 200


async def test_nothing_else_is_served(client: httpx.AsyncClient) -> None:
    for name in ("nothing.js", "index.html", "..%2fgateway%2fpage.py"):
        assert (await client.get(f"/dashboard/{name}")).status_code == 404


def test_the_wheel_has_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {f"router/gateway/dashboard/static/{path.name}" for path in FILES.iterdir()}
    assert files | {"router/look/base.css", "router/lab/reports/report.css"} <= names
