"""OpenAI's SDK for Node, and Vercel's, unchanged, against the gateway."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import all_up
from tests.e2e.batch_gateway import Gateway, agents, line
from tests.e2e.test_gateway import MODEL
from tests.engine_server import EngineServer
from tests.helpers import Fleet, Process
from tests.waiting import eventually


@pytest.fixture(scope="module")
def results(fleet: Fleet, node: tuple[str, Path]) -> dict[str, Any]:
    """What came of each step of the script, by its name."""
    command, folder = node
    done = subprocess.run(
        [command, "exercise.mjs", fleet.url],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    eventually(lambda: all_up(fleet))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_models(results: dict[str, Any]) -> None:
    assert results["models"] == {"value": [MODEL]}
    assert results["one_model"] == {"value": MODEL}
    assert results["slash"] == {"value": 1}


def test_answers_in_one_piece(results: dict[str, Any]) -> None:
    chat = results["chat"]["value"]
    texts = [choice["message"]["content"].split() for choice in chat["choices"]]
    assert [len(words) for words in texts] == [5, 5]
    assert chat["usage"]["completion_tokens"] == 10
    completion = results["completion"]["value"]
    assert [choice["index"] for choice in completion["choices"]] == [0, 1]
    stopped = results["stop"]["value"]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["stop"] not in stopped["choices"][0]["message"]["content"]


def test_vercels_sdk_in_its_default_mode(results: dict[str, Any]) -> None:
    """Which is that of responses; an answer has at most six words, a token each."""
    text = results["ai_text"]["value"]
    assert 1 <= text["words"] == text["tokens"] <= 6
    assert text["finishReason"] in ("length", "stop")
    stream = results["ai_stream"]["value"]
    assert stream["words"] == stream["tokens"] == text["tokens"]


def test_tools_of_engines_pass_vercels_sdk(node: tuple[str, Path]) -> None:
    command, folder = node
    with (
        EngineServer("m") as server,
        Process("gateway", "--port", "0", "--worker", server.url) as up,
    ):
        url = up.wait_for(r"listening url=(\S+)")
        up.wait_for("(worker is up)")
        done = subprocess.run(
            [command, "tools.mjs", url], cwd=folder, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"] == found["stream"] == [["weather", {"city": "Rome"}]]
    assert found["why"] == "tool-calls"
    assert found["parts"].index("tool-input-delta") < found["parts"].index("tool-call")


def test_streams(results: dict[str, Any]) -> None:
    stream = results["stream"]["value"]
    assert [len(text.split()) for text in stream["texts"].values()] == [7, 7]
    assert list(stream["reasons"].values()) == ["length", "length"]
    assert stream["usage"]["completion_tokens"] == 14
    assert results["many"]["value"] == [30] * 64
    assert results["cancelled"]["value"] < 1500


def test_headers(results: dict[str, Any]) -> None:
    headers = results["headers"]["value"]
    assert headers["worker"] in ("agent-0", "agent-1")
    assert (headers["id"], headers["kept"]) == ("node-1", "node-1")


@pytest.mark.parametrize(
    ("step", "kind", "status", "code"),
    [
        ("bad_request", "BadRequestError", 400, "invalid_value"),
        ("not_found", "NotFoundError", 404, "model_not_found"),
        ("no_such_path", "NotFoundError", 404, "not_found"),
        ("rate_limit", "RateLimitError", 429, "injected_fault"),
        ("server_error", "InternalServerError", 500, "injected_fault"),
        ("too_large", "APIError", 413, "request_too_large"),
        ("timeout", "APIConnectionTimeoutError", None, None),
        ("broken_stream", "APIError", None, "worker_failed"),
    ],
)
def test_errors_are_the_sdks_own(
    results: dict[str, Any], step: str, kind: str, status: int | None, code: str | None
) -> None:
    error = results[step]["error"]
    assert (error["kind"], error.get("status"), error.get("code")) == (kind, status, code)


def test_a_batch_from_its_file_to_its_answers(node: tuple[str, Path], tmp_path: Path) -> None:
    command, folder = node
    lines = [line(k, method="GET") if k == 3 else line(k) for k in range(20)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with agents("--speed", "200") as workers, Gateway(workers, str(tmp_path / "data")) as gateway:
        done = subprocess.run(
            [command, "batch.mjs", gateway.url, str(path)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["batch"]["status"] == "completed"
    assert told["batch"]["request_counts"] == {"total": 20, "completed": 19, "failed": 1}
    assert told["batch"]["metadata"] == {"by": "node"}
    assert told["answers"] == [f"line-{k}" for k in range(20) if k != 3]
    assert told["errors"] == ["line-3"]
    assert told["listed"] == [told["batch"]["id"]]
    assert told["deleted"]
