"""Loads for vLLM in this process: the same engine under its own scheduler and under ours.

One engine is started, with our class by name as a user starts it; between runs its scheduler is
replaced by a new one of either kind, so that all runs share process, model and memory.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.engines.tiny_model import make_tiny_model

SLOTS, BUDGET = 16, 512
OURS = "router.agent.engines.vllm.Makespan"
# One thread, and everything in this process, so that its CPU time is all that there is.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True, slots=True)
class Load:
    """Requests: the engine step at which each comes, its prompt's ids, and its output tokens.

    The first `bulk` of them are bulk work.
    """

    requests: tuple[tuple[int, tuple[int, ...], int], ...]
    bulk: int = 0

    @classmethod
    def draw(
        cls,
        prompts: tuple[int, int],
        outputs: tuple[int, int],
        count: int = 64,
        every: float = 0.0,
        seed: int = 1,
    ) -> Load:
        """Lengths between two bounds; one request comes `every` so many steps, all at once if 0."""
        rng = random.Random(seed)
        rows = []
        for k in range(count):
            prompt = tuple(rng.randrange(300, 4000) for _ in range(rng.randint(*prompts)))
            rows.append((int(k * every), prompt, rng.randint(*outputs)))
        return cls(tuple(rows))


@dataclass(frozen=True, slots=True)
class Run:
    """What a load came to: tokens by request, iterations by kind, CPU seconds of the process.

    `preempted`: how often a request has lost its memory.
    """

    tokens: tuple[tuple[int, ...], ...]
    iterations: Mapping[str, int]
    cpu_s: float
    preempted: int

    @property
    def output_tokens(self) -> int:
        """Of all requests."""
        return sum(len(tokens) for tokens in self.tokens)

    @property
    def with_prefill(self) -> int:
        """Iterations that carried prompt tokens."""
        return self.iterations["prefill"] + self.iterations["mixed"]

    @property
    def tokens_per_cpu_s(self) -> float:
        """Output tokens per CPU second."""
        return self.output_tokens / self.cpu_s


class Bench:
    """An engine in this process, with a tiny model in `folder`."""

    def __init__(self, folder: Path) -> None:
        os.environ.update(ENVIRONMENT)  # before anything imports torch
        from vllm import LLM

        self.llm = LLM(
            str(make_tiny_model(folder)),
            max_num_seqs=SLOTS,
            max_num_batched_tokens=BUDGET,
            max_model_len=1024,
            enforce_eager=True,
            dtype="float32",
            enable_prefix_caching=False,
            scheduler_cls=OURS,
        )
        self.core = self.llm.llm_engine.engine_core.engine_core

    def make_scheduler(
        self,
        policy: str | None,
        cost: str = "",
        *,
        late: bool = False,
        blocks: int | None = None,
        targets: str = "none",
    ) -> Any:
        """A new scheduler of the engine's configuration; no policy: vLLM's own.

        `late`: for asynchronous scheduling, which vLLM does not do on CPUs. `blocks`: of memory, if
        not all that there are.
        """
        from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler

        from router.agent.engines.vllm import Makespan
        from router.agent.engines.vllm.settings import COST, POLICY, TARGETS

        settings = {POLICY: policy or "", COST: cost, TARGETS: targets}
        config, now = self.core.vllm_config, self.core.scheduler
        config.scheduler_config.async_scheduling = late
        block_size, hash_block_size = resolve_kv_cache_block_sizes(now.kv_cache_config, config)
        own = AsyncScheduler if late else Scheduler
        memory = now.kv_cache_config
        if blocks is not None:
            memory = replace(memory, num_blocks=blocks)
        try:
            with patch.dict(os.environ, settings):
                return (own if policy is None else Makespan)(
                    vllm_config=config,
                    kv_cache_config=memory,
                    structured_output_manager=now.structured_output_manager,
                    include_finished_set=False,
                    log_stats=False,
                    block_size=block_size,
                    hash_block_size=hash_block_size,
                )
        finally:
            config.scheduler_config.async_scheduling = False

    def play(self, load: Load, scheduler: Any) -> Run:
        """All of the load, to its end, under this scheduler."""
        from vllm import SamplingParams, TokensPrompt

        engine = self.llm.llm_engine
        before, self.core.scheduler = self.core.scheduler, scheduler
        kinds: Counter[str] = Counter()
        original = scheduler.schedule

        def schedule(*arguments: Any) -> Any:
            output = original(*arguments)
            kinds[kind_of(scheduler, output)] += 1
            kinds["preempted"] += len(output.preempted_req_ids or ())
            return output

        scheduler.schedule = schedule
        done: dict[str, tuple[int, ...]] = {}
        todo = list(enumerate(load.requests))[::-1]
        began, step = time.process_time(), 0
        while todo or engine.has_unfinished_requests():
            while todo and todo[-1][1][0] <= step:
                k, (_, prompt, outputs) = todo.pop()
                params = SamplingParams(temperature=0, max_tokens=outputs, ignore_eos=True)
                ids = TokensPrompt(prompt_token_ids=list(prompt))
                engine.add_request(str(k), ids, params, priority=int(k < load.bulk))
            for answer in engine.step():
                if answer.finished:
                    done[answer.request_id] = tuple(answer.outputs[0].token_ids)
            step += 1
        cpu_s = time.process_time() - began
        del scheduler.schedule
        self.core.scheduler = before
        preempted = kinds.pop("preempted")
        return Run(tuple(done[str(k)] for k in range(len(done))), kinds, cpu_s, preempted)


def kind_of(scheduler: Any, output: Any) -> str:
    """What an iteration carries, judged by what vLLM says of each request."""
    prompt = decode = 0
    for key, tokens in output.num_scheduled_tokens.items():
        request = scheduler.requests[key]
        if request.num_computed_tokens - tokens < request.num_prompt_tokens:
            prompt += 1
        else:
            decode += 1
    if not prompt:
        return "decode" if decode else "empty"
    return "mixed" if decode else "prefill"


def stop(server: subprocess.Popen[bytes]) -> None:
    """It and all that it has started, what of that still runs."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)
