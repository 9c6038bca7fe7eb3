"""Names of a prompt's marks: worked out for those who ask, from what its request holds anyway."""

from __future__ import annotations

import tracemalloc

from solver.routing.marks import NAME_BYTES, hash_text
from solver.routing.prefixes import TEXT_BYTES

TEXT = "Natalia sold 48 clips. " * 10_000


def test_a_long_prompt_is_not_kept_twice() -> None:
    tracemalloc.start()
    try:
        found = hash_text(TEXT)
        assert len(found.blocks) == len(TEXT) // TEXT_BYTES
        assert tracemalloc.get_traced_memory()[0] < len(TEXT) / 4
        names = found.marks
        assert tracemalloc.get_traced_memory()[0] < len(TEXT) / 4
    finally:
        tracemalloc.stop()
    assert len(names) % NAME_BYTES == 0
    assert names == hash_text(TEXT).marks
