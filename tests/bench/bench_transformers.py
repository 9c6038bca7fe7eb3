"""Policies on a real model: a Llama with random weights under transformers' continuous batching.

    python -m tests.bench.bench_transformers [--cpu] [--requests N] [--slots J]

On a CUDA device it builds the largest of a few Llama shapes whose weights take at most half of the
memory, in bfloat16; without one, or without PyTorch, it says so and ends, unless `--cpu` asks for a
tiny one on one thread. Requests come all at once, output lengths unknown to the policies: with
GSM8K's lengths (arXiv:2502.15763, section VI; outputs cut to 128 tokens on a CPU), and with prompts
of 16 to 384 tokens and outputs of 8 to 160. Each policy serves them once to warm up, where its
iterations teach the cost model, and once to be measured; transformers' own scheduler (`fifo`)
serves them too. Prints output tokens a second (of CPU time on a CPU), what the slots did, and how
well the linear iteration times fit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from router.agent.engines.base import Engine
from router.agent.loop import EngineLoop, EngineRequest
from router.http.schemas import read
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.sequence import Stage
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit
from solver.sim.workload import gsm8k
from tests.engines.tiny_model import make_tiny_model

# Hidden size, layers, heads, key-value heads, feed-forward size: Llama 3's.
SHAPES = {
    "70B": (8192, 80, 64, 8, 28_672),
    "30B": (6144, 64, 48, 8, 21_504),
    "8B": (4096, 32, 32, 8, 14_336),
    "3B": (3072, 28, 24, 8, 8192),
    "1B": (2048, 16, 32, 8, 8192),
}
VOCABULARY = 32_000
PRIOR = CostModel(0.01, 1e-4, 0.01, 1e-4, 0.0, 0.01, 1e-4, 1e-4)
HfObject = Any  # torch's and transformers' objects

# One iteration: its kind, prompt tokens, decoding sequences, their cached tokens, and seconds.
Sample = tuple[Action, int, int, int, float]


@dataclass(slots=True)
class Run:
    """What one policy did."""

    wall_s: float
    cpu_s: float
    kinds: Counter[str] = field(default_factory=Counter)
    useful: float = 0.0
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """Prompts as token ids, and how many tokens each answer has."""

    name: str
    prompts: Sequence[list[int]]
    outputs: Sequence[int]

    @property
    def tokens(self) -> int:
        return sum(self.outputs)


def loads(count: int, most: int) -> tuple[Load, Load]:
    """GSM8K's lengths, outputs of at most `most` tokens; and longer prompts."""
    rng = random.Random(0)
    short = [(r.prompt_tokens, min(r.output_tokens, most)) for r in gsm8k(count, rng)]
    long = [(rng.randint(16, 384), rng.randint(8, 160)) for _ in range(count)]
    return _load("GSM8K's lengths", short, rng), _load("longer prompts", long, rng)


def _load(name: str, lengths: Sequence[tuple[int, int]], rng: random.Random) -> Load:
    prompts = [[rng.randrange(2, 4000) for _ in range(prompt)] for prompt, _ in lengths]
    return Load(name, prompts, [output for _, output in lengths])


def ours(engine: Engine, settings: AgentSettings, work: Load, policy: str, cost: CostModel) -> Run:
    """All requests through the agent's own loop."""
    batcher = Batcher(
        settings.slots,
        settings.kv_tokens,
        cost,
        POLICIES[policy](),
        time.monotonic(),
        prefill_budget=settings.prefill_budget or float("inf"),
    )
    loop, run = EngineLoop(batcher, engine, AgentMetrics()), Run(0.0, 0.0)
    finish = batcher.finish_stage
    begun = time.monotonic()

    def note(stage: Stage, ended: Any, now: float, rounds: int | None = None) -> None:  # noqa: ANN401
        nonlocal begun
        run.kinds[stage.action.value] += 1
        took, begun = now - begun, now
        tokens, batch = stage.prompt_tokens, len(stage.decode)
        run.samples.append((stage.action, tokens, batch, stage.kv_tokens, took))
        finish(stage, ended, now, rounds)

    batcher.finish_stage = note  # type: ignore[method-assign]
    expected = work.tokens / len(work.outputs)

    async def play() -> None:
        nonlocal begun
        serving = asyncio.create_task(loop.run())
        for ids, tokens in zip(work.prompts, work.outputs, strict=True):
            body = {"model": "", "prompt": ids, "max_tokens": tokens, "ignore_eos": True,
                    "temperature": 0}  # fmt: skip
            request = read(body, chat=False)
            answers = engine.answers(request, body, _always(tokens))
            for answer in answers:
                answer.limit = tokens
            loop.submit(EngineRequest(answers, len(ids)), expected, time.monotonic())
        begun = time.monotonic()
        while batcher.running or batcher.queued:
            await asyncio.sleep(0.02)
            assert not loop.broken
        serving.cancel()

    wall, cpu = time.monotonic(), time.process_time()
    asyncio.run(play())
    run.wall_s, run.cpu_s = time.monotonic() - wall, time.process_time() - cpu
    run.useful = batcher.ledger.useful
    return run


def _always(limit: int) -> Callable[[int], int]:
    return lambda _: limit


def stock(model: HfObject, settings: AgentSettings, work: Load) -> Run:
    """All requests through transformers' own loop and scheduler."""
    from transformers import GenerationConfig

    from router.agent.engines.transformers.loading import batching_config

    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1), batching_config(settings, "fifo")
    )
    manager.warmup()
    manager.start()
    wall, cpu = time.monotonic(), time.process_time()
    for ids, tokens in zip(work.prompts, work.outputs, strict=True):
        manager.add_request(ids, max_new_tokens=tokens)
    done = 0
    while done < len(work.outputs):
        found = manager.get_result(timeout=1.0)
        done += found is not None and found.is_finished()
    run = Run(time.monotonic() - wall, time.process_time() - cpu)
    manager.stop(block=True)
    return run


def model_on(device: str, folder: Path) -> tuple[HfObject, HfObject, str]:
    """The model, a tokenizer for it, and what to call it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    make_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if device == "cpu":
        torch.set_num_threads(1)
        return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, "5M on one thread"
    free = torch.cuda.mem_get_info()[0]
    for name, (hidden, layers, heads, kv_heads, inner) in SHAPES.items():
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=4096,
        )
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if 2 * size > free / 2:
            continue
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        return model, tokenizer, f"{name} in bfloat16 on {torch.cuda.get_device_name()}"
    raise SystemExit("the device has no room for a model of a billion weights")


def errors(cost: CostModel, samples: Sequence[Sample]) -> dict[str, float]:
    """Median relative error of the predicted times, by kind of iteration."""
    off: dict[str, list[float]] = {}
    for action, tokens, batch, kv, took in samples:
        if action is Action.PREFILL:
            told = cost.prefill_s(tokens)
        elif action is Action.DECODE:
            told = cost.decode_s(batch, kv)
        elif cost.mixed is not None:
            told = cost.mixed_s(tokens, batch, kv)
        else:
            continue
        off.setdefault(action.value, []).append(abs(told / took - 1))
    return {kind: median(values) for kind, values in off.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu", action="store_true", help="a tiny model on one thread")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--slots", type=int)
    options = parser.parse_args()
    if options.cpu:
        os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import torch
        import transformers
    except ImportError as error:
        message = f"{error.name} is not installed, nothing to measure: `make transformers`"
        if options.cpu:
            raise SystemExit(message) from error
        print(message)
        return
    if not options.cpu and not torch.cuda.is_available():
        print("no CUDA device: nothing to measure (--cpu takes a tiny model on this machine)")
        return
    device = "cpu" if options.cpu else "cuda"
    slots = options.slots or (16 if options.cpu else 64)
    both = loads(options.requests or (64 if options.cpu else 512), 128 if options.cpu else 512)
    settings = AgentSettings.model_validate(
        {
            "engine": "transformers",
            "model": "made here",
            "slots": slots,
            "kv_tokens": 16_384 if options.cpu else 65_536,
            "prefill_budget": 512 if options.cpu else 2048,
        }
    )
    with TemporaryDirectory() as folder:
        model, tokenizer, name = model_on(device, Path(folder))
    print(f"{name}; torch {torch.__version__}, transformers {transformers.__version__}")
    for work in both:
        told = f"{len(work.outputs)} requests, {work.tokens} output tokens, {slots} slots"
        print(f"\n{work.name}: {told}")
        report(model, tokenizer, settings, work, on_cpu=options.cpu)


def report(
    model: HfObject, tokenizer: HfObject, settings: AgentSettings, work: Load, *, on_cpu: bool
) -> None:
    from router.agent.engines.transformers.loading import assemble

    def seconds(run: Run) -> float:
        return run.cpu_s if on_cpu else run.wall_s

    unit = "CPU s" if on_cpu else "s"
    print(f"{'policy':<15}{unit:>8}{'tokens/' + unit:>14}{'useful slots':>13}  iterations")
    base = stock(model, settings, work)
    print(f"{'fifo (theirs)':<15}{seconds(base):>8.2f}{work.tokens / seconds(base):>14.0f}")
    engine, fit = assemble(settings, model, tokenizer), OnlineFit(PRIOR)
    seen: list[Sample] = []
    for warm in (True, False):
        for policy in POLICIES:
            run = ours(engine, settings, work, policy, fit.cost)
            seen += run.samples
            if warm:
                for sample in run.samples:
                    fit.observe(*sample)
                continue
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(run.kinds.items()))
            speed = work.tokens / seconds(run)
            told = f"{seconds(run):>8.2f}{speed:>14.0f}{run.useful:>13.1%}  {kinds}"
            print(f"{policy:<15}{told}", flush=True)
    print("iteration times, ms:", {k: round(v, 4) for k, v in fit.cost.to_ms().items()})
    off = {kind: f"{value:.1%}" for kind, value in errors(fit.cost, seen).items()}
    print("median error of these, over all iterations:", off)


if __name__ == "__main__":
    main()
