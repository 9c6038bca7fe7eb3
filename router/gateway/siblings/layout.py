"""By which name processes find what they share in memory: those of another layout find another.

While one version of a gateway takes another's place, processes of both live in one folder. What is
laid out otherwise must not be read: so its parts are in the file's name, and whoever changes what
they mean changes `meaning`, too.
"""

from __future__ import annotations

from hashlib import blake2s
from struct import Struct


def layout_of(*parts: Struct | int, meaning: int) -> str:
    """A short name of a layout: its records, and how many there are of them."""
    told = [part.format if isinstance(part, Struct) else part for part in parts]
    return blake2s(repr((told, meaning)).encode(), digest_size=6).hexdigest()
