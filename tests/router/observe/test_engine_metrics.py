"""What is read of engines' own metrics."""

from __future__ import annotations

import pytest

from router.observe.engine_metrics import Signals, read_ranks, read_signals
from tests.helpers import calls

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="512",x="a\\"b"} 1.0
"""
SGLANG = """
sglang:num_running_reqs{model_name="m"} 5.0
sglang:num_queue_reqs{model_name="m"} 0.0
sglang:max_running_requests{model_name="m"} 48.0
sglang:cache_config_info{page_size="1",num_pages="9000"} 1.0
"""
TENSORRT = """
trtllm_num_requests_running 3
trtllm_num_requests_waiting 1
trtllm_kv_cache_tokens_per_block 32
trtllm_kv_cache_max_blocks 100
"""
# As vLLM's: most of it is histograms.
HISTOGRAM = "".join(
    f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="{k}",model_name="m"}} {k}.0\n'
    for k in range(1000)
)


@pytest.mark.parametrize(
    ("page", "signals"),
    [
        (VLLM, Signals(16, 3, 8176)),
        (SGLANG, Signals(5, 0, 9000, 48)),
        (TENSORRT, Signals(3, 1, 3200)),
        (VLLM.replace("\n", "\r\n"), Signals(16, 3, 8176)),
        (SGLANG.strip(), Signals(5, 0, 9000, 48)),
        ('vllm:num_requests_running{engine="0"} NaN\nvllm:num_requests_waiting -1', Signals()),
        ("<html>vllm:num_requests_running 3</html>", Signals()),
        ("xvllm:num_requests_running 3\nvllm:num_requests_running_max 3", Signals()),
        ("process_cpu_seconds_total 3", Signals()),
        ("", Signals()),
    ],
)
def test_engines_metrics_are_read(page: str, signals: Signals) -> None:
    assert read_signals(page.encode()) == signals
    assert read_signals((HISTOGRAM + page + "\n" + HISTOGRAM).encode()) == signals


RANKS = """
vllm:num_requests_running{engine="10",model_name="m"} 7
vllm:num_requests_running{engine="9",model_name="m"} 12
vllm:num_requests_waiting{engine="9",model_name="m"} 3
vllm:num_requests_waiting{engine="10",model_name="m"} 0
vllm:cache_config_info{block_size="16",engine="9",num_gpu_blocks="512"} 1.0
vllm:cache_config_info{block_size="16",engine="10",num_gpu_blocks="256"} 1.0
"""


@pytest.mark.parametrize(
    ("page", "each"),
    [
        (RANKS, (Signals(12, 3, 8176), Signals(7, 0, 4080))),
        (
            RANKS.replace("vllm:num_requests_running", "sglang:num_running_reqs")
            .replace("vllm:num_requests_waiting", "sglang:num_queue_reqs")
            .replace("engine=", 'tp_rank="0",dp_rank='),
            (Signals(12, 3, 8176), Signals(7, 0, 4080)),
        ),
        (RANKS.replace('"10"', '"9"'), ()),
        (RANKS.replace('"10"', '"ten"'), ()),
        (RANKS.replace('"10"', '"' + "9" * 5000 + '"'), ()),
        (SGLANG, ()),
        (TENSORRT, ()),
        ("", ()),
    ],
)
def test_ranks_are_told_apart(page: str, each: tuple[Signals, ...]) -> None:
    assert read_ranks(page.encode()) == (read_signals(page.encode()), each)


def test_a_large_page_costs_no_more_than_a_small_one() -> None:
    small, large = VLLM.encode(), (HISTOGRAM + VLLM + HISTOGRAM).encode()
    assert calls(lambda: read_signals(large)) == calls(lambda: read_signals(small))


@pytest.mark.parametrize("line", ["vllm:num_requests_running", "vllm:num_requests_running 1\n"])
def test_names_without_end_are_not_looked_at_without_end(line: str) -> None:
    page = (line * 40_000).encode()
    assert calls(lambda: read_signals(page)) < 3_000
