"""The image as a container that may do nothing; `make image-test` builds it, IMAGE names it."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import http
from tests.ports import free_ports
from tests.waiting import eventually

IMAGE = os.environ.get("IMAGE", "")
MOST_MB = 300  # the base included

pytestmark = pytest.mark.skipif(not IMAGE, reason="no image in IMAGE: make image-test")


def engine() -> list[str]:
    """Docker, or Podman as it runs within a container itself."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return ["docker"]
    return ["podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]


def ask(*command: str) -> str:
    done = subprocess.run([*engine(), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    id: str
    url: str

    def run(self, *command: str) -> str:
        return ask("exec", self.id, *command)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """The demo, on a root that is read-only, without a place to write to or any capability."""
    (port,) = free_ports(1)
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    rights = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    if engine()[0] == "podman":
        rights += ["--read-only-tmpfs=false", "--no-healthcheck", "--pull", "never"]
    name = ask(
        "run", "-d", "--network", "host", *limits, *rights, "-e", f"MAKESPAN_PORT={port}", IMAGE
    )
    try:
        found = Container(name, f"http://127.0.0.1:{port}")
        wait_until_ready(found)
        yield found
    finally:
        ask("rm", "-f", name)


def wait_until_ready(container: Container) -> None:
    try:
        eventually(lambda: http.is_well(container.url + "/ready"))
    except AssertionError:
        pytest.fail(f"the container was never ready:\n{ask('logs', container.id)}")


def test_serves_requests_and_its_page(container: Container) -> None:
    (model,) = (one["id"] for one in http.get(container.url + "/v1/models").json()["data"])
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    answer = http.post(container.url + "/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert "<title>" in http.get(container.url + "/").text


def test_has_no_rights(container: Container) -> None:
    status = container.run("cat", "/proc/1/status")
    assert set(re.findall(r"^Cap\w+:\s+(\w+)$", status, re.MULTILINE)) == {"0" * 16}
    assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("touch", "/tmp/file")


@pytest.mark.parametrize(
    "extra",
    ["kubernetes_asyncio.client", "opentelemetry.sdk.trace", "asyncpg", "sqlalchemy.ext.asyncio"],
)
def test_has_the_extras(container: Container, extra: str) -> None:
    container.run("python", "-c", f"import {extra}")


def test_is_small() -> None:
    assert int(ask("image", "inspect", "--format", "{{.Size}}", IMAGE)) < MOST_MB * 1e6


def test_ends_in_order_when_told_to(container: Container) -> None:
    ask("stop", "-t", "30", container.id)
    assert ask("inspect", "--format", "{{.State.ExitCode}}", container.id) == "0"
