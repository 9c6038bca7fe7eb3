"""What a gateway has read in moves to huge pages, and stays what it was."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from router.gateway.huge_pages import PAGE_BYTES, collapse, heaps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has such pages")


def _kilobytes(name: str) -> int:
    """Of this process, as the kernel tells."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_what_was_there_is_there_and_hardly_more() -> None:
    with mmap.mmap(-1, 4 * PAGE_BYTES, flags=mmap.MAP_PRIVATE) as area:
        for start in range(0, len(area), mmap.PAGESIZE):
            area[start : start + 8] = start.to_bytes(8, "big")
        resident = _kilobytes("Rss")
        moved = collapse()
        assert moved % PAGE_BYTES == 0
        for start in range(0, len(area), mmap.PAGESIZE):
            assert area[start : start + 8] == start.to_bytes(8, "big")
        if moved:  # older kernels, and some sandboxes, know no such advice
            assert _kilobytes("AnonHugePages") > 0
            assert moved <= 1024 * (_kilobytes("Rss") + _kilobytes("Swap"))
            assert _kilobytes("Rss") < 1.5 * resident


@pytest.mark.parametrize(
    ("mapping", "found"),
    [
        ("7f0000000000-7f0000600000 rw-p 00000000 00:00 0", [(0x7F0000000000, 3 * PAGE_BYTES)]),
        ("7f0000001000-7f0000600000 rw-p 00000000 00:00 0", [(0x7F0000200000, 2 * PAGE_BYTES)]),
        ("55aa00000000-55aa00200000 rw-p 00000000 00:00 0 [heap]", [(0x55AA00000000, PAGE_BYTES)]),
        ("7f0000001000-7f00003ff000 rw-p 00000000 00:00 0", []),
        ("7f0000000000-7f0000600000 r-xp 00000000 00:00 0", []),
        ("7f0000000000-7f0000600000 rw-s 00000000 00:00 0", []),
        ("7f0000000000-7f0000600000 rw-p 00000000 fe:00 42   /lib/libc.so.6", []),
        ("7ffe00000000-7ffe00600000 rw-p 00000000 00:00 0   [stack]", []),
    ],
)  # fmt: skip
def test_only_whole_pages_of_its_own_memory(mapping: str, found: list[tuple[int, int]]) -> None:
    assert list(heaps(mapping)) == found
