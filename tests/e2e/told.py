"""The dashboard's page by itself, told frames by a test."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route

from router.gateway.dashboard.page import FILES, HEADERS, KINDS
from router.look.palette import base_style

HERE = "http://dashboard.test"
# A source of events that hears what a test tells it.
SOURCE = """
window.EventSource = class {
  static open = null; // the latest
  static all = new Set();
  heard = {};
  constructor(url) { this.url = url; EventSource.open = this; EventSource.all.add(this); }
  addEventListener(kind, hear) { this.heard[kind] = hear; }
  close() {
    EventSource.all.delete(this);
    if (EventSource.open === this) EventSource.open = null;
  }
};
window.tell = (kind, data) => EventSource.open.heard[kind]({ data: JSON.stringify(data) });
"""
LATE_S = 0.3  # single slots are told of so long after
STATES = ("prefill", "decode", "stalled", "paused", "waiting", "empty")
Frame = dict[str, Any]


def serve(route: Route) -> None:
    name = urlsplit(route.request.url).path.rpartition("/")[2] or "index.html"
    body = base_style() if name == "look.css" else (FILES / name).read_text()
    kind = KINDS["." + name.rpartition(".")[2]]
    route.fulfill(body=body, content_type=f"{kind}; charset=utf-8", headers=HEADERS)


@dataclass
class Told:
    """A page and the frames that it is told."""

    page: Page
    at: float = field(default_factory=time.time)

    def fleet(self, *names: str, down: Collection[str] = (), **changed: object) -> None:
        """The next frame: these workers, half of each busy for the last half second."""
        self.tell("fleet", self._frame(*names, down=down, **changed))

    def fleets(self, *names: str, frames: int, down: Collection[str] = ()) -> None:
        """So many of them, at once: each by itself costs some hundredths of a second of CPU."""
        told = [self._frame(*names, down=down) for _ in range(frames)]
        self.page.evaluate("(frames) => frames.forEach((one) => tell('fleet', one))", told)

    def _frame(self, *names: str, down: Collection[str] = (), **changed: object) -> Frame:
        self.at += 0.5
        frame = {
            "at": self.at, "running": 0, "unsent": 0, "outcomes": {}, "plan": None,
            "targets": {"kept": 0, "missed": 0},
            "workers": [self.worker(name, up=name not in down) for name in names],
        }  # fmt: skip
        if len(down) == len(names):
            frame["expected"] = ["dns://agents:8100", "kubernetes://default/vllm:http"]
        return frame | changed

    def slots(self, name: str) -> None:
        """One slot of the four was held for half a second, until a moment ago."""
        until = self.at - LATE_S
        report = {"worker": name, "slots": 4, "since": until - 0.5, "until": until}
        self.tell("slots", report | {"held": [[3, 0, 500]], "fills": []})

    def worker(self, name: str, *, up: bool = True, **changed: object) -> Frame:
        """A worker's line of the next frame; nothing is heard of one that is down."""
        spent = self.at % 1e5
        heard = {
            "heard": self.at,
            "seconds": dict.fromkeys(STATES, 0.0) | {"decode": 2 * spent, "empty": 2 * spent},
            "single_slots": True,
        }
        return (heard if up else {}) | {
            "name": name, "url": f"http://{name}", "up": up, "models": ["it's"], "slots": 4,
            "in_flight": 2, "backlog_s": 0.5, "engine": "emulated", "policy": "adaptive",
            "draining": False, "running": 2, "queued": 0, **changed,
        }  # fmt: skip

    def tell(self, kind: str, data: Frame) -> None:
        self.page.evaluate("([kind, data]) => tell(kind, data)", [kind, data])

    def lists(self, **changed: object) -> None:
        """The lists, empty but for these."""
        empty: Frame = {
            "requests": [],
            "plans": [],
            "tenants": [],
            "batches": [],
            "served": [],
            "shares": None,
        }
        self.tell("lists", empty | changed)

    def rows(self) -> list[str]:
        """The workers that have a row, from the top."""
        rows = self.page.locator("tr[data-worker]").all()
        return [row.get_attribute("data-worker") or "" for row in rows]

    def wanted(self) -> list[str]:
        """The workers whose slots the page asks for."""
        return parse_qs(urlsplit(self.page.evaluate("EventSource.open.url")).query).get("slots", [])


def names(count: int) -> list[str]:
    """So many workers."""
    return [f"agent-{k:02d}" for k in range(count)]
