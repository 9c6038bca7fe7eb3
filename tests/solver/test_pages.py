"""Each policy and dispatcher has its page, in the form that all have."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from solver.batching import policies as policies_room
from solver.routing import dispatchers as dispatchers_room
from tests.solver_pages import FIELDS, README, Page, dispatchers, exists, policies, render

PAGES = [*policies(), *dispatchers()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_all_fields_in_order(page: Page) -> None:
    assert page.sentence.endswith(".")
    assert tuple(page.fields) == FIELDS
    assert all(page.fields.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_on_a_page_are_in_the_code(page: Page) -> None:
    assert page.parameters or page.fields["Parameters"].startswith("none")
    assert [name for name in page.parameters if not exists(name, page.module)] == []


@pytest.mark.parametrize("room", [policies_room, dispatchers_room], ids=lambda room: room.__name__)
def test_each_module_of_a_room_is_one_that_can_be_named(room: ModuleType) -> None:
    files = {path.stem for path in Path(room.__path__[0]).glob("*.py")} - {"__init__", "base"}
    named = {page.module.__name__ for page in PAGES}
    assert {f"{room.__name__}.{stem}" for stem in files} <= named


def test_the_readme_shows_them_as_they_are() -> None:
    text = README.read_text(encoding="utf-8")
    assert render(text) == text, "run: python -m tests.solver_pages"
