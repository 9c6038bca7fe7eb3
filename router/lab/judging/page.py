"""Verdicts as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape

from router.lab.judging.strips import load_class, load_key, load_names, strip, told
from router.lab.judging.verdict import (
    FIGURES,
    GOODPUT,
    Case,
    Judged,
    Verdict,
    against,
    against_best,
    rivals,
    words,
)
from router.lab.pictures.svg import element
from router.lab.reports.page import header, listed, made_by, page, section, terms
from router.lab.reports.table import Column, table

Row = tuple[str, Mapping[str, Verdict]]
BEST = "the best of each"
# How much better or worse a cell must be to be tinted, and to be tinted strongly.
FAINT, STRONG = (0.02, 0.5), (0.15, 5.0)  # of a ratio, and in points


def judgement(
    judged: Sequence[Judged], ours: str, *, facts: Mapping[str, str], command: str
) -> str:
    """The page; `facts` are what all runs share."""
    rows: list[Row] = [(name, against(judged, ours, name)) for name in rivals(judged, ours)]
    best = against_best(judged, ours)
    title = f"{ours} beside {len(rows)} rivals"
    return page(
        title,
        header("Makespan judge", title, {"Situations": str(len(judged)), **facts}),
        element(
            "main",
            section("In short", listed(_summary(rows, best))),
            section("Beside each rival", _table([*rows, (BEST, best)])),
            section("Every situation", _choice(), _strips(rows)),
            section("Against the best rival of each situation", _matrix(judged, best)),
            terms(TERMS),
            made_by(command),
        ),
    )


def _summary(rows: Sequence[Row], best: Mapping[str, Verdict]) -> Iterator[tuple[str, str]]:
    """A line a figure: how many rivals it beats on average, and who is hardest."""
    for figure in FIGURES:
        verdicts = {name: verdicts[figure] for name, verdicts in rows}
        won = sum(verdict.better for verdict in verdicts.values())
        hardest = min(verdicts, key=lambda name: _goodness(figure, verdicts[name].mean))
        worst = best[figure].cases[0]
        yield (
            figure,
            f"better than {won} of {len(verdicts)} on average; the hardest is {hardest} "
            f"({words(figure, verdicts[hardest].mean)}). Most is lost in {worst.situation.name}: "
            f"{words(figure, worst.value)}, to {worst.rival}.",
        )


def _goodness(figure: str, value: float) -> float:
    return value if figure == GOODPUT else -value


def _table(rows: Sequence[Row]) -> str:
    def column(figure: str, name: str) -> Column[Row]:
        def value(row: Row) -> float:
            verdict = row[1][figure]
            return verdict.mean if name == "mean" else verdict.worst

        return Column(name, value, figure, partial(words, figure))

    columns: list[Column[Row]] = [Column("rival", lambda row: row[0])]
    columns += [column(figure, name) for figure in FIGURES for name in ("mean", "worst")]
    caption = (
        "Ours over theirs: geometric mean over the situations, and the worst of them; below 1 is "
        "better. Goodput: points more than theirs. A column's head sorts by it."
    )
    return table(caption, columns, rows, lambda row: row[0])


def _choice() -> str:
    """A legend with which to choose loads."""
    labels = (
        element(
            "label",
            element("input", type="checkbox", value=load_key(k), checked=""),
            element(
                "svg",
                element("circle", cx=8, cy=5, r=4, class_=load_class(k)),
                class_="mk",
                width=16,
                height=10,
                aria_hidden="true",
            ),
            escape(name),
        )
        for k, name in enumerate(load_names())
    )
    buttons = (("all", "All"), ("none", "None"))
    return element(
        "fieldset",
        element("legend", "A dot is a situation, coloured by its load; the bar is the mean of all"),
        *labels,
        *(element("button", shown, type="button", value=value) for value, shown in buttons),
        class_="choice",
    )


def _strips(rows: Sequence[Row]) -> str:
    charts = (
        strip(figure, {name: verdicts[figure] for name, verdicts in rows}) for figure in FIGURES
    )
    return element("div", *charts, class_="charts")


def _matrix(judged: Sequence[Judged], best: Mapping[str, Verdict]) -> str:
    """A row a situation, a cell a figure, tinted by how much is won or lost."""
    cases = {
        figure: {case.situation: case for case in verdict.cases} for figure, verdict in best.items()
    }
    body = (
        element(
            "tr",
            element("td", escape(one.situation.name), data_value=k),
            *(_cell(figure, cases[figure][one.situation]) for figure in FIGURES),
        )
        for k, one in enumerate(judged)
    )
    caption = (
        "In each cell ours over whoever is best in that figure and situation, whom it names when "
        "pointed at; blue is won, orange lost. A column's head sorts by it."
    )
    heads = (
        element(
            "th",
            element("button", escape(name), type="button", aria_label=f"Sort by {name}"),
            scope="col",
            class_=None if name == "situation" else "number",
            aria_sort="none",
        )
        for name in ("situation", *FIGURES)
    )
    return element(
        "div",
        element(
            "table",
            element("caption", escape(caption)),
            element("thead", element("tr", *heads)),
            element("tbody", *body),
            class_="tinted",
        ),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label="Against the best rival of each situation",
    )


def _cell(figure: str, case: Case) -> str:
    return element(
        "td",
        escape(words(figure, case.value)),
        class_=f"number {_tint(figure, case.value)}".strip(),
        data_value=f"{case.value:.9g}",
        title=told(figure, case),
    )


def _tint(figure: str, value: float) -> str:
    """won2, won1, nothing, lost1 or lost2."""
    points = figure == GOODPUT
    gain = value if points else 1.0 - value
    if abs(gain) < FAINT[points]:
        return ""
    return ("won" if gain > 0 else "lost") + ("2" if abs(gain) >= STRONG[points] else "1")


TERMS: Mapping[str, str] = {
    "Situation": (
        "A trace, the engines, the number of workers, whether they are equal or of speeds 2, 1, 1 "
        "and \N{VULGAR FRACTION ONE HALF}, and the load: a share of what the fleet could do at "
        "most by its lower bound, or all at once (burst)."
    ),
    "Ratios": (
        "Of makespan, time to first token (ttft), end to end (e2e) and per output token after the "
        "first (tpot): ours over theirs, so below 1 ours is better."
    ),
    "Goodput": (
        "Share of the requests whose first token came within 2 s (5 s beyond 4,096 prompt tokens) "
        "and whose others came every 100 ms on average; in points, ours less theirs."
    ),
    "The best of each": (
        "In each situation and figure whoever is best in it: nobody is all of these at once."
    ),
}
