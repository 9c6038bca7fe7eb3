"""What a gateway has read in by its start, on pages of 2 MiB.

A request runs through some thousand functions and what they know, on hundreds of small pages. After
a pause of milliseconds the processor has forgotten where these are, and in a virtual machine each
is looked up twice over: a tenth of the CPU time of a request that comes alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 2 << 20
COLLAPSE = 25  # MADV_COLLAPSE, of Linux 6.1 and later; others say that they know no such advice


def collapse() -> int:
    """Move what is in memory now to huge pages, as far as the kernel can; bytes that were moved."""
    if sys.platform != "linux":
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    mappings = Path("/proc/self/maps").read_text(encoding="utf-8")
    return sum(size for start, size in heaps(mappings) if not advise(start, size, COLLAPSE))


def heaps(mappings: str) -> Iterator[tuple[int, int]]:
    """Address and bytes of the whole huge pages that are a process's own, and no file's.

    `mappings` are lines as of ``/proc/self/maps``.
    """
    for line in mappings.splitlines():
        place, rights, _, _, inode, *name = line.split(maxsplit=5)
        if not rights.startswith("rw-p") or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in place.split("-"))
        start = -(-start // PAGE_BYTES) * PAGE_BYTES
        size = (end - start) // PAGE_BYTES * PAGE_BYTES
        if size > 0:
            yield start, size
