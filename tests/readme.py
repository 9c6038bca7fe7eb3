"""The pages' tables, made from the code: ``python -m tests.readme`` writes them into all pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from pydantic.fields import FieldInfo

from router.observe.metrics import AgentMetrics, GatewayMetrics
from router.settings.base import Settings
from router.settings.commands import all_settings
from router.settings.live import Live
from tests.helpers import ROOT

NONE = "\N{EN DASH}"
FOLDERS = (".github", "deploy", "router", "solver", "tests")


def pages() -> list[Path]:
    """Every page of the project."""
    inside = (page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *(p for p in inside if "node_modules" not in p.parts)])


def settings_table(commands: Iterable[type[Settings]]) -> str:
    """Every setting, its default where it has one, and the commands that read it."""
    fields: dict[str, list[tuple[str, FieldInfo]]] = {}
    for command in commands:
        for name, field in command.model_fields.items():
            fields.setdefault(field.alias or name, []).append((command.table, field))
    rows = ["| setting | default | for | meaning |", "| --- | --- | --- | --- |"]
    for name, uses in sorted(fields.items()):
        defaults: dict[str, list[str]] = {}
        for table, field in uses:
            defaults.setdefault(_default(field), []).append(table)
        shown = "; ".join(
            value if len(defaults) == 1 else f"{value} ({', '.join(tables)})"
            for value, tables in defaults.items()
        )
        meaning = " ".join(dict.fromkeys(str(field.description) for _, field in uses))
        users = ", ".join(table for table, _ in uses)
        rows.append(f"| `{name}` | {shown} | {users} | {meaning} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.default
    if field.default_factory is not None or value is None:
        return NONE
    if isinstance(value, tuple):
        value = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return f"`{value}`" if value != "" else NONE


def metrics_table() -> str:
    """Every metric, its labels and who exports it."""
    rows = ["| metric | labels | at | meaning |", "| --- | --- | --- | --- |"]
    sides = (("gateway", GatewayMetrics()), ("agent", AgentMetrics()))
    for side, metrics in sides:
        rows += [_metric_row(metric, side, metrics) for metric in metrics.registry.collect()]
    return "\n".join(rows)


def _metric_row(metric: Metric, side: str, metrics: object) -> str:
    name = metric.name + ("_total" if metric.type == "counter" else "")
    objects = vars(metrics).values()
    labels: Iterable[str] = next(
        m._labelnames for m in objects if getattr(m, "_name", None) == metric.name
    )
    shown = ", ".join(f"`{label}`" for label in labels) or NONE
    return f"| `{name}` | {shown} | {side} | {metric.documentation} |"


def tables() -> dict[str, str]:
    """Every table by the name that its marks have."""
    live = [command for command in all_settings() if issubclass(command, Live)]
    offline = [command for command in all_settings() if command not in live]
    return {
        "settings": settings_table(live),
        "offline settings": settings_table(offline),
        "metrics": metrics_table(),
    }


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a table."""
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def render(text: str) -> str:
    """`text` with its tables made anew."""
    for name, table in tables().items():
        first, last = marks(name)
        pattern = f"(?<={re.escape(first)}\n).*?(?={re.escape(last)})"
        text = re.sub(pattern, table.replace("\\", r"\\") + "\n", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for path in pages():
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
