"""The plug-in as a user starts it: vLLM's own server, named our class by its flag.

And a gateway before it, with all of OpenAI's and Anthropic's API that this server has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_model import LONGEST, make_tiny_model
from tests.engines.vllm_runs import ENVIRONMENT, OURS, stop
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
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
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", str(LONGEST)]
    command += ["--max-num-seqs", "4", "--scheduler-cls", OURS, *flags]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
        "MAKESPAN_VLLM_TARGETS": "tpot=0.01ms",  # so bulk work has no room beside anybody
    }
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log, port = tmp_path_factory.mktemp("server") / "vllm.log", free_ports(1)[0]
    process = start(model, port, log)
    try:
        while not healthy(port):
            assert process.poll() is None, log.read_text(errors="replace")[-40_000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@pytest.fixture(scope="module")
def gateway(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In an environment of its own."""
    port, log = free_ports(1)[0], tmp_path_factory.mktemp("gateway") / "gateway.log"
    command = [str(ROOT / ".venv" / "bin" / "python"), "-m", "router.cli", "gateway"]
    flags = ["--port", str(port), "--worker", server]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *flags], cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while "worker is up" not in (told := log.read_text(errors="replace")):
            assert process.poll() is None, told
            time.sleep(0.2)
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
            "priority": k % 3 - 1,
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


def test_bulk_work_ends_after_online_work(server: str) -> None:
    """It came first and is shorter. Five times, as a busy server may read of them one by one."""

    def ask(tokens: int, priority: int) -> float:
        body = {"model": "tiny", "prompt": "a", "max_tokens": tokens, "ignore_eos": True}
        status, answer = told_by(server, "/v1/completions", {**body, "priority": priority})
        assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, tokens)
        return time.monotonic()

    def is_last(pool: ThreadPoolExecutor) -> bool:
        bulk = [pool.submit(ask, LONGEST - 100, 1) for _ in range(2)]
        online_s = ask(LONGEST - 50, 0)
        return online_s < min([one.result() for one in bulk])

    with ThreadPoolExecutor(2) as pool:
        assert any(is_last(pool) for _ in range(5))


def told_by(url: str, path: str, body: object = None, method: str = "POST") -> tuple[int, str]:
    """Status and answer."""
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def whole(url: str, path: str, body: object = None, method: str = "POST") -> dict[str, Any]:
    status, text = told_by(url, path, body, method)
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def events(url: str, path: str, body: dict[str, object]) -> list[dict[str, Any]]:
    status, text = told_by(url, path, {**body, "stream": True})
    assert status == 200, text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def completed(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    counts = re.findall(r'\nmakespan_requests_total\{.*outcome="completed"\} (.+)', text)
    return sum(map(float, counts))


def test_responses_are_made_streamed_kept_and_gone_on_from(gateway: str) -> None:
    before = completed(gateway)
    body: dict[str, object] = {"model": "tiny", "input": "one two", "max_output_tokens": 5}
    first = whole(gateway, "/v1/responses", body)
    assert (first["status"], first["usage"]["output_tokens"]) == ("incomplete", 5)
    more = whole(gateway, "/v1/responses", {**body, "previous_response_id": first["id"]})
    assert more["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    kept = whole(gateway, f"/v1/responses/{more['id']}", method="GET")
    assert kept["output"] == more["output"]
    stream = events(gateway, "/v1/responses", body)
    kinds = [event["type"] for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert 1 <= kinds.count("response.output_text.delta") <= 5
    assert stream[-1]["response"]["usage"]["output_tokens"] == 5
    status, text = told_by(gateway, "/v1/responses", {**body, "previous_response_id": "resp_x"})
    assert (status, "resp_x" in text) == (404, True)
    assert completed(gateway) == before + 3


def test_messages_are_made_streamed_and_counted(gateway: str) -> None:
    before = completed(gateway)
    asked = [{"role": "user", "content": "one two"}]
    body: dict[str, object] = {"model": "tiny", "max_tokens": 5, "messages": asked}
    message = whole(gateway, "/v1/messages", body)
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 5)
    stream = events(gateway, "/v1/messages", body)
    kinds = [event["type"] for event in stream]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert stream[-2]["usage"]["output_tokens"] == 5
    counted = whole(gateway, "/v1/messages/count_tokens", {"model": "tiny", "messages": asked})
    assert counted["input_tokens"] == message["usage"]["input_tokens"]
    assert completed(gateway) == before + 2


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/embeddings", "POST"),
        ("/v1/rerank", "POST"),
        ("/v1/score", "POST"),
        ("/v1/responses/resp_x", "DELETE"),
    ],
)
def test_what_it_does_not_serve_has_its_own_answer(
    server: str, gateway: str, path: str, method: str
) -> None:
    body = {"model": "tiny", "input": "a"} if method == "POST" else None
    answer = told_by(gateway, path, body, method)
    assert answer == told_by(server, path, body, method)
    assert answer[0] in (404, 405)
