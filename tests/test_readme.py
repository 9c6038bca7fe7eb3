"""The README's tables are those of the code."""

from __future__ import annotations

from tests.readme import README, render


def test_tables_are_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert render(text) == text, "run: python -m tests.readme"
