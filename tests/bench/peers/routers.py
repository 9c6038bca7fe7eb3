"""The routers that are compared, set up as people would: how each is started, when it is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests import http
from tests.bench.peers import packages
from tests.helpers import MAKESPAN, Process
from tests.ports import free_ports
from tests.waiting import eventually

OURS = "makespan"
# An answer may take its time: nothing is given up that still runs.
PATIENT_S = 900


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a router stands: its own ports, the workers behind it, and a folder for its files.

    `speeds` are the workers', one each, for routers that can be told.
    """

    port: int
    metrics_port: int
    workers: Sequence[str]
    speeds: Sequence[float]
    folder: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def write(self, name: str, text: str) -> str:
        """The path of a file of its own with this text."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)


@dataclass(frozen=True, slots=True)
class Router:
    """One router.

    Attributes:
        words: what it is called in tables.
        program: what it runs; empty: this project.
        command: arguments of the program.
        ready: whether it knows all its workers.
        told_speeds: whether somebody has told it which workers are faster.
    """

    words: str
    program: str
    command: Callable[[Seat], list[str]]
    ready: Callable[[Seat], bool]
    told_speeds: bool = False

    @property
    def version(self) -> str:
        """Name and version of its program; of this project, nothing."""
        return f"{self.program} {packages.version(self.program)}" if self.program else ""


def knows(path: str, up: str) -> Callable[[Seat], bool]:
    """Lists all workers there, each with `up` true."""

    def ready(seat: Seat) -> bool:
        listed = http.get(seat.url + path).json()["workers"]
        return sum(bool(worker[up]) for worker in listed) == len(seat.workers)

    return ready


def forwards(seat: Seat) -> bool:
    """Brings a request to some worker; it has known all from its start."""
    return http.get(seat.url + "/health").status_code == 200


def rust(policy: str) -> Callable[[Seat], list[str]]:
    """SGLang's router, and its gateway, which takes the same options."""

    def command(seat: Seat) -> list[str]:
        own = ["--host", "127.0.0.1", "--port", str(seat.port), "--log-level", "error"]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(seat.metrics_port)]
        return ["launch", *own, *metrics, "--policy", policy, "--worker-urls", *seat.workers]

    return command


def shares(speeds: Sequence[float]) -> list[int]:
    """Whole weights in the ratio of the speeds, as close as the slowest's 1 allows."""
    return [max(1, round(speed / min(speeds))) for speed in speeds]


def address(url: str) -> str:
    """Host and port."""
    return url.removeprefix("http://")


def nginx(*, weighted: bool) -> Callable[[Seat], list[str]]:
    """One process, whose count of connections is then all there is; streams are not held up."""

    def command(seat: Seat) -> list[str]:
        weights = shares(seat.speeds) if weighted else [1] * len(seat.workers)
        servers = " ".join(
            f"server {address(url)} weight={weight};"
            for url, weight in zip(seat.workers, weights, strict=True)
        )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        scratch = " ".join(f"{kind}_temp_path {seat.folder}/{kind};" for kind in kinds)
        text = f"""
daemon off; worker_processes 1; pid {seat.folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log off; {scratch} client_max_body_size 16m; client_body_buffer_size 1m;
  upstream workers {{ least_conn; {servers} keepalive 512; }}
  server {{
    listen {address(seat.url)};
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout {PATIENT_S}s;
    }}
  }}
}}
"""
        return ["-e", "stderr", "-p", str(seat.folder), "-c", seat.write("nginx.conf", text)]

    return command


def haproxy(seat: Seat) -> list[str]:
    """HAProxy with least connections."""
    servers = "\n".join(f"  server w{k} {address(url)}" for k, url in enumerate(seat.workers))
    text = f"""
defaults
  mode http
  timeout connect 5s
  timeout client {PATIENT_S}s
  timeout server {PATIENT_S}s
frontend clients
  bind {address(seat.url)}
  default_backend workers
backend workers
  balance leastconn
{servers}
"""
    return ["-f", seat.write("haproxy.cfg", text)]


def ours(seat: Seat) -> list[str]:
    """As it comes."""
    workers = ",".join(seat.workers)
    return ["gateway", "--port", str(seat.port), "--worker", workers, "--log-level", "warning"]


LISTED = knows("/workers", "is_healthy")
ROUTERS: Mapping[str, Router] = {
    "sglang-cache-aware": Router(
        "sglang-router, cache_aware", "sglang-router", rust("cache_aware"), LISTED
    ),
    "sglang-power-of-two": Router(
        "sglang-router, power_of_two", "sglang-router", rust("power_of_two"), LISTED
    ),
    "sglang-round-robin": Router(
        "sglang-router, round_robin", "sglang-router", rust("round_robin"), LISTED
    ),
    "smg-least-load": Router("smg, least_load", "smg", rust("least_load"), LISTED),
    "smg-cache-aware": Router("smg, cache_aware", "smg", rust("cache_aware"), LISTED),
    "nginx": Router("nginx, least_conn", "nginx", nginx(weighted=False), forwards),
    "nginx-weighted": Router(
        "nginx, least_conn, weights", "nginx", nginx(weighted=True), forwards, told_speeds=True
    ),
    "haproxy": Router("haproxy, leastconn", "haproxy", haproxy, forwards),
    OURS: Router("**Makespan**", "", ours, knows("/makespan/v1/workers", "up")),
}


@contextmanager
def started(
    router: Router, workers: Sequence[str], speeds: Sequence[float], folder: Path
) -> Iterator[tuple[str, int]]:
    """The router, once it knows all its workers: its address and process.

    Raises:
        AssertionError: if it ends, or time passes without that.
    """
    port, metrics_port = free_ports(2)
    seat = Seat(port, metrics_port, workers, speeds, folder)
    program = [packages.program(router.program)] if router.program else MAKESPAN
    with Process(*router.command(seat), program=program) as process:

        def ready() -> bool:
            assert process.process.poll() is None, "\n".join(process.lines)
            try:
                return router.ready(seat)
            except (httpx.HTTPError, ValueError, KeyError):
                return False

        eventually(ready, f"{router.words}: knowing all its workers")
        yield seat.url, process.process.pid
