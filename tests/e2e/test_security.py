"""Who may talk to whom, over what, and what is told of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import http
from tests.faulty_server import FaultyServer
from tests.helpers import Process, certify
from tests.waiting import eventually

TEXT = {"model": "llama-65b", "prompt": "How many clips?", "max_tokens": 8}
SECRET, NEXT, WRONG = "a" * 32, "b" * 32, "c" * 32
HEADER = "x-makespan-secret"


@contextmanager
def agent(*flags: str) -> Iterator[tuple[str, Process]]:
    with Process("agent", "--port", "0", *flags) as process:
        yield process.wait_for(r"listening url=(\S+)"), process


@contextmanager
def gateway(workers: str, *flags: str) -> Iterator[tuple[str, Process]]:
    with Process("gateway", "--port", "0", "--worker", workers, *flags) as process:
        yield process.wait_for(r"listening url=(\S+)"), process


def kept_in(folder: Path, *secrets: str) -> str:
    path = folder / f"secret-{'-'.join(secret[0] for secret in secrets)}"
    path.write_text("\n".join(secrets) + "\n")
    return str(path)


def test_an_agent_with_a_secret_takes_requests_from_nobody_else(tmp_path: Path) -> None:
    with agent("--secret-file", kept_in(tmp_path, SECRET)) as (url, _):
        for path in ("/health", "/ready", "/metrics"):
            assert http.get(url + path).status_code == 200
        gets = ("/makespan/v1/state", "/makespan/v1/slots", "/v1/models", "/no/such/page")
        posts = ("/makespan/v1/recall", "/v1/completions", "/v1/chat/completions")
        for method, path in [("GET", path) for path in gets] + [("POST", path) for path in posts]:
            for told in ({}, {HEADER: WRONG}, {HEADER: SECRET[:-1]}, {HEADER: ""}):
                answer = http.request(method, url + path, json=TEXT, headers=told)
                assert answer.status_code == 401, path
                assert "--secret-file" in answer.json()["error"]["message"]
                assert SECRET not in answer.text
        asked = http.post(url + "/v1/completions", json=TEXT, headers={HEADER: SECRET})
        assert asked.status_code == 200
        assert HEADER not in asked.headers


def test_a_gateway_is_let_in_by_its_secret_also_while_it_is_replaced(tmp_path: Path) -> None:
    """First agents take both, then gateways send the new one."""
    both = kept_in(tmp_path, SECRET, NEXT)
    old, new = kept_in(tmp_path, SECRET), kept_in(tmp_path, NEXT)
    with agent("--secret-file", both) as (url, _):
        for known in (old, new):
            with gateway(url, "--secret-file", known) as (front, process):
                process.wait_for("(worker is up)")
                for stream in (False, True):
                    # What a client says of secrets is its own, and goes no further.
                    told = {HEADER: WRONG}
                    answer = http.post(
                        front + "/v1/completions", json={**TEXT, "stream": stream}, headers=told
                    )
                    assert answer.status_code == 200
                    assert HEADER not in answer.headers


def test_a_gateway_that_an_agent_does_not_know_says_what_to_do(tmp_path: Path) -> None:
    with agent("--secret-file", kept_in(tmp_path, SECRET)) as (url, _):
        for flags in ((), ("--secret-file", kept_in(tmp_path, WRONG))):
            with gateway(url, "--wait-for-worker-s", "0", *flags) as (front, process):
                process.wait_for(r"(worker is down).*the same --secret-file")
                assert http.post(front + "/v1/completions", json=TEXT).status_code == 503
                assert not [line for line in process.lines if WRONG in line or SECRET in line]


def test_a_server_without_an_agent_never_hears_the_secret(tmp_path: Path) -> None:
    flags = ("--engine", "openai", "--secret-file", kept_in(tmp_path, SECRET))
    heads = Heads()
    with heads, agent(*flags, "--upstream", heads.url) as (sidecar, _):
        eventually(lambda: http.get(sidecar + "/health").status_code == 200)
        known = ("--secret-file", kept_in(tmp_path, SECRET))
        with gateway(f"{heads.url},{sidecar}", *known) as (front, process):
            eventually(lambda: sum("worker is up" in line for line in process.lines) == 2)
            for stream in (False, True) * 4:
                body = {"model": "m", "prompt": "a", "max_tokens": 4, "stream": stream}
                assert http.post(front + "/v1/completions", json=body).status_code == 200
        assert heads.calls >= 8
        assert heads.seen
        assert SECRET not in "".join(heads.seen)


class Heads(FaultyServer):
    """Keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def heard(self, head: str) -> None:
        self.seen.append(head)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for this machine, and its key."""
    return certify(tmp_path_factory.mktemp("tls"))


def tls(folder: Path) -> tuple[str, ...]:
    return "--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")


def test_all_of_it_goes_over_tls(certified: Path, tmp_path: Path) -> None:
    cert = certified / "cert.pem"
    trusting = ssl.create_default_context(cafile=cert)
    secret = ("--secret-file", kept_in(tmp_path, SECRET))
    with agent(*tls(certified), *secret) as (inner, _):
        flags = (*tls(certified), *secret, "--worker-ca", str(cert))
        with gateway(inner, *flags) as (url, process):
            process.wait_for("(worker is up)")
            assert inner.startswith("https://")
            assert url.startswith("https://")
            with httpx.Client(verify=trusting) as client:  # noqa: TID251 - it is to verify
                for stream in (False, True) * 3:
                    answer = client.post(
                        url + "/v1/completions", json={**TEXT, "stream": stream}, timeout=None
                    )
                    assert answer.status_code == 200
                large = client.post(url + "/v1/completions", headers={"x": "y" * 70_000})
                assert large.status_code == 431
            plain = url.replace("https://", "http://")
            with pytest.raises(httpx.TransportError):
                http.get(plain + "/health")
            assert http.get(url + "/health").status_code == 200  # whoever does not look


def test_a_worker_whose_certificate_nobody_vouches_for_is_down(certified: Path) -> None:
    with agent(*tls(certified)) as (inner, _), gateway(inner) as (_, process):
        process.wait_for(r"(worker is down).*certificate is not trusted: self-signed.*--worker-ca")
    with agent() as (inner, _), gateway(inner.replace("http:", "https:")) as (_, process):
        process.wait_for(r"(worker is down).*does not speak TLS")
