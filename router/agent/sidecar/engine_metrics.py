"""What an engine's own metrics say: how many run and wait, and how many tokens fit into memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs", "trtllm_num_requests_running")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "trtllm_num_requests_waiting")
# Information metrics: names, and the labels that hold tokens a block and blocks.
CACHE_CONFIG = {
    "vllm:cache_config_info": ("block_size", "num_gpu_blocks"),
    "sglang:cache_config_info": ("page_size", "num_pages"),
}
BLOCK_TOKENS, BLOCKS = "trtllm_kv_cache_tokens_per_block", "trtllm_kv_cache_max_blocks"
_PREFIXES = ("vllm:", "sglang:", "trtllm_")
_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+([^\s]+)(?:\s+\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Signals:
    """None where the engine does not tell."""

    running: int | None = None
    waiting: int | None = None
    kv_tokens: int | None = None


def read_signals(text: str) -> Signals:
    """From a page in Prometheus's text format; several engines behind one page are added up."""
    sums: dict[str, float] = {}
    kv = 0.0
    for line in text.splitlines():
        if not line.startswith(_PREFIXES):
            continue
        found = _LINE.fullmatch(line)
        value = _number(found[3]) if found else None
        if found is None or value is None:
            continue
        name = found[1]
        sums[name] = sums.get(name, 0.0) + value
        if name in CACHE_CONFIG:
            labels = dict(_LABEL.findall(found[2] or ""))
            size, count = (_number(labels.get(label, "")) for label in CACHE_CONFIG[name])
            kv += (size or 0.0) * (count or 0.0)
    kv = kv or sums.get(BLOCK_TOKENS, 0.0) * sums.get(BLOCKS, 0.0)
    return Signals(_first(sums, RUNNING), _first(sums, WAITING), int(kv) or None)


def _first(sums: dict[str, float], names: tuple[str, ...]) -> int | None:
    return next((int(sums[name]) for name in names if name in sums), None)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e12 else None
