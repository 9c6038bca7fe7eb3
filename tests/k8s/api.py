"""An API server's EndpointSlices, as far as their watcher can tell: it says what a test has it say.

Lists answer with `listed`, one after another and the last for ever; watches with the events
that `say` hands out, up to an error, `end` or `cut`; whatever was asked is kept.
It is a replay: it has no cluster, and no opinion.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from router.lab.simulation.traces import data_dir
from tests.helpers import ROOT

TOKEN = "not-a-secret"
END, CUT = object(), object()
OURS = ROOT / "tests" / "k8s" / "watch_stream.jsonl"

Json = dict[str, Any]


def streams() -> list[Path]:
    """Recorded watches: a small one of ours, and a long one from a real API server if at hand."""
    recorded = (data_dir() or ROOT).parent / "k8s" / "watch_stream.jsonl"
    return [OURS, *([recorded] if recorded.is_file() else [])]


def read(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def pod(address: str, uid: str = "", **conditions: bool) -> Json:
    row: Json = {"addresses": [address], "targetRef": {"kind": "Pod", "uid": uid or address}}
    told = {"ready": True, "serving": True, "terminating": False} | conditions
    return {**row, "conditions": told}


def endpoint_slice(
    version: int, pods: Iterable[Json], name: str = "agents-1", kind: str = "IPv4", port: int = 8100
) -> Json:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "llm", "resourceVersion": str(version)},
        "addressType": kind,
        "endpoints": list(pods),
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
    }


def modified(told: Json) -> Json:
    return {"type": "MODIFIED", "object": told}


def error(code: int, reason: str) -> Json:
    status = {"kind": "Status", "code": code, "reason": reason, "message": f"so it is: {code}"}
    return {"type": "ERROR", "object": {"metadata": {}, **status}}


def listing(version: int, slices: Iterable[Json]) -> Json:
    return {
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": str(version)},
        "items": list(slices),
    }


class Api:
    """What it says, and what it was asked."""

    def __init__(self) -> None:
        self.listed = [listing(1, [])]
        self.refuses: int | None = None
        self.asked: list[Json] = []
        self.refused = 0
        self.paths: set[tuple[str, str]] = set()
        self._response_info: queue.Queue[Any] = queue.Queue()

    def say(self, *events: Json) -> None:
        """One event each to whoever watches."""
        for event in events:
            self._response_info.put(event)

    def end(self) -> None:
        """The watch ends, as watches do."""
        self._response_info.put(END)

    def cut(self) -> None:
        """The connection breaks in the middle of an event."""
        self._response_info.put(CUT)

    @property
    def lists(self) -> int:
        return sum("watch" not in asked for asked in self.asked)

    @property
    def watches(self) -> list[str]:
        """The versions from which watches went on."""
        return [asked["resourceVersion"] for asked in self.asked if "watch" in asked]

    def answer(self, asked: Json) -> Iterator[bytes]:
        """What goes out, object by object.

        Raises:
            ConnectionError: if it is to break off.
        """
        self.asked.append(asked)
        if "watch" not in asked:
            yield _line(self.listed.pop(0) if len(self.listed) > 1 else self.listed[0])
            return
        while (event := self._response_info.get()) is not END:
            if event is CUT:
                yield b'{"type":"MODIFIED","obj'
                raise ConnectionError
            yield _line(event)
            if event["type"] == "ERROR":
                return


def _line(told: Json) -> bytes:
    return json.dumps(told).encode() + b"\n"


@contextmanager
def serving(api: Api, port: int = 0) -> Iterator[str]:
    """The server's URL; at the end it is gone, its watches cut off."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            api.paths.add((url.path, self.headers.get("authorization", "")))
            self.send_response(api.refuses or 200)
            self.send_header("content-type", "application/json")
            self.send_header("transfer-encoding", "chunked")
            self.send_header("connection", "close")
            self.end_headers()
            if api.refuses is not None:
                api.refused += 1
            else:
                try:
                    for text in api.answer(dict(parse_qsl(url.query))):
                        self._chunk(text)
                except ConnectionError:
                    return
            self._chunk(b"")

        def _chunk(self, text: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            api.end()
            thread.join()


def kubeconfig(folder: Path, url: str) -> Path:
    """The file by which a client finds the server."""
    path = folder / "kubeconfig"
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "replay", "user": "gateway"}}],
        "clusters": [{"name": "replay", "cluster": {"server": url}}],
        "users": [{"name": "gateway", "user": {"token": TOKEN}}],
    }
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path
