"""Files that commands write: complete, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from router.settings.base import BadSettings


@contextmanager
def writable(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place at the end; if that is never reached, what was there stays.

    Raises:
        BadSettings: if it cannot be written, which is mostly found out at once.
    """
    try:
        if path.exists() and not path.is_file():  # a device; a folder cannot be opened
            with path.open("wb") as file:
                yield file
        else:
            with _replaced(path.resolve()) as file:
                yield file
    except OSError as error:
        raise BadSettings.of_file(path, error) from error


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
