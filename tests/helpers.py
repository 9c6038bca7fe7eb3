"""What the tests share: a fleet of real processes, data with or without the real files, metrics."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.lab.simulation.traces import data_dir, dataset
from solver.cost.estimators import BYTES_PER_TOKEN
from solver.sim.request import Request
from tests import http
from tests.forked import Command
from tests.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).resolve().parents[1]
MAKESPAN = [sys.executable, "-m", "router.cli"]


def gsm8k() -> list[tuple[str, int]]:
    """1,319 questions with output lengths like LLaMA-65B's: real questions where they are at hand.

    The paper's lengths are unpublished; these have its mean, deviation and cap.
    """
    requests, real = dataset("gsm8k-llama65b")
    path = (data_dir() or ROOT) / "gsm8k_test.jsonl"
    if real and path.is_file():
        with path.open(encoding="utf-8") as lines:
            questions = [str(json.loads(line)["question"]) for line in lines]
    else:
        rng = random.Random(8)
        questions = [_question(request, rng) for request in requests]
    outputs = [request.output_tokens for request in requests]
    return list(zip(questions, outputs, strict=True))


def _question(request: Request, rng: random.Random) -> str:
    """Words of as many tokens as the request's prompt has, told apart by its id."""
    words = "how many apples does Tom have after he gives half of them to each friend".split()  # noqa: SIM905
    text = " ".join([f"{request.id}.", *rng.choices(words, k=request.prompt_tokens)])
    return text[: int(request.prompt_tokens * BYTES_PER_TOKEN)]


def write_lengths(path: Path, rows: Sequence[tuple[str, int]]) -> Path:
    """The file that tells an emulated engine how long its answers are."""
    lines = [
        json.dumps({"prompt_sha256": hashlib.sha256(q.encode()).hexdigest(), "output_tokens": n})
        for q, n in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def certify(folder: Path, name: str = "IP:127.0.0.1") -> Path:
    """The folder, with a certificate for this machine's loopback that nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=makespan",
         "-addext", f"subjectAltName={name}"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def calls(work: Callable[[], object]) -> int:
    """How many calls, of Python and of C, it makes: the same however busy the machine is."""
    made = 0

    def called(_: object, event: str, __: object) -> None:
        nonlocal made
        made += event.endswith("call")

    collects = gc.isenabled()
    gc.disable()  # what it would call back, and when, is not the work's
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    return made


@contextmanager
def asking(url: str, body: object) -> Iterator[None]:
    """A client that has asked, and leaves without its answer at the end of the block."""
    address, content = urlsplit(url), json.dumps(body).encode()
    with socket.create_connection((address.hostname, address.port or 80)) as raw:
        head = f"POST {address.path} HTTP/1.1\r\nhost: {address.netloc}\r\n"
        raw.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        yield


def run(
    program: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """A program as a process."""
    return subprocess.Popen(
        [*program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def start(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[str] | Command:
    """`makespan`; by the command itself for whoever measures, and in tests by the faster way."""
    if "PYTEST_VERSION" in os.environ:
        return Command(arguments, environment)
    return run(MAKESPAN, arguments, environment)


class Process:
    """A process, `makespan`'s unless told, and its output; stopped at the end whatever happens."""

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        told = {**os.environ, **(environment or {})}
        self.process = start(arguments, told) if program is None else run(program, arguments, told)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait_for(self, pattern: str) -> str:
        """The first group of the first line that matches.

        Raises:
            AssertionError: if the process ends or time passes without any.
        """
        found: list[str] = []

        def told() -> bool:
            over = self.process.poll() is not None and not self._reader.is_alive()
            found.extend(m[1] for line in list(self.lines) if (m := re.search(pattern, line)))
            return bool(found) or over

        with suppress(AssertionError):
            eventually(told)
        assert found, f"no line like {pattern!r} in:\n" + "\n".join(self.lines)
        return found[0]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Its exit status after `sig`."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(PATIENCE_S)
            assert self.process.stdout is not None
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Fleet(Process):
    """`makespan up` on free ports."""

    def __init__(self, *arguments: str) -> None:
        super().__init__("up", "--port", "0", *arguments)
        self.url = self.wait_for(r"Makespan is running at (\S+),")
        self.wait_for(r"(Stop it) with Ctrl-C")
        self.agents = re.findall(r"agent-\d+ +(\S+)/metrics", "\n".join(self.lines))

    def get(self, path: str) -> httpx.Response:
        """GET from the gateway."""
        return http.get(self.url + path)


@dataclass(frozen=True)
class Sample:
    """Metrics of one process at one moment, some time between `asked_s` and `told_s`."""

    asked_s: float
    told_s: float
    values: dict[str, float]

    def total(self, prefix: str) -> float:
        """Sum of all samples whose name and labels begin with `prefix`."""
        return sum(value for name, value in self.values.items() if name.startswith(prefix))


def scrape(url: str) -> Sample:
    """The metrics of a gateway or an agent."""
    asked_s = time.monotonic()
    text = http.get(url + "/metrics").text
    return Sample(asked_s, time.monotonic(), dict(_samples(text)))


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            yield f"{sample.name}{{{labels}}}", sample.value
