"""Any process of a gateway answers for all: pages that tell of one are put together here.

Rules:
- each is asked for the very page, and answers for itself on its own socket (`Alone`);
- metrics add up (`router.observe.merged`), also those of processes that have ended;
- workers' requests in flight add up, the rest is as this process sees it;
- the latest plan is the latest of all; an explanation is asked of the others where it is not known;
- a dashboard asks for what the others' would show (`router.gateway.dashboard.merged`);
- everything else is the same at each, or about this process alone (``/ready``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from router.gateway.siblings.ask import FRAMES, KEPT, Siblings
from router.gateway.siblings.folder import Folder
from router.http.asgi import Message, Receive, Scope, Send, respond
from router.http.errors import Headers
from router.observe.merged import merge

App = Callable[[Scope, Receive, Send], Awaitable[None]]
ALONE = "makespan.alone"
_METRICS = "/metrics"
_JSON = [(b"content-type", b"application/json")]
_EXPLAIN = "/makespan/v1/requests/"


class Alone:
    """The application, answering for this process only.

    `frames`: what its dashboard shows; `kept`: which worker has an answer, by its name.
    """

    def __init__(
        self, app: App, frames: Callable[[], object], kept: Callable[[str], bytes | None]
    ) -> None:
        self._app, self._frames, self._kept = app, frames, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and scope["path"] == FRAMES:
            await respond(send, 200, _JSON, orjson.dumps(self._frames()))
        elif scope["type"] == "http" and scope["path"].startswith(KEPT):
            page = self._kept(scope["path"].removeprefix(KEPT))
            await respond(send, 404 if page is None else 200, _JSON, page or b"{}")
        else:
            await self._app({**scope, ALONE: True}, receive, send)


class _Page:
    """An answer that waits until the others have answered."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, Headers(), b""

    async def send(self, message: Message) -> None:
        """As ASGI has it."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message.get("body", b"")

    def replace(self, body: bytes) -> None:
        """It says this, well."""
        self.status, self.body = 200, body
        self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        self.headers.append((b"content-length", str(len(body)).encode()))

    async def pass_on(self, send: Send) -> None:
        """To the client."""
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body})


class Together:
    """The middleware; see the module."""

    def __init__(self, app: App, *, folder: Folder) -> None:
        self._app, self._folder, self._siblings = app, folder, Siblings(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        put = self._put(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if put is None:
            await self._app(scope, receive, send)
            return
        page = _Page()
        await self._app(scope, receive, page.send)
        if scope.get(ALONE):
            if scope["path"] == _METRICS:
                self._folder.keep(page.body)
        else:
            await put(page, scope["raw_path"].decode("latin-1"))
        await page.pass_on(send)

    def _put(self, scope: Scope) -> Callable[[_Page, str], Awaitable[None]] | None:
        """What makes this process's answer that of all."""
        if scope["path"].startswith(_EXPLAIN):
            return self._explanation
        return {
            _METRICS: self._metrics,
            "/makespan/v1/workers": self._workers,
            "/makespan/v1/plans/latest": self._plan,
        }.get(scope["path"])

    async def _metrics(self, page: _Page, target: str) -> None:
        self._folder.keep(page.body)
        answers = await self._siblings.ask(target)
        live = [page.body.decode(), *(text.decode() for text in answers.values())]
        page.replace(await asyncio.to_thread(self._merge, live, list(answers)))

    def _merge(self, live: Sequence[str], answered: Sequence[int]) -> bytes:
        return merge(live, self._folder.silent(answered))

    async def _workers(self, page: _Page, target: str) -> None:
        seen = orjson.loads(page.body)
        others: dict[str, list[dict[str, Any]]] = {}
        for text in (await self._siblings.ask(target)).values():
            for worker in orjson.loads(text)["workers"]:
                others.setdefault(worker["url"], []).append(worker)
        for worker in seen["workers"]:
            worker["in_flight"] += sum(one["in_flight"] for one in others.get(worker["url"], ()))
        page.replace(orjson.dumps(seen))

    async def _plan(self, page: _Page, target: str) -> None:
        texts = list((await self._siblings.ask(target)).values())
        if page.status == 200:
            texts.append(page.body)
        if texts:
            page.replace(max(texts, key=lambda text: orjson.loads(text)["planned_at"]))

    async def _explanation(self, page: _Page, target: str) -> None:
        if page.status != 200:
            found = (await self._siblings.ask(target)).values()
            if found:
                page.replace(next(iter(found)))
