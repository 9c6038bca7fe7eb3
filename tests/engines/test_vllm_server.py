"""The plug-in as a user starts it: vLLM's own server, named our class by its flag."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.engines.tiny_model import make_tiny_model
from tests.engines.vllm_runs import ENVIRONMENT, OURS

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM here: make test-engines"),
    pytest.mark.filterwarnings("default"),  # vLLM's imports warn
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def start(model: Path, port: int, log: Path, flags: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """The server's process, in a group of its own."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--max-num-seqs", "4", "--scheduler-cls", OURS, *flags]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def server(model: Path, port: int, tmp_path: Path) -> Iterator[str]:
    log = tmp_path / "vllm.log"
    process = start(model, port, log)
    try:
        while not healthy(port):
            assert process.poll() is None, log.read_text(errors="replace")[-40_000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_every_request_gets_the_tokens_that_it_asked_for(server: str) -> None:
    def ask(k: int) -> tuple[int, int]:
        body = {
            "model": "tiny",
            "prompt": f"word {k} " * (1 + k),
            "max_tokens": 1 + 5 * k,
            "ignore_eos": True,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{server}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return k, json.load(answer)["usage"]["completion_tokens"]

    with ThreadPoolExecutor(16) as pool:
        answers = dict(pool.map(ask, range(16)))
    assert answers == {k: 1 + 5 * k for k in range(16)}
