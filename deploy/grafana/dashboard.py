"""The Grafana dashboard: ``python -m deploy.grafana.dashboard`` writes it as JSON.

It needs the development tools (``make setup``), and is no part of the package.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import (
    AGENT,
    AGENTS,
    FLEET,
    GATEWAY,
    GREEN,
    MODEL,
    RED,
    SOURCE,
    WORKER,
    YELLOW,
    Limits,
    Query,
    chart,
    mean,
    number,
    quantiles,
)

PATH = Path(__file__).parent / "dashboards" / "makespan.json"
RATE = "[$__rate_interval]"
BUDGET = Query("max(makespan:error_budget:ratio)", "budget")
EACH = "{{namespace}} {{worker}}"  # two fleets may have workers of the same name
Panels = list[Timeseries | Stat]


def at_a_glance() -> Panels:
    """One number for each thing that can go wrong."""
    up = f"max by (namespace, worker) (makespan_worker_up{{{WORKER}}})"
    failing = f"max(makespan:request_errors:ratio_rate5m{{{GATEWAY}}})"
    return [
        number(
            "Workers up",
            "Workers that some gateway can send requests to.",
            "none",
            Query(f"sum({up})", "workers"),
            Limits([(1, GREEN)], RED),
        ),
        number(
            "Requests",
            "Requests that ended, however they did.",
            "reqps",
            Query(f"sum(rate(makespan_requests_total{{{MODEL}}}{RATE}))", "requests"),
            Limits([]),
        ),
        number(
            "Failing",
            "The part of the requests that failed through no fault of their client, over five "
            "minutes; red at the pace that calls somebody if it lasts.",
            "percentunit",
            Query(failing, "failing"),
            Limits([(0.005, YELLOW), (0.072, RED)]),
        ),
        number(
            "Backlog",
            "Requests that wait at the gateways until a worker can start them.",
            "none",
            Query(f"sum(makespan:unsent_requests:sum{{{GATEWAY}}})", "requests"),
            Limits([(500, YELLOW), (5000, RED)]),
        ),
        number(
            "Utilization",
            "Slot-time on prefill and decode over all slot-time, over five minutes.",
            "percentunit",
            Query(f"avg(makespan:utilization:ratio_rate5m{{{AGENTS}}})", "utilization"),
            Limits([]),
        ),
        number(
            "Plan gap",
            "How far the latest plans are above their proven lower bound, the worst gateway's.",
            "percentunit",
            Query(f"max(makespan_plan_gap_ratio{{{GATEWAY}}})", "gap"),
            Limits([(0.1, YELLOW), (0.25, RED)]),
        ),
    ]


def requests() -> Panels:
    """What clients get."""
    by_outcome = f"sum by (outcome) (rate(makespan_requests_total{{{MODEL}}}{RATE}))"
    return [
        chart(
            "Requests by outcome",
            "Every request ends in exactly one outcome.",
            "reqps",
            [Query(by_outcome, "{{outcome}}")],
            width=12,
            stack=StackingMode.NORMAL,
        ),
        chart(
            "Failing requests and the error budget",
            "failed and rejected_no_capacity over those and completed. An hour at 14.4 times the "
            "budget, or six at 6 times, calls somebody.",
            "percentunit",
            [
                Query(
                    f"makespan:request_errors:ratio_rate{span}{{{GATEWAY}}}",
                    f"{{{{namespace}}}} {{{{job}}}} {span}",
                )
                for span in ("5m", "1h", "6h")
            ]
            + [BUDGET],
            width=12,
        ),
        chart(
            "Time to first token",
            "From a streamed request's arrival to its first byte of content.",
            "s",
            quantiles("makespan_time_to_first_token_seconds", MODEL),
        ),
        chart(
            "Time per output token",
            "Mean time between the output tokens of a streamed request.",
            "s",
            quantiles("makespan_time_per_output_token_seconds", MODEL),
        ),
        chart(
            "Request duration",
            "From a request's arrival to its last byte, for completed ones.",
            "s",
            quantiles("makespan_request_duration_seconds", MODEL),
        ),
    ]


def targets() -> Panels:
    """Whether requests keep what they were to keep."""
    by_target = f"sum by (target) (rate(makespan_slo_requests_total{{{GATEWAY}}}{RATE}))"
    kept = f'sum by (target) (rate(makespan_slo_requests_total{{{GATEWAY}, met="true"}}{RATE}))'
    both = f'makespan_slo_requests_total{{{GATEWAY}, target="both"}}'
    return [
        chart(
            "Goodput",
            "The part of the requests with targets that kept both, failed and refused ones among "
            "them; below the line for an hour raises an alert.",
            "percentunit",
            [
                Query(
                    f"makespan:goodput:ratio_rate{span}{{{GATEWAY}}}",
                    f"{{{{namespace}}}} {{{{job}}}} {span}",
                )
                for span in ("5m", "1h")
            ],
            most=1,
            limits=Limits([(0.9, GREEN)], RED),
        ),
        chart(
            "Targets kept",
            "The part of the requests that kept the target for the first token, that for the time "
            "between tokens, and both.",
            "percentunit",
            [Query(f"{kept} / ({by_target} > 0)", "{{target}}")],
            most=1,
        ),
        chart(
            "Requests with targets",
            "By whether they kept both of them.",
            "reqps",
            [Query(f"sum by (met) (rate({both}{RATE}))", "met: {{met}}")],
            stack=StackingMode.NORMAL,
        ),
    ]


def waiting() -> Panels:
    """Where requests wait before they are sent."""
    fleet = f"sum by (namespace) (makespan_fleet_backlog_seconds{{{GATEWAY}}})"
    return [
        chart(
            "Backlog",
            "Requests that wait at a gateway until a worker can start them soon.",
            "none",
            [Query(f"sum by (instance) (makespan_unsent_requests{{{GATEWAY}}})", "{{instance}}")],
            width=6,
        ),
        chart(
            "Backlog in seconds",
            "Time that the workers need for all that the gateways have sent them or not sent yet, "
            "as a mean over them: the signal to scale by; 0 while none is up.",
            "s",
            [Query(fleet, "{{namespace}} all gateways")],
            width=6,
        ),
        chart(
            "Time until sent",
            "From a request's arrival until it was sent to a worker, or ended without.",
            "s",
            quantiles("makespan_queue_seconds", GATEWAY),
            width=6,
        ),
        chart(
            "Overhead",
            "Time that the gateway added before a response began, windows and plans included.",
            "s",
            quantiles("makespan_gateway_overhead_seconds", GATEWAY),
            width=6,
        ),
    ]


def plans() -> Panels:
    """What the planner does."""
    how_many = f"sum by (method) (rate(makespan_plan_duration_seconds_count{{{GATEWAY}}}{RATE}))"
    return [
        chart(
            "Window size",
            "Requests planned together in a window.",
            "none",
            [
                mean("makespan_window_requests", GATEWAY),
                *quantiles("makespan_window_requests", GATEWAY, (0.5, 0.95)),
            ],
        ),
        chart(
            "Plan time by method",
            "Time to plan a window, by what found the plan.",
            "s",
            quantiles("makespan_plan_duration_seconds", GATEWAY, (0.95,), by="method"),
        ),
        chart(
            "Plans by method",
            "Plans made, by what found them.",
            "ops",
            [Query(how_many, "{{method}}")],
            stack=StackingMode.NORMAL,
        ),
        chart(
            "Plan gap",
            "How far the latest plan's makespan is above its bound; an average above the line "
            "raises an alert.",
            "percentunit",
            [Query(f"makespan_plan_gap_ratio{{{GATEWAY}}}", "{{instance}}")],
            width=12,
            limits=Limits([(0.25, RED)]),
        ),
        chart(
            "Makespan and bound",
            "Planned time until the fleet has done all it has, and its proven lower bound.",
            "s",
            [
                Query(f"makespan_plan_makespan_seconds{{{GATEWAY}}}", "{{instance}} makespan"),
                Query(f"makespan_plan_lower_bound_seconds{{{GATEWAY}}}", "{{instance}} bound"),
            ],
            width=12,
        ),
    ]


def workers() -> Panels:
    """The workers as gateways see them."""
    return [
        chart(
            "Workers up",
            "1 where some gateway can send requests to the worker.",
            "none",
            [Query(f"max by (namespace, worker) (makespan_worker_up{{{WORKER}}})", EACH)],
            most=1,
        ),
        chart(
            "Backlog per worker",
            "Time that the worker needs for what it has been sent, by all gateways together.",
            "s",
            [
                Query(
                    f"sum by (namespace, worker) (makespan_worker_backlog_seconds{{{WORKER}}})",
                    EACH,
                )
            ],
        ),
        chart(
            "Predicted over actual output tokens",
            "1 is a perfect prediction; half of the requests lie above the median. A median "
            "outside of 0.5 to 2 over an hour raises an alert.",
            "none",
            [
                *quantiles("makespan_predicted_tokens_error_ratio", GATEWAY, (0.1, 0.5, 0.9)),
                Query(
                    f"makespan:predicted_tokens_error:median1h{{{GATEWAY}}}",
                    "{{namespace}} {{job}} median 1h",
                ),
            ],
            limits=Limits([(0.5, GREEN), (2, RED)], RED),
        ),
    ]


def engines() -> Panels:
    """What agents see of their engines."""
    slots = f"rate(makespan_slot_seconds_total{{{AGENT}}}{RATE})"
    states = f"sum by (state) ({slots}) / scalar(sum({slots}))"
    iterations = f"sum by (kind) (rate(makespan_iteration_duration_seconds_count{{{AGENT}}}{RATE}))"
    busy = f'rate(makespan_slot_seconds_total{{{AGENT}, state=~"prefill|decode"}}{RATE})'
    held = f'rate(makespan_slot_seconds_total{{{AGENT}, state!="empty"}}{RATE})'
    share = f"sum by (namespace, worker) ({busy}) / sum by (namespace, worker) ({slots})"
    useful = f"sum by (namespace, worker) ({busy}) / (sum by (namespace, worker) ({held}) > 0)"
    inserted = f"sum by (reason) (rate(makespan_prefill_insertions_total{{{AGENT}}}{RATE}))"
    return [
        chart(
            "Utilization",
            "Slot-time on prefill and decode over all slot-time.",
            "percentunit",
            [Query(share, EACH)],
            most=1,
        ),
        chart(
            "Useful slot-time",
            "Slot-time on prefill and decode over all but empty: low where slots stand still or "
            "wait though there is work; none while a worker is idle.",
            "percentunit",
            [Query(useful, EACH)],
            most=1,
        ),
        chart(
            "Slot-seconds by state",
            "Where slot-time goes. stalled: stands still while others are prefilled; paused: bulk "
            "work that stands still for online work; waiting: idle while work is queued; empty: "
            "idle with none.",
            "percentunit",
            [Query(states, "{{state}}")],
            most=1,
            stack=StackingMode.NORMAL,
        ),
        chart(
            "Efficiency",
            "Proven lower bound of the work of the last busy period over the time it took.",
            "percentunit",
            [Query(f"makespan_efficiency_ratio{{{AGENT}}}", EACH)],
            most=1,
        ),
        chart(
            "Iterations",
            "Iterations of the engines, by kind.",
            "ops",
            [Query(iterations, "{{kind}}")],
            stack=StackingMode.NORMAL,
        ),
        chart(
            "Iteration time",
            "Duration of the engines' iterations, by kind.",
            "s",
            quantiles("makespan_iteration_duration_seconds", AGENT, (0.5, 0.99), by="kind"),
        ),
        chart(
            "Prefills by reason",
            "Prefill stages, by why the policy inserted them.",
            "ops",
            [Query(inserted, "{{reason}}")],
        ),
        chart(
            "Queue at the agent",
            "Requests waiting for a slot.",
            "none",
            [Query(f"makespan_queue_requests{{{AGENT}}}", EACH)],
        ),
        chart(
            "Cached tokens",
            "Tokens in the memory of running requests.",
            "none",
            [Query(f"makespan_kv_tokens{{{AGENT}}}", EACH)],
        ),
    ]


def batches() -> Panels:
    """What is left of them, how fast it goes, and whether it will be in time."""
    ended = f'makespan_batch_lines_total{{{GATEWAY}, state=~"completed|failed|expired"}}'
    return [
        chart(
            "Batches",
            "Batches that have not ended, by what is done with them, and those of them that are "
            "planned to end after their completion window.",
            "none",
            [
                Query(f"max by (status) (makespan_batches{{{GATEWAY}}})", "{{status}}"),
                Query(f"max(makespan_batches_planned_late{{{GATEWAY}}})", "planned late"),
            ],
        ),
        chart(
            "Time for all batches",
            "What the workers need for all that is left, with nothing else to do; and how much "
            "sooner the plan has it done than the one that was made at once.",
            "s",
            [
                Query(f"max(makespan_batch_backlog_seconds{{{GATEWAY}}})", "left"),
                Query(f"max(makespan_batch_plan_gain_seconds{{{GATEWAY}}})", "gained by the plan"),
            ],
        ),
        chart(
            "Lines of batches",
            "Lines that end, a second, by how; those that wait or run are beside.",
            "ops",
            [Query(f"sum by (state) (rate({ended}[$__rate_interval]))", "{{state}}")],
            width=4,
        ),
        chart(
            "Lines left",
            "Lines of batches that wait or run, of all gateways.",
            "none",
            [Query(f"max(makespan_batch_unfinished_lines{{{GATEWAY}}})", "lines")],
            width=4,
        ),
    ]


ROWS = {
    "At a glance": at_a_glance,
    "Requests": requests,
    "Targets": targets,
    "Waiting": waiting,
    "Plans": plans,
    "Workers and predictions": workers,
    "Engines": engines,
    "Batches": batches,
}


def dashboard() -> Dashboard:
    """The whole of it; panels are numbered in their order."""
    result = (
        Dashboard("Makespan")
        .uid("makespan")
        .description("Requests, plans, workers and engines of a Makespan fleet.")
        .tags(["makespan", "llm"])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("namespace", "Namespace", "makespan_unsent_requests", "namespace"))
        .with_variable(_variable("job", "Gateways", f"makespan_unsent_requests{{{FLEET}}}", "job"))
        .with_variable(_variable("agents", "Agents", f"makespan_kv_tokens{{{FLEET}}}", "job"))
        .with_variable(
            _variable("model", "Model", f"makespan_requests_total{{{GATEWAY}}}", "model")
        )
        .with_variable(_variable("worker", "Worker", f"makespan_worker_up{{{GATEWAY}}}", "worker"))
    )
    number_of = 0
    for title, panels in ROWS.items():
        number_of += 1
        result.with_row(Row(title).id(number_of))
        for panel in panels():
            number_of += 1
            result.with_panel(panel.id(number_of))
    return result


def _variable(name: str, title: str, metric: str, label: str) -> QueryVariable:
    """Chooses among the values that a label of `metric` has.

    All jobs are those that have the metric. All namespaces, workers and models are whatever there
    is, so that what is scraped without such a label is seen, too.
    """
    variable = (
        QueryVariable(name)
        .label(title)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
    return variable if label == "job" else variable.all_value(".*")


def render() -> str:
    """The file's text."""
    return JSONEncoder(indent=2, sort_keys=True).encode(dashboard().build()) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
