"""In JSON every line is an object, whatever it is about."""

from __future__ import annotations

import logging
import subprocess
import sys

import orjson
import pytest

from router.observe.logs import JsonFormatter, TextFormatter

START = "import asyncio, logging, threading, warnings; from router.observe.logs import configure;"


def response_info(log_format: str, code: str) -> list[str]:
    """What a process of its own says on standard error."""
    program = f"{START} configure({log_format!r}, 'info')\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert not done.stdout
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("threading.Thread(target=lambda: 1 / 0).start()", "ZeroDivisionError"),
        ("loop = asyncio.new_event_loop(); loop.call_exception_handler({'message': 'odd'})", "odd"),
        ("logging.getLogger('uvicorn.error').error('two\\nlines')", "two\nlines"),
        ("warnings.warn('old')", "UserWarning: old"),
        ("logging.error('half', extra={'of': '\\ud800', 'much': 1 << 80})", "half"),
        ("logging.error('odd', extra={'when': object})", "odd"),
    ],
)
def test_every_line_is_an_object(code: str, told: str) -> None:
    (line,) = [orjson.loads(line.replace("\\ud800", "?")) for line in response_info("json", code)]
    assert told in line["message"] + line.get("exception", "")
    assert line["level"] in {"warning", "error", "critical"}


def test_readable_lines_end_with_their_traceback() -> None:
    first, *rest = response_info("text", "1 / 0")
    assert "CRITICAL router.observe.logs: uncaught exception" in first
    assert rest[0] == "  Traceback (most recent call last):"
    assert rest[-1] == "  ZeroDivisionError: division by zero"


FORGED = "x\n12:00:00.000 CRITICAL router.gateway: forged"
MOVES = ["\r", "\x1b[2J", "\x00", "\x85", "\u2028", "\u202e", "\ud800", "\x7f", "\t"]


def formatted(message: str, *, error: str | None = None, **fields: object) -> list[str]:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "a", **fields})
    if error is not None:
        try:
            raise ValueError(error)
        except ValueError:
            record.exc_info = sys.exc_info()
    return TextFormatter().format(record).splitlines()


def test_nobody_writes_a_line_of_their_own() -> None:
    for text in (FORGED, *MOVES):
        for lines in (
            formatted(text),
            formatted("m", why=text),
            formatted("m", why=[text]),
            formatted("m", error=text),
        ):
            assert all(line.isprintable() for line in lines)
            assert all(line.startswith("  ") for line in lines[1:])
    (line,) = formatted("m", why="José, 中 😀")
    assert line.endswith(" why=José, 中 😀")


def test_what_is_long_is_cut() -> None:
    (line,) = formatted("m", why="x" * 10_000_000)
    assert len(line) < 3000
    record = logging.makeLogRecord({"msg": "x" * 10_000_000, "why": "y" * 10_000_000})
    assert len(JsonFormatter().format(record)) < 6000
