"""What the `makespan` command can be told, and who does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import orjson

from router.observe import logs
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings, Settings
from router.settings.batch import BatchSettings
from router.settings.batch_plan import BatchPlanSettings
from router.settings.bench import BenchSettings
from router.settings.calibrate import CalibrateSettings
from router.settings.commands import COMMANDS, load
from router.settings.gateway import GatewaySettings
from router.settings.keys import KeySettings
from router.settings.live import Live, Served
from router.settings.plan import PlanSettings
from router.settings.replay import ReplaySettings
from router.settings.simulate import SimulateSettings
from router.settings.up import UpSettings
from solver.errors import ProblemError

if TYPE_CHECKING:
    from fastapi import FastAPI

USAGE = """\
usage: makespan COMMAND [options]

Makespan routes LLM requests by plan: it gathers them into windows and packs each window onto the
inference workers so that all are finished soonest.

commands:
{commands}

`makespan COMMAND --help` lists a command's options. Each is also a variable (--window-max-size is
MAKESPAN_WINDOW_MAX_SIZE) and a key of the command's table in the TOML file that MAKESPAN_CONFIG
names; flags win over variables, variables over the file.
"""


def run(arguments: Sequence[str]) -> None:
    """Run one command; exits with 2 on a bad setting, having named it."""
    commands = {command.table: command for command in COMMANDS}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in commands:  # of a group
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name in ("-V", "--version"):
        print(f"makespan {version('makespan')}")
        return
    if name not in commands:
        print(f"makespan: unknown command {name!r}; one of: {', '.join(commands)}", file=sys.stderr)
        sys.exit(2)
    try:
        _run(load(commands[name], rest))
    except (BadSettings, ProblemError) as error:
        print(f"makespan {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _usage() -> str:
    lines = [f"  {command.table:<15}{(command.__doc__ or '').strip()}" for command in COMMANDS]
    return USAGE.format(commands="\n".join(lines))


def _run(settings: Settings) -> None:
    """Hand over to the command; what it needs is imported only now."""
    if isinstance(settings, UpSettings):
        from router.up import up

        up(settings)
        return
    if isinstance(settings, Live):
        logs.configure(settings.log_format, settings.log_level)
    if isinstance(settings, GatewaySettings) and settings.processes > 1 and settings.fd is None:
        from router.processes import serve_together

        serve_together(settings)
    elif isinstance(settings, GatewaySettings):
        from router.gateway.app import create_app as create_gateway

        _serve(create_gateway(settings), settings, settings.port)
    elif isinstance(settings, AgentSettings):
        from router.agent.app import create_app as create_agent

        _serve(create_agent(settings), settings, settings.port)
    else:
        _run_offline(settings)


def _run_offline(settings: Settings) -> None:
    if isinstance(settings, KeySettings):
        _print_key(settings)
    elif isinstance(settings, SimulateSettings):
        from router.lab.simulate import simulate

        simulate(settings)
    elif isinstance(settings, ReplaySettings):
        from router.lab.replay import replay

        replay(settings)
    elif isinstance(settings, PlanSettings):
        from router.lab.plan import plan

        plan(settings)
    elif isinstance(settings, BatchSettings):
        from router.batch.commands import batch_command

        batch_command(settings)
    elif isinstance(settings, BatchPlanSettings):
        from router.lab.batch_plan import batch_plan

        batch_plan(settings)
    elif isinstance(settings, CalibrateSettings):
        from router.lab.calibrate import run_calibrate

        run_calibrate(settings)
    elif isinstance(settings, BenchSettings):
        _run_bench(settings)


def _run_bench(settings: BenchSettings) -> None:
    if settings.what == "paper":
        from router.lab.paper import paper

        paper(settings)
    elif settings.what == "judge":
        from router.lab.judge import judge

        judge(settings)
    else:
        from router.lab.bench_plan import bench_plan

        bench_plan(settings)


def _print_key(settings: KeySettings) -> None:
    """The one time that it is seen."""
    key, entry = settings.make()
    table = entry.to_toml()
    if settings.json:
        print(orjson.dumps({"key": key, "toml": table}).decode())
        return
    print(f"{key}\n\nThe client's key, shown this once. For the file that --keys names:\n\n{table}")


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
