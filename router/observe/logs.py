"""Log lines, readable or JSON, one event a line; extra fields go in through ``extra=``.

Lines of a task that answers a request carry its id, and its trace's if it has one. What clients and
workers say is in them: a control character is escaped, so that nobody writes a line of their own,
and what is long is cut.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextvars import ContextVar
from types import TracebackType

import orjson

log = logging.getLogger(__name__)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


# Of one field; more of what somebody has sent helps nobody.
LONGEST = 2000

_bound_request: ContextVar[tuple[str | None, str | None]] = ContextVar(
    "about", default=(None, None)
)


def bind_request(request: str | None, trace_id: str | None) -> None:
    """From now on this task's log lines are about this request."""
    _bound_request.set((request, trace_id))


# For where many requests have their turns: set what lines are about, and reset it.
set_about, reset_about = _bound_request.set, _bound_request.reset


class _RequestFilter(logging.Filter):
    """Adds what the line's task is about, unless the line says so itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in zip(("request", "trace_id"), _bound_request.get(), strict=True):
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        return True


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _one_line(value: object) -> str:
    """As text that neither breaks its line nor moves a terminal's cursor."""
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(value: object) -> object:
    return value[:LONGEST] if isinstance(value, str) else value


class TextFormatter(logging.Formatter):
    """``12:00:00.123 INFO router.gateway: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One readable line; a traceback follows where there is one."""
        time = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        fields = "".join(f" {key}={_one_line(value)}" for key, value in _extra(record).items())
        message = _one_line(record.getMessage())
        line = f"{time} {record.levelname} {record.name}: {message}{fields}"
        if not record.exc_info:
            return line
        # Indented, as a message within it may have lines that look like ours.
        trace = self.formatException(record.exc_info).splitlines()
        return "\n".join((line, *(f"  {_one_line(part)}" for part in trace)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its extra fields; what JSON does not know becomes a string."""
        event: dict[str, object] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **{key: _cut(value) for key, value in _extra(record).items()},
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(event, default=str).decode()
        except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
            return json.dumps(event, default=str)


def configure(log_format: str, log_level: str) -> None:
    """Send this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_RequestFilter())
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    for noisy in ("uvicorn", "asyncio", "pyomo", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None:
        trace = (what.exc_type, what.exc_value, what.exc_traceback)
        log.critical("uncaught exception", exc_info=trace)
