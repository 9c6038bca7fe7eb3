"""What an engine's own metrics say: how many run and wait, and how many tokens fit into memory.

An engine's page has tens of kilobytes, most of it histograms, and is read every second: lines are
found by their names, and nothing else of it is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

RUNNING = (b"vllm:num_requests_running", b"sglang:num_running_reqs", b"trtllm_num_requests_running")
WAITING = (b"vllm:num_requests_waiting", b"sglang:num_queue_reqs", b"trtllm_num_requests_waiting")
# The most that run at once, as the engine was started.
SLOTS = (b"sglang:max_running_requests",)
# Information metrics: names, and the labels that hold tokens a block and blocks.
CACHE_CONFIG = {
    b"vllm:cache_config_info": (b"block_size", b"num_gpu_blocks"),
    b"sglang:cache_config_info": (b"page_size", b"num_pages"),
}
BLOCK_TOKENS, BLOCKS = b"trtllm_kv_cache_tokens_per_block", b"trtllm_kv_cache_max_blocks"
# Which adapters have running requests, by comma, and how many there may be; of its lines the latest
# counts, whose value is when that was.
ADAPTERS, RUNNING_ADAPTERS, MOST_ADAPTERS = (
    b"vllm:lora_requests_info",
    b"running_lora_adapters",
    b"max_lora",
)
_REST = re.compile(rb"(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+\d+)?\r?")
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
# One engine has a line of each name, and so does every one behind its page.
MOST_LINES, MOST_LINE_BYTES = 128, 4096


@dataclass(frozen=True, slots=True)
class Signals:
    """None where the engine does not tell."""

    running: int | None = None
    waiting: int | None = None
    kv_tokens: int | None = None
    slots: int | None = None
    adapters: tuple[str, ...] = ()
    most_adapters: int | None = None


def read_signals(page: bytes) -> Signals:
    """From a page in Prometheus's text format; several engines behind one page are added up."""
    kv = 0.0
    for name, names in CACHE_CONFIG.items():
        for labels, _ in _lines(page, name):
            told = dict(_LABEL.findall(labels))
            size, count = (_number(told.get(label, b"")) for label in names)
            kv += (size or 0.0) * (count or 0.0)
    kv = kv or (_first(page, (BLOCK_TOKENS,)) or 0) * (_first(page, (BLOCKS,)) or 0)
    slots = _first(page, SLOTS)
    adapters, most = _adapters(page)
    running, waiting = _first(page, RUNNING), _first(page, WAITING)
    return Signals(running, waiting, int(kv) or None, slots or None, adapters, most)


def _adapters(page: bytes) -> tuple[tuple[str, ...], int | None]:
    lines = [(at, labels) for labels, at in _lines(page, ADAPTERS)]
    if not lines:
        return (), None
    told = dict(_LABEL.findall(max(lines)[1]))
    names = told.get(RUNNING_ADAPTERS, b"").decode("utf-8", "replace").split(",")
    most = _number(told.get(MOST_ADAPTERS, b""))
    return tuple(name for name in names if name), None if most is None else int(most)


def _first(page: bytes, names: tuple[bytes, ...]) -> int | None:
    """The first of these that the page has."""
    for name in names:
        values = [value for _, value in _lines(page, name)]
        if values:
            return int(sum(values))
    return None


def _lines(page: bytes, name: bytes) -> Iterator[tuple[bytes, float]]:
    """The labels and the value of each line of that name."""
    at = -1
    for _ in range(MOST_LINES):
        at = page.find(name, at + 1)
        if at < 0:
            return
        if at > 0 and page[at - 1 : at] != b"\n":
            continue
        end = page.find(b"\n", at)
        end = len(page) if end < 0 else end
        found = _REST.fullmatch(page, at + len(name), min(end, at + MOST_LINE_BYTES))
        value = _number(found[2]) if found else None
        if found is not None and value is not None:
            yield found[1] or b"", value


def _number(text: bytes) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e12 else None
