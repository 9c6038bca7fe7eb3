"""What a model takes under transformers' continuous batching: weights, cached tokens, batches."""

from __future__ import annotations

from math import ceil
from typing import Any

from router.settings.agent import AgentSettings
from router.settings.base import BadSettings

HfObject = Any  # an object of torch's or transformers', which have no types here

# Prompt tokens of one iteration, unless told: more make those who decode wait too long.
PREFILL_BUDGET = 2048
PAGE_TOKENS = 32
# Share of free memory that it may take.
MOST_MEMORY = 0.9


def pages(settings: AgentSettings) -> int:
    """Pages of the cache.

    One may stand half empty for each sequence, as the batcher counts tokens.
    """
    return ceil(settings.kv_tokens / PAGE_TOKENS) + 2 * settings.slots


def batch_tokens(settings: AgentSettings) -> int:
    """Most tokens of one iteration."""
    return (settings.prefill_budget or PREFILL_BUDGET) + settings.slots


def require_memory(
    settings: AgentSettings, config: HfObject, parameters: int, device: HfObject, dtype: HfObject
) -> None:
    """Refuse before anything is read what cannot fit.

    Raises:
        BadSettings: naming what takes most of the memory.
    """
    size, slots = dtype.itemsize, settings.slots
    weights, cache, batches = parameters * size, *_tokens_bytes(settings, config, size)
    free = _free_bytes(device)
    if weights + cache + batches <= MOST_MEMORY * free:
        return
    takers = {"model": weights, "kv_tokens": cache, "slots": batches}
    most = max(takers, key=lambda name: takers[name])
    less = {"model": "a smaller model", "kv_tokens": "fewer --kv-tokens", "slots": "fewer --slots"}
    raise BadSettings(
        f"{most}: {parameters / 1e9:.1f} billion weights take {weights / 1e9:.1f} GB, "
        f"{settings.kv_tokens} cached tokens {cache / 1e9:.1f} GB and batches of {slots} slots "
        f"{batches / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB free: take {less[most]}"
    )


def _tokens_bytes(settings: AgentSettings, config: HfObject, size: int) -> tuple[int, int]:
    """Of the cached tokens, and of what comes with the slots.

    The attention mask of a batch has a number for each of its tokens and each that is cached.
    """
    text, rows = config.get_text_config(), batch_tokens(settings)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    a_token = 2 * text.num_hidden_layers * heads * width * size
    cached = PAGE_TOKENS * pages(settings)
    every = a_token * cached + size * rows * (cached + rows)
    alone = settings.kv_tokens * (a_token + size * (rows - settings.slots))
    return alone, every - alone


def _free_bytes(device: HfObject) -> float:
    import psutil
    import torch

    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)
