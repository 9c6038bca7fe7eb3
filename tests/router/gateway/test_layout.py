"""Processes that lay out otherwise what they share do not read each other's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from struct import Struct

import pytest

from router.gateway.siblings import board, tally
from router.gateway.siblings.board import Board
from router.gateway.siblings.folder import Folder
from router.gateway.siblings.layout import layout_of
from solver.routing.sums import LoadSums


def test_whatever_is_laid_out_or_meant_otherwise_has_another_name() -> None:
    record, more = Struct("=Qd"), Struct("=Qdd")
    names = {
        layout_of(record, 8, meaning=1),
        layout_of(more, 8, meaning=1),
        layout_of(record, 9, meaning=1),
        layout_of(record, more, 8, meaning=1),
        layout_of(record, 8, meaning=2),
    }
    assert len(names) == 5
    assert layout_of(record, 8, meaning=1) in names


def test_a_successor_of_another_version_begins_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its predecessors, and then its equals, have in flight is counted as before."""
    folder, load = Folder(tmp_path), LoadSums(3, prompt_tokens=7)
    before = folder.board, folder.tally
    with closing(Board(folder.board, 4)) as old:
        old.tell("http://w:1", load)
        monkeypatch.setattr(board, "LAYOUT", "another")
        monkeypatch.setattr(tally, "LAYOUT", "another")
        assert not {folder.board, folder.tally} & set(before)
        with closing(Board(folder.board, 4)) as new:
            assert new.held("http://w:1") == LoadSums()
            new.tell("http://w:1", load)
            assert old.held("http://w:1") == LoadSums()
    assert {before[0].name, folder.board.name} <= {one.name for one in tmp_path.iterdir()}
