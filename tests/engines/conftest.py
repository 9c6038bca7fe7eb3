"""Real engines: their tests run where the engine is installed, and say so where it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from router.agent.engines.base import Engine

# Several run beside each other, each on its own: threads of one would only wait for its others.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    """It under transformers."""
    from router.agent.engines.transformers.loading import resolve
    from tests.engines.test_transformers import settings_of

    _, opened = resolve(settings_of(model))
    yield opened
    opened.close()  # type: ignore[attr-defined]
