"""Servers that ask for a key have it from their gateway or sidecar, and never from a client."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from router.settings.base import BadSettings
from router.settings.secrets import key_file, read_keys
from tests import http
from tests.e2e.test_other_apis import MESSAGES, VERSION, Gateway
from tests.engine_server import EngineServer
from tests.helpers import Process
from tests.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ASKED = [
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", MESSAGES),
    ("/v1/embeddings", {"model": "m", "input": "a"}),
]
CLIENTS = {**VERSION, "authorization": "Bearer client-1", "x-api-key": "client-2"}


def written(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(f"key-of-{name}\n")
    return path


def test_each_worker_gets_its_own_in_looks_and_requests(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(EngineServer("m", number=k, key=f"key-of-{name}"))
            for k, name in enumerate(("a", "b"))
        ]
        files = f"{written(tmp_path, 'a')},{servers[1].url}={written(tmp_path, 'b')}"
        flags = ("--worker-key-file", files, "--log-level", "debug")
        gateway = stack.enter_context(Gateway(*servers, flags=flags))
        for path, body in ASKED * 4:
            assert gateway.ask(path, body, headers=CLIENTS).status_code == 200
        for server, name in zip(servers, "ab", strict=True):
            assert server.told
            for call in server.told:
                assert call.head.count("authorization:") == 1
                assert f"authorization: bearer key-of-{name}" in call.head
                assert "client-" not in call.head
        assert not [line for line in gateway.lines if "key-of-" in line or "client-" in line]


def test_a_key_that_a_worker_does_not_take_is_the_workers_fault_and_not_the_clients(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("m", key="key-of-a"))
        flags = ("--worker-key-file", str(written(tmp_path, "b")), "--wait-for-worker-s", "0")
        gateway = stack.enter_context(
            Process("gateway", "--port", "0", "--worker", server.url, *flags)
        )
        url = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for("(it does not take the key of --worker-key-file)")
        assert http.post(url + ASKED[0][0], json=CHAT).status_code == 503


def test_a_key_that_changes_holds_without_a_restart(tmp_path: Path) -> None:
    """What makes no sense changes nothing."""
    path = written(tmp_path, "old")
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("m", key="key-of-new"))
        flags = ("--worker-key-file", str(path), "--wait-for-worker-s", "0")
        gateway = stack.enter_context(
            Process("gateway", "--port", "0", "--worker", server.url, *flags)
        )
        url = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for("(it does not take the key of --worker-key-file)")
        path.write_text("\n")
        gateway.wait_for("(workers' keys stay as they were)")
        path.write_text("key-of-new\n")
        gateway.wait_for("(workers' keys have been read again)")
        gateway.wait_for("(worker is up)")
        assert http.post(url + ASKED[0][0], json=CHAT).status_code == 200


def test_a_key_that_changes_between_requests_holds_for_the_next(tmp_path: Path) -> None:
    """For what is planned and what is relayed, at a worker that was up all along."""
    path = written(tmp_path, "a")
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("m"))
        gateway = stack.enter_context(Gateway(server, flags=("--worker-key-file", str(path))))
        for name in "ab":
            if name == "b":
                written(tmp_path, name).rename(path)
                gateway.wait_for("(workers' keys have been read again)")
            before = len(server.told)
            for asked, body in ASKED:
                assert gateway.ask(asked, body, headers=CLIENTS).status_code == 200
            heads = [call.head for call in server.told[before:]]
            assert len(heads) >= len(ASKED)
            assert all(f"authorization: bearer key-of-{name}" in head for head in heads)


def test_a_sidecar_gives_its_server_the_key(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("m", key="key-of-a"))
        flags = ("--upstream", server.url, "--upstream-key-file", str(written(tmp_path, "a")))
        sidecar = stack.enter_context(Process("agent", "--port", "0", "--engine", "openai", *flags))
        url = sidecar.wait_for(r"listening url=(\S+)")
        eventually(lambda: http.is_well(url + "/health"))
        for path, body in ASKED:
            answer = http.post(url + path, json=body, headers=CLIENTS)
            assert answer.status_code == 200
        assert not [call for call in server.told if "client-" in call.head]


def test_files(tmp_path: Path) -> None:
    one, url = written(tmp_path, "a"), "http://10.0.0.5:8000"
    assert read_keys((str(one), f"{url}/v1={one}")) == {"": "key-of-a", url: "key-of-a"}
    assert key_file("a=b") == ("", "a=b")
    for text in ("", "\n", "é", "a\tb"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(BadSettings, match=r"worker_key_file: .*bad has no key"):
            read_keys((str(tmp_path / "bad"),))
    with pytest.raises(BadSettings, match=r"worker_key_file: .*No such file"):
        read_keys((str(tmp_path / "none"),))
