"""Real engines: their tests run where the engine is installed, and say so where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
