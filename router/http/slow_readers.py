"""Clients that read slowly: their answers wait for them in bounded memory, and for a bounded time.

Whoever makes an answer is not to wait for who reads it: an engine's slot is free once the engine
is done. So what a client has not read yet is kept by its connection, as much as is fair, and only
then is the answer held up. A client that reads nothing at all for `STUCK_S`, though much waits for
it, is let go.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A long answer of several choices is 4 MB of events; with many connections each keeps less, down to
# what a server keeps by default.
MOST_BYTES, LEAST_BYTES, ALL_BYTES = 4 << 20, 64 << 10, 512 << 20
STUCK_S = 30.0


class SlowReaders(HttpToolsProtocol):
    """One connection; see the module."""

    _unread = 0
    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; in place of uvicorn's, which asks for addresses that few want."""
        self.connections.add(self)
        self.transport, self.flow = transport, self.make_flow(transport)
        fair = ALL_BYTES // len(self.connections)
        transport.set_write_buffer_limits(high=max(LEAST_BYTES, min(MOST_BYTES, fair)))

    def make_flow(self, transport: asyncio.Transport) -> FlowControl:
        """What stops either side where the other one does not keep up."""
        return FlowControl(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_alarm()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """So much waits for it that its answer is held up."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has read much of it."""
        self._stop_alarm()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """It has asked for nothing more: it is let go, once it has what it asked for."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def _await_reader(self) -> None:
        self._stop_alarm()
        self._unread = self.transport.get_write_buffer_size()
        if self._unread:
            self._alarm = self.loop.call_later(STUCK_S, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unread:
            self.transport.abort()
        else:
            self._await_reader()

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
