"""In JSON every line is an object, whatever it is about."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

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
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ZeroDivisionError: division by zero"
