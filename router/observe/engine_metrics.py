"""What an engine's own metrics say: how many run and wait, and how many tokens fit into memory.

An engine's page has tens of kilobytes, most of it histograms, and is read every second: lines are
found by their names, and nothing else of it is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

RUNNING = (b"vllm:num_requests_running", b"sglang:num_running_reqs", b"trtllm_num_requests_running")
WAITING = (b"vllm:num_requests_waiting", b"sglang:num_queue_reqs", b"trtllm_num_requests_waiting")
# The most that run at once, as the engine was started.
SLOTS = (b"sglang:max_running_requests",)
# Information metrics: names, the labels that hold tokens a block and blocks, and how many blocks
# are nobody's: vLLM has one that stands for none.
CACHE_CONFIG = {
    b"vllm:cache_config_info": (b"block_size", b"num_gpu_blocks", 1),
    b"sglang:cache_config_info": (b"page_size", b"num_pages", 0),
}
BLOCK_TOKENS, BLOCKS = b"trtllm_kv_cache_tokens_per_block", b"trtllm_kv_cache_max_blocks"
# Which adapters have running requests, by comma, and how many there may be; of its lines the latest
# counts, whose value is when that was.
ADAPTERS, RUNNING_ADAPTERS, MOST_ADAPTERS = (
    b"vllm:lora_requests_info",
    b"running_lora_adapters",
    b"max_lora",
)
# Labels that say which data-parallel rank a line is of: vLLM's, and SGLang's.
RANKS, MOST_DIGITS = (b"engine", b"dp_rank"), 5
_NAMES = (*RUNNING, *WAITING, *SLOTS, *CACHE_CONFIG, BLOCK_TOKENS, BLOCKS, ADAPTERS)
_Line = tuple[bytes, float]  # its labels and its value
_Found = Mapping[bytes, list[_Line]]
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
    return _signals(_find(page))


def read_ranks(page: bytes) -> tuple[Signals, tuple[Signals, ...]]:
    """The same, and that of each data-parallel rank, in their order, if there are several."""
    found = _find(page)
    ranks = {rank for name in RUNNING for labels, _ in found[name] if (rank := _rank(labels))}
    own = {rank: {name: list[_Line]() for name in _NAMES} for rank in sorted(ranks, key=int)}
    for name, lines in found.items() if len(own) > 1 else ():
        for labels, value in lines:
            if (rank := _rank(labels)) in own:
                own[rank][name].append((labels, value))
    each = tuple(map(_signals, own.values())) if len(own) > 1 else ()
    return _signals(found), each


def _rank(labels: bytes) -> bytes:
    """Whose a line is."""
    told = dict(_LABEL.findall(labels))
    rank: bytes = next((told[label] for label in RANKS if label in told), b"")
    return rank if rank.isdigit() and len(rank) <= MOST_DIGITS else b""


def _find(page: bytes) -> _Found:
    return {name: list(_lines(page, name)) for name in _NAMES}


def _signals(found: _Found) -> Signals:
    kv = 0.0
    for name, (sizes, counts, nobodys) in CACHE_CONFIG.items():
        for labels, _ in found[name]:
            told = dict(_LABEL.findall(labels))
            size, count = (_number(told.get(label, b"")) for label in (sizes, counts))
            kv += (size or 0.0) * max(0.0, (count or 0.0) - nobodys)
    kv = kv or (_first(found, (BLOCK_TOKENS,)) or 0) * (_first(found, (BLOCKS,)) or 0)
    slots = _first(found, SLOTS)
    adapters, most = _adapters(found)
    running, waiting = _first(found, RUNNING), _first(found, WAITING)
    return Signals(running, waiting, int(kv) or None, slots or None, adapters, most)


def _adapters(found: _Found) -> tuple[tuple[str, ...], int | None]:
    lines = [(at, labels) for labels, at in found[ADAPTERS]]
    if not lines:
        return (), None
    told = dict(_LABEL.findall(max(lines)[1]))
    names = told.get(RUNNING_ADAPTERS, b"").decode("utf-8", "replace").split(",")
    most = _number(told.get(MOST_ADAPTERS, b""))
    return tuple(name for name in names if name), None if most is None else int(most)


def _first(found: _Found, names: tuple[bytes, ...]) -> int | None:
    """The first of these that the page has."""
    for name in names:
        values = [value for _, value in found[name]]
        if values:
            return int(sum(values))
    return None


def _lines(page: bytes, name: bytes) -> Iterator[_Line]:
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
