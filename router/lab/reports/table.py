"""A sortable HTML table with the best value of each column marked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import isfinite
from typing import Generic, Literal, TypeVar

from router.lab.pictures.svg import element, figure, number

Row = TypeVar("Row")
Better = Literal["low", "high"] | None


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """How a column is called, what it shows, and which way is better.

    Attributes:
        name: the head of the column.
        value: what it shows of a row, and is sorted by.
        group: a head over several columns.
        words: a number as text.
        best: whether low or high is better, or neither.
        bar: drawn as a bar too, from 0 to the greatest.
    """

    name: str
    value: Callable[[Row], float | str]
    group: str = ""
    words: Callable[[float], str] = figure
    best: Better = None
    bar: bool = False

    def shown(self, row: Row) -> str:
        """The cell's text."""
        value = self.value(row)
        return value if isinstance(value, str) else self.words(value)


def table(
    caption: str,
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
    peers: Callable[[Row], Hashable],
) -> str:
    """The table; the best of a column is found among rows of which `peers` is the same."""
    cells = [list(_cells(column, rows, peers)) for column in columns]
    body = (element("tr", *row) for row in zip(*cells, strict=True))
    return element(
        "div",
        element(
            "table",
            element("caption", escape(caption)),
            element(
                "thead",
                element("tr", *_groups(columns)),
                element("tr", *_header_cells(columns, rows)),
            ),
            element("tbody", *body),
        ),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def _groups(columns: Sequence[Column[Row]]) -> Iterator[str]:
    for words, members in groupby(columns, key=lambda column: column.group):
        span = len(list(members))
        scope = "colgroup" if words else None
        yield element("th" if words else "td", escape(words), colspan=span, scope=scope)


def _header_cells(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Iterator[str]:
    for column in columns:
        numeric = bool(rows) and not isinstance(column.value(rows[0]), str)
        label = f"{column.group}: {column.name}" if column.group else column.name
        button = element(
            "button", escape(column.name), type="button", aria_label=f"Sort by {label}"
        )
        kind = "number" if numeric else None
        yield element("th", button, scope="col", class_=kind, aria_sort="none")


def _cells(
    column: Column[Row], rows: Sequence[Row], peers: Callable[[Row], Hashable]
) -> Iterator[str]:
    winners = _best(column, rows, peers)
    numbers = [value for row in rows if isinstance(value := column.value(row), float | int)]
    most = max((value for value in numbers if isfinite(value)), default=0.0)
    for index, row in enumerate(rows):
        value, shown = column.value(row), escape(column.shown(row))
        if isinstance(value, str):
            yield element("td", shown, data_value=value)
            continue
        if index in winners:
            shown = element("strong", shown, element("span", " (best)", class_="unseen"))
        if column.bar and most > 0:
            shown += _bar(max(value, 0.0) / most)
        yield element("td", shown, class_="number", data_value=f"{value:.9g}")


def _bar(share: float) -> str:
    width = f"width:{number(100 * share)}%" if isfinite(share) else "width:0"
    return element("span", element("span", "", style=width), class_="bar", aria_hidden="true")


def _best(
    column: Column[Row], rows: Sequence[Row], peers: Callable[[Row], Hashable]
) -> frozenset[int]:
    """Rows that show their peers' best value, unless all of them show the same."""
    if column.best is None:
        return frozenset()
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(peers(row), []).append(index)
    choose = min if column.best == "low" else max
    winners: set[int] = set()
    for group in groups.values():
        values = {index: column.value(rows[index]) for index in group}
        finite = {i: v for i, v in values.items() if not isinstance(v, str) and isfinite(v)}
        if not finite:
            continue
        best = column.shown(rows[choose(finite, key=lambda index: finite[index])])
        same = {index for index in group if column.shown(rows[index]) == best}
        if len(same) < len(group):
            winners |= same
    return frozenset(winners)
