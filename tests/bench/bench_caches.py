"""What knowing caches takes, and what it gains.

    .venv/bin/python -m tests.bench.bench_caches events     # CPU time and memory a block
    .venv/bin/python -m tests.bench.bench_caches peers      # what telling each other costs a prompt
    .venv/bin/python -m tests.bench.bench_caches fleet --agents 16 --requests 500
    .venv/bin/python -m tests.bench.bench_caches vllm --turns 5   # needs .venv-vllm
    .venv/bin/python -m tests.bench.bench_caches mooncake   # simulated: hit rates and first tokens
    .venv/bin/python -m tests.bench.bench_caches conversations   # the same of drawn ones

`fleet` and `vllm` set what two gateways, or so many `--gateways`, predicted of caches beside what
engines found, of emulated agents that publish and that do not, and of a vLLM with a tiny model and
little memory; so often as `--turns` say, as peers, which tell each other what they send, and not.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice, product
from typing import Any

import msgspec

from router.gateway.app import GC_ALLOCATIONS
from router.gateway.fleet.kv.stream import Stream
from router.gateway.peers.sends import Sends
from router.kv_wire import session_name
from router.lab.simulation.run import Choice, assembled
from router.lab.simulation.traces import dataset
from solver.batching.kv import BLOCK_TOKENS as SIMULATED
from solver.cost.profiles import PROFILES
from solver.routing import formulas
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import NAME_BYTES, PARTS, Beginnings, hash_text
from solver.routing.sums import LoadSums
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import WorkerSetting
from tests import http
from tests.engines.publishing_vllm import SLOTS, serving, text
from tests.helpers import Process
from tests.ports import free_ports
from tests.router.gateway.test_peers import PLACES, Link

PER_S, BLOCK_TOKENS = 20_000, 16
TIMES = 7  # the least counts: what shares the machine only adds to it


PROMPTS, BLOCKS = 4, 50  # in a step, and in each of these


def payload(number: int, rng: random.Random, each: int = BLOCKS, *, turns: bool = False) -> bytes:
    """A step's events of so many blocks each, with token ids and hashes of 32 bytes.

    `turns`: the prompts take turns, an event at a time.
    """
    events = []
    for k in range(PROMPTS):
        marks = rng.randbytes(BLOCKS * BLOCK_TOKENS * PARTS // 128 * NAME_BYTES)
        name = session_name("", f"gateway-{number}-{k}", Beginnings(marks, 128.0))
        hashes = [rng.randbytes(32) for _ in range(BLOCKS)]
        events += [
            {
                "type": "BlockStored",
                "block_hashes": hashes[first : first + each],
                "parent_block_hash": hashes[first - 1] if first else None,
                "token_ids": [rng.randrange(100_000) for _ in range(each * BLOCK_TOKENS)],
                "block_size": BLOCK_TOKENS,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "group_idx": 0,
                "session_id": name,
            }
            for first in range(0, BLOCKS, each)
        ]
    if turns:
        of_each = len(events) // PROMPTS
        events = [event for k in range(of_each) for event in events[k::of_each]]
    return msgspec.msgpack.encode([1.0, events, 0])


def reading_s(payloads: list[bytes]) -> float:
    """CPU seconds of reading and keeping all of these."""
    stream = Stream(1 << 20, replays=False)
    stream.linked()
    began = time.process_time()
    for number, one in enumerate(payloads):
        list(stream.live(number, one))
    return time.process_time() - began


def events(_: argparse.Namespace) -> None:
    """CPU time of reading and keeping blocks, and what they take in memory."""
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)  # as a gateway does
    rng = random.Random(1)
    for of, turns, steps in ((1, True, 100), (1, False, 100), (BLOCKS, False, 500)):
        payloads = [payload(k, rng, of, turns=turns) for k in range(steps)]
        blocks = PROMPTS * BLOCKS * steps
        each = min(reading_s(payloads) for _ in range(TIMES)) / blocks
        kind = f"{of} an event{', prompts in turn' if turns else ''}"
        print(
            f"{kind}: {sum(map(len, payloads)) / blocks:.0f} bytes "
            f"each on the wire, {each * 1e6:.2f} us to read: {100 * each * PER_S:.1f} % of a core "
            f"at {PER_S} a second"
        )
    tracemalloc.start()
    stream = Stream(1 << 20, replays=False)
    stream.linked()
    before = tracemalloc.get_traced_memory()[0]
    for number, one in enumerate(payloads):
        list(stream.live(number, one))
    held = tracemalloc.get_traced_memory()[0] - before
    print(f"{held / len(stream.cache):.0f} bytes a block in memory, of {len(stream.cache)}")
    for what, marks, kept, told in (
        ("four blocks a prompt", 64, 4, 4),
        ("one of eight blocks kept", 64, 1, 8),
        ("one block of 128,000 tokens told", 576, 1, 1),
    ):
        print(f"{what}: {in_memory(marks, kept, told, rng):.0f} bytes a block")


def in_memory(marks: int, kept: int, told: int, rng: random.Random) -> float:
    """Bytes a block of prompts that begin unlike each other, of which so many blocks are kept."""
    before, cache = tracemalloc.get_traced_memory()[0], CachedBlocks(1 << 20)
    for first in range(0, told * 20_000, told):
        prompt = Beginnings(rng.randbytes(NAME_BYTES * marks), 128.0, first)
        cache.store(range(first, first + told), None, 128, prompt)
        cache.remove(range(first + told - 1, first + kept - 1, -1))
    return (tracemalloc.get_traced_memory()[0] - before) / len(cache)


class Prompt:
    """On its way to a worker."""

    block_tokens, sequences, session, attempt = 128.0, 1, "", ""

    def __init__(self, text: str) -> None:
        found = hash_text(text, "model")
        self.marks, self.blocks, self.prompt_tokens = found.marks, found.blocks, len(text) // 4


def peers(_options: argparse.Namespace) -> None:
    """CPU time of telling of a prompt and its load, from begin to end, and of hearing of it."""
    rng, count = random.Random(1), 400
    for size in (80, 4000, 32_000):
        prompts = [Prompt(letters(rng, size)) for _ in range(count)]
        tells = hears = float("inf")
        for _ in range(TIMES):
            sends = Sends("one")
            link = Link(sends)
            link.read()
            began = time.process_time()
            for k, prompt in enumerate(prompts):
                sends.sent(prompt, PLACES[0], marks=True)
                sends.hold(PLACES[0], LoadSums(2 + k % 2, 1))
                sends.begun(prompt)
                sends.left(prompt)
                sends.hold(PLACES[0], LoadSums(1, k % 2))
            told = time.process_time()
            written = len(link.out.text)
            link.read()
            tells = min(tells, told - began)
            hears = min(hears, time.process_time() - told)
        print(
            f"{size} characters: {written / count:.0f} bytes, "
            f"{1e6 * tells / count:.0f} us to tell, {1e6 * hears / count:.0f} us to hear"
        )


@dataclass(frozen=True)
class Answer:
    """Of one request's prompt: tokens taken to be cached, found to be, and all."""

    predicted: float
    found: int
    prompt: int


@contextmanager
def agents(options: argparse.Namespace, *, publish: bool) -> Iterator[list[str]]:
    """Emulated ones."""
    with ExitStack() as stack:
        urls = []
        for k in range(options.agents):
            flags = ["--port", "0", "--name", f"a{k}", "--speed", str(options.speed)]
            flags += ["--kv-tokens", str(options.kv_tokens), "--slots", "8"]
            flags += ["--max-model-len", "4096"]
            flags += ["--kv-events", "tcp://127.0.0.1:0"] if publish else []
            agent = stack.enter_context(Process("agent", *flags))
            urls.append(agent.wait_for(r"listening url=(\S+)"))
        yield urls


@contextmanager
def gateways(
    workers: list[str], count: int, *more: str, publish: bool, peers: bool
) -> Iterator[list[str]]:
    """So many gateways before the same workers, which know each other as `peers` or do not."""
    with ExitStack() as stack:
        ports = free_ports(count)
        flags = ["--worker", ",".join(workers), *more]
        flags += [] if publish else ["--no-cache-events"]
        if peers:
            flags += ["--peers", ",".join(f"http://127.0.0.1:{port}" for port in ports)]
        each = [
            stack.enter_context(Process("gateway", "--port", str(port), *flags)) for port in ports
        ]
        found = [one.wait_for(r"listening url=(\S+)") for one in each]
        wanted = "exact" if publish else "estimated"
        heard = count - 1 if peers else 0
        while not all(knowledge(url) == {wanted} and listens_to(url) == heard for url in found):
            time.sleep(0.1)
        yield found


def listens_to(gateway: str) -> int:
    """How many others tell it what they send."""
    told = http.get(gateway + "/makespan/v1/workers").json()["peers"]
    return sum(one["up"] for one in told)


def knowledge(gateway: str) -> set[str]:
    """Of all its workers; none while one is down."""
    workers = http.get(gateway + "/makespan/v1/workers").json()["workers"]
    up = all(worker["up"] for worker in workers)
    return {worker["cache"]["knowledge"] for worker in workers} if up else set()


def ask(gateway: str, name: str, body: dict[str, Any]) -> Answer:
    """One request, and what its gateway had predicted."""
    answer = http.post(gateway + "/v1/completions", json=body, headers={"x-request-id": name})
    usage = answer.json()["usage"]
    found = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    choice = http.get(f"{gateway}/makespan/v1/requests/{name}").json()["choice"]
    (chosen,) = (one for one in choice["candidates"] if one["chosen"])
    return Answer(chosen["cached_tokens"], found, usage["prompt_tokens"])


def letters(rng: random.Random, count: int) -> str:
    """Text that is like no other."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=count))


Body = Callable[[int], dict[str, Any]]


def compare(
    urls: list[str], body: Body, options: argparse.Namespace, title: str, *, peers: bool
) -> None:
    """So many requests, to one gateway after the other in turn: predicted and found."""
    numbers = range(options.requests)
    with ThreadPoolExecutor(options.clients) as pool:
        where, names = [urls[k % len(urls)] for k in numbers], [f"q{k}" for k in numbers]
        answers = list(pool.map(ask, where, names, map(body, numbers)))
    predicted = sum(one.predicted for one in answers)
    found, prompt = sum(one.found for one in answers), sum(one.prompt for one in answers)
    apart = sum(abs(one.predicted - one.found) for one in answers)
    who = f"{len(urls)} gateways{', peers' if peers else ''}"
    print(
        f"{title:<10} {who:<18} predicted {predicted:.0f} found {found}: "
        f"error {100 * (predicted - found) / found:.2f} %, each by itself "
        f"{100 * apart / found:.2f} %; hit rate {100 * found / prompt:.1f} %",
        flush=True,
    )


def fleet(options: argparse.Namespace) -> None:
    """Emulated agents, with and without events."""
    rng = random.Random(3)
    documents = [letters(rng, rng.randrange(2000, 7000)) for _ in range(40)]

    def body(k: int) -> dict[str, Any]:
        rng = random.Random(k)
        prompt = rng.choice(documents) + letters(rng, rng.randrange(100, 1500))
        return {"model": "llama-65b", "prompt": prompt, "max_tokens": rng.randrange(8, 64)}

    for publish, told in product((True, False), arrangements(options)):
        with (
            agents(options, publish=publish) as workers,
            gateways(workers, options.gateways, publish=publish, peers=told) as urls,
        ):
            compare(urls, body, options, "exact" if publish else "estimated", peers=told)


def arrangements(options: argparse.Namespace) -> list[bool]:
    """Whether gateways are peers, in turn; of one there is nothing to tell."""
    return [False] if options.gateways == 1 else [False, True] * options.turns


def vllm(options: argparse.Namespace) -> None:
    """A vLLM on a CPU, which evicts: memory for some eight of its prompts in each rank."""
    rng = random.Random(1)
    documents = [text(rng, rng.randrange(100, 260)) for _ in range(options.documents)]

    def body(k: int) -> dict[str, Any]:
        rng = random.Random(k)
        prompt = rng.choice(documents) + text(rng, rng.randrange(10, 80))
        return {"model": "tiny", "prompt": prompt, "max_tokens": 8, "ignore_eos": True}

    flags = ["--plain-slots", str(SLOTS)]
    with serving(options.ranks) as worker:
        for told in arrangements(options):
            found = gateways([worker], options.gateways, *flags, publish=True, peers=told)
            with found as urls:
                compare(urls, body, options, f"{options.ranks} ranks", peers=told)


def mooncake(options: argparse.Namespace) -> None:
    """Mooncake's trace."""
    requests, real = dataset("mooncake")
    print(f"{len(requests)} requests, {'the trace' if real else 'drawn'}")
    simulate(requests, options.kv_tokens)


def conversations(options: argparse.Namespace) -> None:
    """Drawn ones: some five turns each, of what a user says, or gives to be read, and an answer."""
    rng, fresh, began_s = random.Random(1), count(), 0.0
    turns = list[tuple[float, int, int, tuple[int, ...]]]()
    while (began_s := began_s + rng.expovariate(options.rate)) < options.seconds:
        at_s, tokens, blocks = began_s, 0, list[int]()
        for _ in range(1 + int(rng.expovariate(1 / 4.5))):
            said, answer = 50 + int(rng.lognormvariate(6.6, 1.1)), 5 + int(rng.lognormvariate(5, 1))
            tokens += said
            blocks += islice(fresh, tokens // SIMULATED - len(blocks))
            turns.append((at_s, tokens, answer, (*blocks, next(fresh))))
            tokens += answer
            at_s += 0.05 * answer + rng.expovariate(1 / 40)
    requests = [
        Request(str(k), prompt, output, at_s, hash_ids=blocks)
        for k, (at_s, prompt, output, blocks) in enumerate(sorted(turns))
        if at_s < options.seconds
    ]
    print(f"{len(requests)} requests")
    simulate(requests, options.kv_tokens)


def simulate(requests: list[Request], kv_tokens: int) -> None:
    """Sixteen workers; ours also without what a second copy costs others."""
    profile, twice = PROFILES["llama-2-70b-a100-tp4"], formulas.TWICE
    for name, known, copies in (
        ("makespan", "exact", twice),
        ("makespan", "estimated", twice),
        ("makespan", "exact", 0.0),
        ("prefix-aware", "exact", twice),
        ("prefix-aware", "estimated", twice),
    ):
        formulas.TWICE = copies
        alike = WorkerSetting(
            profile.slots,
            kv_tokens,
            prefill_budget=2048,
            order="fcfs",
            prefix_cache=True,
            cache_knowledge=known,
        )
        run = assembled(requests, [profile.cost] * 16, alike, Choice("adaptive", name, 16))
        run.run()
        told = report(run)
        print(
            f"{name:<12} {known:<9} {'' if copies else 'copies free':<11} hit rate "
            f"{100 * told.cache_hit_ratio:.1f} % first token p50 {told.ttft_s['p50']:.2f} s p99 "
            f"{told.ttft_s['p99']:.1f} s goodput {100 * told.goodput:.1f} %",
            flush=True,
        )
    formulas.TWICE = twice


def main() -> None:
    """One of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parts = parser.add_subparsers(required=True)
    parts.add_parser("events").set_defaults(run=events)
    parts.add_parser("peers").set_defaults(run=peers)
    live = parts.add_parser("fleet")
    live.add_argument("--agents", type=int, default=16)
    live.add_argument("--requests", type=int, default=500)
    live.add_argument("--clients", type=int, default=12)
    live.add_argument("--speed", type=float, default=40.0)
    live.add_argument("--kv-tokens", type=int, default=8192)
    live.add_argument("--gateways", type=int, default=2)
    live.add_argument("--turns", type=int, default=1)
    live.set_defaults(run=fleet)
    real = parts.add_parser("vllm")
    real.add_argument("--ranks", type=int, default=1)
    real.add_argument("--documents", type=int, default=12)
    real.add_argument("--requests", type=int, default=500)
    real.add_argument("--clients", type=int, default=4)
    real.add_argument("--gateways", type=int, default=2)
    real.add_argument("--turns", type=int, default=1)
    real.set_defaults(run=vllm)
    trace = parts.add_parser("mooncake")
    trace.add_argument("--kv-tokens", type=int, default=524_288)
    trace.set_defaults(run=mooncake)
    drawn = parts.add_parser("conversations")
    drawn.add_argument("--kv-tokens", type=int, default=131_072)
    drawn.add_argument("--rate", type=float, default=4.0)
    drawn.add_argument("--seconds", type=float, default=200.0)
    drawn.set_defaults(run=conversations)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
