"""The pages' tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.readme import marks, pages, render, tables

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert render(text) == text, "run: python -m tests.readme"


@pytest.mark.parametrize("name", tables())
def test_every_table_is_in_one_page(name: str) -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for mark in marks(name):
        assert sum(text.count(mark) for text in texts) == 1
