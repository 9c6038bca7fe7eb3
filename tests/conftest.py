"""What all tests share: who may run beside whom, and an account of what was skipped."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# They drive fleets of real processes: one after the other, whatever runs beside them.
SERIAL = (
    "clients",
    "deploy/test_live_alerts.py",
    "deploy/test_live_prometheus.py",
    "e2e",
    "engines",
    "image",
)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Async tests run on asyncio; those that drive fleets are marked."""
    serial = [HERE / name for name in SERIAL]
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.anyio)
        if any(item.path.is_relative_to(path) for path in serial):
            item.add_marker(pytest.mark.serial)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests by reason, with what would run them, at the end of every run."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("skipped (tests/README.md says how to run them)")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:4d}  {reason}")
