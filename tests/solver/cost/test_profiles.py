"""Profiles: times that are physically plausible, and memory that fits the hardware."""

from __future__ import annotations

import pytest

from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES

BATCHES = (1, 8, 64, 128)
PROMPTS = (1, 16, 256, 2048)
MIXED = [name for name, profile in PROFILES.items() if profile.cost.mixed]


def test_all_but_the_papers_know_mixed_iterations() -> None:
    assert set(PROFILES) - set(MIXED) == {"llama-65b-ascend"}


@pytest.mark.parametrize("name", MIXED)
def test_a_mixed_iteration_lasts_at_least_each_half_and_at_most_both(name: str) -> None:
    cost = PROFILES[name].cost
    for batch in BATCHES:
        for prompt in PROMPTS:
            mixed, decode = (
                cost.mixed_s(prompt, batch, 500 * batch),
                cost.decode_s(batch, 500 * batch),
            )
            prefill = cost.prefill_s(prompt)
            assert max(prefill, decode) <= mixed * (1 + 1e-9)
            assert mixed < prefill + decode


@pytest.mark.parametrize("gpus", [4, 8])
def test_newer_and_more_gpus_are_faster(gpus: int) -> None:
    old = PROFILES[f"llama-2-70b-a100-tp{gpus}"].cost
    new = PROFILES[f"llama-2-70b-h100-tp{gpus}"].cost
    assert _is_faster(new, old)


@pytest.mark.parametrize("name", ["llama-2-70b-a100", "llama-2-70b-h100", "opt-66b-a100"])
def test_more_gpus_are_faster_and_hold_more(name: str) -> None:
    few, many = PROFILES[f"{name}-tp4"], PROFILES[f"{name}-tp8"]
    assert _is_faster(many.cost, few.cost)
    assert many.kv_tokens > 2 * few.kv_tokens  # the weights are there only once


def _is_faster(one: CostModel, other: CostModel) -> bool:
    decodes = all(one.decode_s(b, 500 * b) < other.decode_s(b, 500 * b) for b in BATCHES)
    return decodes and all(one.prefill_s(p) < other.prefill_s(p) for p in PROMPTS)


@pytest.mark.parametrize("name", PROFILES)
def test_full_slots_have_room_for_requests_of_a_useful_length(name: str) -> None:
    profile = PROFILES[name]
    assert profile.kv_tokens / profile.slots > 600
    assert profile.max_model_len <= profile.kv_tokens
    assert name.startswith(profile.model)


def test_memory_of_llama_2_70b_on_four_gpus() -> None:
    """288 GB less 138 GB of weights, at 320 KiB a cached token."""
    assert PROFILES["llama-2-70b-a100-tp4"].kv_tokens == int(150e9 / (320 * 1024))
