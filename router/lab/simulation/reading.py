"""A trace's file as rows: CSV with a header, JSON lines or one JSON document, gzip or not.

Rules:
- the content says which it is, not its name: JSON by how it begins, of CSV what parts its columns
  (commas, semicolons or tabs) by the header; UTF-16 and UTF-8 by their marks;
- what is no text is refused, as it is no trace;
- what is wrong with a row stands in its place, as the error that it is, and the next is read; so
  does what ends a file too early, as its last row;
- what is no UTF-8 is taken as letters that nobody knows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import orjson

from router.lab.simulation.columns import REST, BadRow, LeftOut, Row
from router.lab.simulation.documents import Length, is_document, rows_of, rows_of_one
from router.settings.base import BadSettings

GZIP = b"\x1f\x8b"
# Of others that press together or tabulate, which may look like letters: zstd, zip, xz, Parquet.
NO_TEXTS = (b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\xfd7zXZ", b"PAR1")
LOOK = 64
NO_LETTERS = frozenset(range(32)) - frozenset(b"\0\t\n\v\f\r\x1a\x1b")
SEPARATORS = ",;\t"
# What a disk that lost its power may leave counts as nothing.
BLANK = " \t\r\n\0"
_CUT = (EOFError, zlib.error)


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The text of a file."""
    with path.open("rb") as file:
        zipped = file.read(len(GZIP)) == GZIP
        file.seek(0)
        plain = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
        begins = plain.read(LOOK)
        plain.seek(0)
        with io.TextIOWrapper(plain, _encoding(path, begins), "replace", newline="") as text:
            yield text


def _encoding(path: Path, begins: bytes) -> str:
    """Of a text that begins so.

    Raises:
        BadSettings: if it is none.
    """
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if begins.startswith(NO_TEXTS) or set(begins.strip(b"\0")) & NO_LETTERS:
        raise BadSettings(f"{path}: it is no text; traces are CSV or JSON, plain or by gzip")
    return "utf-8-sig"


class Lines:
    """The lines of a file; `number` is the one that was read last, from 1."""

    def __init__(self, text: TextIO) -> None:
        self.number = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            yield line

    def are_json(self) -> bool:
        """Whether they begin as JSON does, or the second does and the first has lost its own."""
        first, second, *_ = (*self._first(2), "", "")
        return first.startswith(("[", "{")) or second.startswith("{")

    def separator(self) -> str:
        """What parts the columns of the first one: most of what might."""
        header = "".join(self._first(1))
        return max(SEPARATORS, key=header.count)

    def document(self) -> object:
        """All of it, if it is one document that has many requests in it; None if it has lines."""
        try:
            found = orjson.loads("".join(self._first(1)))
        except orjson.JSONDecodeError:  # it may go on in the next line
            try:
                found = orjson.loads(self._text.read())
            except (orjson.JSONDecodeError, *_CUT):
                return None
            finally:
                self._text.seek(0)
        return found if is_document(found) else None

    def _first(self, most: int) -> list[str]:
        """The first lines that are not blank."""
        lines = (line.strip(BLANK) for line in self._text)
        found = list(islice(filter(None, lines), most))
        self._text.seek(0)
        return found


def rows(lines: Lines, length: Length) -> Iterator[Row | LeftOut | BadRow]:
    """All of them; `length` tells the tokens of texts."""
    try:
        yield from _rows(lines, length)
    except (csv.Error, *_CUT) as error:
        yield BadRow(str(error))


def _rows(lines: Lines, length: Length) -> Iterable[Row | LeftOut | BadRow]:
    if not lines.are_json():
        parted = csv.DictReader(
            lines, restkey=REST, skipinitialspace=True, delimiter=lines.separator()
        )
        parted.fieldnames = [name.strip() for name in parted.fieldnames or ()]
        return parted
    found = lines.document()
    if found is not None:
        return _made(rows_of(found, length))
    return _of_lines(lines, length)


def _of_lines(lines: Lines, length: Length) -> Iterator[Row | LeftOut | BadRow]:
    for line in filter(None, (line.strip(BLANK) for line in lines)):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield BadRow(f"no JSON from character {error.pos + 1} on: {error.msg}")
            continue
        if isinstance(row, dict):
            yield from _made(rows_of_one(row, length))
        else:
            yield BadRow('expected {"prompt_tokens": N, "output_tokens": N, ...}')


def _made(rows: Iterator[Row | LeftOut]) -> Iterator[Row | LeftOut | BadRow]:
    try:
        yield from rows
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        yield BadRow(str(error))
