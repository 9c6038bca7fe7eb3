"""Async tests run under anyio's plugin, on asyncio."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and _is_async(item):
            item.add_marker(pytest.mark.anyio)


def _is_async(item: pytest.Function) -> bool:
    import inspect

    return inspect.iscoroutinefunction(item.obj)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
