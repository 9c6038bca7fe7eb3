"""What all tests share: an event loop where they need one, and an account of what was skipped."""

from __future__ import annotations

import inspect
from collections import Counter
from contextlib import suppress

import pytest

# However long an example takes, on a machine however busy, says nothing of what is tested. The
# environment of vLLM has no Hypothesis.
with suppress(ModuleNotFoundError):
    from hypothesis import HealthCheck, settings

    untimed = [HealthCheck.too_slow]
    settings.register_profile("any machine", deadline=None, suppress_health_check=untimed)
    settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Async tests run on asyncio."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.anyio)


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
