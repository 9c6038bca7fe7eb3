"""What the dashboard's panels are made of: queries, and how they are drawn.

Queries of gateways choose their jobs by ``$job`` and those of agents by ``$agents``: both count
``makespan_requests_total``. Workers are told apart by ``worker``, which agents get when scraped,
and fleets by ``namespace``, which Kubernetes gives: elsewhere no series has it, and ``.*`` fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

FLEET = 'namespace=~"$namespace"'
GATEWAY = f'{FLEET}, job=~"$job"'
AGENTS = f'{FLEET}, job=~"$agents"'
WORKER = f'{GATEWAY}, worker=~"$worker"'
AGENT = f'{AGENTS}, worker=~"$worker"'
MODEL = f'{GATEWAY}, model=~"$model"'
SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and the legend of each series that it gives."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a value turns from `first` to the next colours, in rising order."""

    steps: Sequence[tuple[float, str]]
    first: str = GREEN

    def build(self) -> ThresholdsConfig:
        """As Grafana has it: the first step begins at minus infinity, which JSON writes as null."""
        rising = [Threshold(value=value, color=color) for value, color in self.steps]
        steps = [Threshold(value=None, color=self.first), *rising]
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def quantiles(
    metric: str,
    labels: str,
    shares: Sequence[float] = (0.5, 0.95, 0.99),
    by: str = "",
) -> list[Query]:
    """A histogram's quantiles over the selected series, or over each value of the label `by`."""
    group = f"le, {by}" if by else "le"
    rate = f"sum by ({group}) (rate({metric}_bucket{{{labels}}}[$__rate_interval]))"
    name = f"{{{{{by}}}}} " if by else ""
    return [Query(f"histogram_quantile({s}, {rate})", f"{name}p{s * 100:g}") for s in shares]


def mean(metric: str, labels: str) -> Query:
    """A histogram's mean."""
    rates = (f"sum(rate({metric}_{part}{{{labels}}}[$__rate_interval]))" for part in SUM_AND_COUNT)
    return Query(" / ".join(rates), "mean")


SUM_AND_COUNT = ("sum", "count")


def chart(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    most: float | None = None,
    limits: Limits | None = None,
    stack: common.StackingMode = common.StackingMode.NONE,
) -> Timeseries:
    """A chart over time, from zero on; `limits` are drawn as dashed lines."""
    stacked = stack is not common.StackingMode.NONE
    panel = (
        Timeseries()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(HEIGHT)
        .fill_opacity(60 if stacked else 8)
        .line_width(0 if stacked else 1)
        .show_points(common.VisibilityMode.NEVER)
        .stacking(build.StackingConfig().mode(stack))
        .tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .legend(
            build.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["mean", "lastNotNull"])
        )
    )
    if most is not None:
        panel.max(most)
    if limits is not None:
        dashed = build.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(limits.build()).thresholds_style(dashed)
    for index, query in enumerate(queries):
        panel.with_target(_target(query, index))
    return panel


def number(title: str, description: str, unit: str, query: Query, limits: Limits) -> Stat:
    """One number, coloured by its limits, with its course behind it."""
    return (
        Stat()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .thresholds(limits.build())
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(build.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0))
    )


def _target(query: Query, index: int) -> Dataquery:
    return (
        Dataquery()
        .ref_id(chr(ord("A") + index))
        .datasource(SOURCE)
        .expr(query.expr)
        .legend_format(query.legend)
        .range()
    )
