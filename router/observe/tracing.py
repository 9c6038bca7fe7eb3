"""One trace a request: what its client sent along, and what is handed over when it has ended.

Rules:
- while a request runs nothing is built: its spans are made at its end, from the times that were
  noted anyway, and a sink takes them from there;
- off, this costs a look at one header: the trace is known to log lines, and the client's headers go
  on to the worker as they came;
- a ``traceparent`` that is not one counts as none (W3C Trace Context, section 3.2), and its
  ``tracestate`` with it; the client's decision to sample holds, for others the ratio decides.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from contextlib import suppress
from importlib.util import find_spec

from router.http.errors import Headers
from router.observe.spans import SAMPLED, Sink, Span, TraceContext, new_id
from router.settings.base import BadSettings
from router.settings.live import Live

log = logging.getLogger(__name__)

PARENT = b"traceparent"
_KNOWN_FLAGS = 0x03  # sampled, and random trace id (level 2)
# Later versions may say more after the flags; "ff" is none. Ids of nothing but zeros are none.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
INSTALL = "pip install '.[otel]' in Makespan's folder"


class Tracing:
    """Begins and ends the traces of one process; without a sink it is not `on`."""

    def __init__(self, sink: Sink | None = None, ratio: float = 1.0) -> None:
        self._sink, self._most = sink, ratio * 2.0**64
        self.on = sink is not None

    def begin(self, headers: Headers) -> TraceContext | None:
        """The trace of a request that has come; None if it has none."""
        parent = read_traceparent(headers)
        if self._sink is None:
            return parent
        if parent is None:
            trace_id = new_id(128)
            return TraceContext(
                trace_id, None, new_id(), SAMPLED * (int(trace_id[16:], 16) < self._most)
            )
        if not parent.flags & SAMPLED:
            return parent
        return TraceContext(parent.id, parent.parent_id, new_id(), parent.flags)

    def end(self, trace: TraceContext, root: Span) -> None:
        """A recorded request has ended."""
        if self._sink is not None and trace.span_id is not None:
            root.id = trace.span_id
            self._sink.send(trace, root)

    async def close(self, seconds: float) -> None:
        """Deliver what is left, for so long at most."""
        if self._sink is not None:
            await asyncio.to_thread(self._sink.close, seconds)


def read_traceparent(headers: Headers) -> TraceContext | None:
    """What the client says of its trace; None if it says nothing, or no sense."""
    found, count = b"", 0
    for name, value in headers:
        if name == PARENT:
            found, count = value, count + 1
    if count != 1:
        return None
    match = _TRACEPARENT.fullmatch(found)
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, parent_id, flags = match[2].decode(), match[3].decode(), int(match[4], 16)
    return TraceContext(trace_id, parent_id, None, flags & _KNOWN_FLAGS)


def open_tracing(settings: Live, service: str, instance: str | None = None) -> Tracing:
    """Tracing as the settings, or OpenTelemetry's own variables, want it.

    Raises:
        BadSettings: if it is wanted, and what it needs is not installed.
    """
    asked = settings.otel_endpoint is not None
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = next((name for name in variables if os.environ.get(name)), None)
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if off or not (asked or named):
        return Tracing()
    if not _installed():
        if asked:
            raise BadSettings(f"otel_endpoint: tracing needs an extra; install it: {INSTALL}")
        log.warning("no traces are sent: an extra is missing", extra={"install": INSTALL})
        return Tracing()
    from router.observe.otlp import Otlp

    sink = Otlp(settings.otel_endpoint, service, instance or socket.gethostname())
    return Tracing(sink, settings.otel_sample_ratio)


def _installed() -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    return False
