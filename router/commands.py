"""What the `makespan` command can be told, and who does it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn

from router.observe import logs
from router.settings.base import BadSettings
from router.settings.commands import SETTINGS, all_settings, load, settings_of
from router.settings.live import Live, Served
from solver.errors import ProblemError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from router.settings.agent import AgentSettings
    from router.settings.base import Settings
    from router.settings.bench import BenchSettings
    from router.settings.gateway import GatewaySettings
    from router.settings.keys import KeySettings

# Who does it. What one command needs is imported where that one is run.
WORK = {
    "up": "router.up:up",
    "gateway": "router.commands:serve_gateway",
    "agent": "router.commands:serve_agent",
    "simulate": "router.lab.simulate:simulate",
    "replay": "router.lab.replay:replay",
    "plan": "router.lab.plan:plan",
    "batch plan": "router.lab.batch_plan:batch_plan",
    "calibrate": "router.lab.calibrate:run_calibrate",
    "bench": "router.commands:run_bench",
    "key": "router.commands:print_key",
} | dict.fromkeys(
    (name for name in SETTINGS if name.startswith("batch ") and name != "batch plan"),
    "router.batch.commands:batch_command",
)
BENCHES = {
    "plan": "router.lab.bench_plan:bench_plan",
    "paper": "router.lab.paper:paper",
    "judge": "router.lab.judge:judge",
}

USAGE = """\
usage: makespan COMMAND [options]

Makespan routes LLM requests by plan: it gathers them into windows and places each window on the
inference workers by what users will feel.

commands:
{commands}

`makespan COMMAND --help` lists a command's options. Each is also a variable (--window-max-size is
MAKESPAN_WINDOW_MAX_SIZE) and a key of the command's table in the TOML file that --config names;
flags win over variables, variables over the file.
"""


def run(arguments: Sequence[str]) -> None:
    """Run one command; exits with 2 on a bad setting, having named it."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage(), end="", file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in SETTINGS:  # of a group
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name in ("-V", "--version"):
        print(f"makespan {version('makespan')}")
        return
    if group := [one for one in SETTINGS if one.startswith(f"{name} ")]:
        _list(name, group, rest)
    if name not in SETTINGS:
        print(f"makespan: unknown command {name!r}; see `makespan --help`", file=sys.stderr)
        sys.exit(2)
    try:
        with _importing():
            settings = load(settings_of(name), rest)
            work: Callable[[Any], None] = resolve_name(WORK[settings.table])
        if isinstance(settings, Live):
            logs.configure(settings.log_format, settings.log_level)
        work(settings)
    except (BadSettings, ProblemError) as error:
        print(f"makespan {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _list(name: str, group: Iterable[str], asked: Sequence[str]) -> NoReturn:
    """The commands of a group, where none of them is `asked` for."""
    helps = bool(asked) and asked[0] in ("-h", "--help", "help")
    if asked and not helps:
        print(f"makespan {name}: unknown command {asked[0]!r}; one of:", file=sys.stderr)
    print(_lines(map(settings_of, group)), file=sys.stdout if helps else sys.stderr)
    sys.exit(0 if helps else 2)


def _usage() -> str:
    return USAGE.format(commands=_lines(all_settings()))


def _lines(commands: Iterable[type[Settings]]) -> str:
    return "\n".join(f"  {one.table:<15}{(one.__doc__ or '').strip()}" for one in commands)


@contextmanager
def _importing() -> Iterator[None]:
    """What is imported stays: to look for garbage among it would be a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_bench(settings: BenchSettings) -> None:
    """The benches that are commands."""
    bench: Callable[[BenchSettings], None] = resolve_name(BENCHES[settings.what])
    bench(settings)


def print_key(settings: KeySettings) -> None:
    """The one time that it is seen."""
    key, entry = settings.make()
    table = entry.to_toml()
    if settings.json:
        import orjson

        print(orjson.dumps({"key": key, "toml": table}).decode())
        return
    print(f"{key}\n\nThe client's key, shown this once. For the file that --keys names:\n\n{table}")


def serve_gateway(settings: GatewaySettings) -> None:
    """One process, or the supervisor of several, which needs nothing of what they do."""
    if settings.processes > 1 and settings.fd is None:
        from router.processes import serve_together

        serve_together(settings)
        return
    with _importing():
        from router.gateway.app import create_app

        app = create_app(settings)
    _serve(app, settings, settings.port)


def serve_agent(settings: AgentSettings) -> None:
    """One process beside its engine."""
    with _importing():
        from router.agent.app import create_app

        app = create_app(settings)
    _serve(app, settings, settings.port)


def _serve(app: FastAPI, settings: Served, port: int) -> None:
    from router.http.serving import serve
    from router.http.sockets import inherit, listen
    from router.settings.secrets import check_certificate

    tls = None
    if check_certificate(settings.tls_cert, settings.tls_key):
        assert settings.tls_cert is not None
        assert settings.tls_key is not None
        tls = settings.tls_cert, settings.tls_key
    sock = listen(settings.host, port) if settings.fd is None else inherit(settings.fd)
    serve(
        app,
        sock,
        drain_s=settings.drain_s,
        client_timeout_s=settings.client_timeout_s,
        allowed_hosts=settings.allowed_hosts,
        drain=app.state.drain,
        follow_parent=settings.fd is not None,
        tls=tls,
        beside=getattr(app.state, "beside", None),
    )
