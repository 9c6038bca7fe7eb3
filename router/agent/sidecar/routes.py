"""The agent's own pages; all others are the upstream's."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from router.agent.attempts import Attempts
from router.agent.sidecar.state import SidecarReporter
from router.drain import Drain
from router.metrics import CONTENT_TYPE
from router.wire import RECALL_PATH, STATE_PATH, Recall, WireError


def add_routes(app: FastAPI, attempts: Attempts, reporter: SidecarReporter, drain: Drain) -> None:
    """Health, metrics, state and recall."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not reporter.serves:
            raise HTTPException(503, "the upstream is down; see the log")
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if drain.begun:
            raise HTTPException(503, "shutting down")
        return await health()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(reporter.render(), media_type=CONTENT_TYPE)

    @app.get(STATE_PATH)
    async def state() -> StreamingResponse:
        if not reporter.serves:
            raise HTTPException(503, "the upstream is down; see the log")
        return StreamingResponse(reporter.stream(), media_type="application/x-ndjson")

    @app.post(RECALL_PATH)
    async def recall(request: Request) -> Response:
        """Give back those that are still held."""
        try:
            wanted = Recall.decode(await request.body())
        except WireError as error:
            raise HTTPException(400, str(error)) from error
        return Response(attempts.recall(wanted).encode(), media_type="application/json")
