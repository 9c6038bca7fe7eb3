"""The benchmark of real models says what it lacks, and is no failure where that is missing."""

from __future__ import annotations

import sys

import pytest

from tests.bench.bench_transformers import main


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_machine_without_the_libraries_is_told(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    monkeypatch.setattr(sys, "argv", ["bench"])
    main()
    assert f"{missing} is not installed" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bench", "--cpu"])
    with pytest.raises(SystemExit, match=f"{missing} is not installed.*make transformers"):
        main()
