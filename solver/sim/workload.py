"""Requests drawn to look like public data sets, for whoever has not the data at hand.

Each workload is a function of a count and a random generator, so it can be drawn again. It has the
lengths of its data set (mean and deviation within about 5 %) and the trait for which the set is
used: answers at a cap, prefixes in common, clients that differ and burst. A prompt and its answer
are drawn independently within a kind, for the data show little correlation.

Sources:

- ``gsm8k-llama65b``: openai/grade-school-math (MIT), 1,319 test questions, and the answers' mean,
  deviation and cap of arXiv:2502.15763.
- ``azure-conv``: Azure/AzurePublicDataset (CC-BY-4.0), AzureLLMInferenceTrace_conv of 2023; Patel
  et al., Splitwise, ISCA 2024.
- ``sharegpt``: conversations of at most 8,192 tokens as filtered by microsoft/sarathi-serve
  (Apache-2.0).
- ``mooncake``: kvcache-ai/Mooncake (Apache-2.0), FAST25-release/traces/synthetic_trace.jsonl.
- ``servegen-m-large``: alibaba/ServeGen (Apache-2.0), arXiv:2505.09999; 20 minutes sampled from its
  clients.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import count as count_up
from itertools import islice
from math import inf, log, sqrt

from solver.errors import ProblemError
from solver.sim.request import Request

Workload = Callable[[int, random.Random], list[Request]]

BLOCK_TOKENS = 512  # Mooncake's prefix blocks

# Lengths at these percentiles of a data set; between two of them all lengths are equally likely.
PERCENTS = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9, 100)
# fmt: off
AZURE_PROMPT = (2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4142, 6179,
                14_050)
AZURE_OUTPUT = (7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 601, 954, 1000)
SHAREGPT_PROMPT = (1, 12, 29, 74, 382, 777, 1203, 1730, 2401, 3235, 4278, 5696, 6563, 7434, 7854,
                   8141)
SHAREGPT_OUTPUT = (2, 6, 44, 84, 181, 271, 346, 415, 493, 581, 683, 834, 920, 998, 1021, 1024)
# Mooncake: prompts whose first block is asked once, and those whose first block is asked again.
SINGLE_PROMPT = (13, 16, 19, 22, 30, 42, 74, 169, 543, 3532, 15_769, 19_624, 24_428, 41_155, 98_686,
                 134_773)
SINGLE_OUTPUT = (1, 3, 17, 43, 114, 168, 212, 251, 291, 331, 387, 513, 664, 782, 826, 842)
DOCUMENT_PROMPT = (13, 13, 826, 2961, 5851, 13_776, 16_689, 19_494, 25_734, 31_588, 37_139, 43_741,
                   52_690, 66_146, 191_370, 191_374)
DOCUMENT_OUTPUT = (2, 2, 2, 2, 4, 7, 10, 15, 23, 39, 68, 117, 213, 532, 768, 893)
# fmt: on


def _draw(rng: random.Random, lengths: Sequence[int]) -> int:
    at = rng.random() * 100
    k = bisect_right(PERCENTS, at)
    share = (at - PERCENTS[k - 1]) / (PERCENTS[k] - PERCENTS[k - 1])
    return round(lengths[k - 1] + share * (lengths[k] - lengths[k - 1]))


def _lognormal(rng: random.Random, mean: float, deviation: float) -> int:
    """A length with this mean and deviation, at least 1."""
    variance = log(1 + (deviation / mean) ** 2)
    return max(1, round(rng.lognormvariate(log(mean) - variance / 2, sqrt(variance))))


def gsm8k_output(rng: random.Random) -> int:
    """Length of one answer of LLaMA-65B to a GSM8K question.

    Mean 344.83, deviation 187.99, cap 512: no shape with a single peak has that deviation. 55 % at
    the cap and the others like the set's own answers do (their shape is inferred, not published).
    """
    if rng.random() < 0.55:
        return 512
    return min(511, max(8, round(rng.lognormvariate(4.87, 0.42))))


def gsm8k(count: int, rng: random.Random) -> list[Request]:
    """Short questions, all there at once: prompts 68.43 +- 25.04 tokens (24 to 191)."""

    def prompt() -> int:
        return min(191, max(24, _lognormal(rng, 68.43, 25.04)))

    return [Request(str(k), prompt(), gsm8k_output(rng)) for k in range(count)]


def azure_conv(count: int, rng: random.Random) -> list[Request]:
    """A chat service: prompts 1155 +- 1109, answers 211 +- 163 tokens, 5.53 requests a second.

    The trace is a little burstier than Poisson (CV 1.09), and its rate drifts from 4 to 8.
    """
    lengths = _independent(count, rng, AZURE_PROMPT, AZURE_OUTPUT)
    return poisson(lengths, 5.53, rng)


def sharegpt(count: int, rng: random.Random) -> list[Request]:
    """Chats with their history: prompts 2340 +- 2089, answers 439 +- 266 tokens; no arrivals."""
    return _independent(count, rng, SHAREGPT_PROMPT, SHAREGPT_OUTPUT)


def _independent(
    count: int, rng: random.Random, prompt: Sequence[int], output: Sequence[int]
) -> list[Request]:
    return [Request(str(k), _draw(rng, prompt), _draw(rng, output)) for k in range(count)]


def mooncake(count: int, rng: random.Random) -> list[Request]:
    """Long prompts in common: 15325 +- 18380, answers 149 +- 178 tokens, 3.91 requests a second.

    An endless cache has seen 64 % of all blocks before: 44 % of the requests ask again about a
    document whose blocks they share but for the last. Of the others, 18 % bring such a document and
    the rest is asked once.
    """
    fresh = count_up()
    documents: list[tuple[int, ...]] = []
    requests = []
    for k in range(count):
        again = bool(documents) and rng.random() < 0.437
        document = again or rng.random() < 0.18
        if again:
            shared = rng.choice(documents)
            prompt = BLOCK_TOKENS * len(shared) + rng.randint(1, BLOCK_TOKENS)
        else:
            prompt = _draw(rng, DOCUMENT_PROMPT if document else SINGLE_PROMPT)
            shared = tuple(islice(fresh, (prompt - 1) // BLOCK_TOKENS))
            if document:
                documents.append(shared)
        output = _draw(rng, DOCUMENT_OUTPUT if document else SINGLE_OUTPUT)
        requests.append(Request(str(k), prompt, output, hash_ids=(*shared, next(fresh))))
    return poisson(requests, 3.91, rng)


@dataclass(frozen=True, slots=True)
class _Client:
    """Who sends: requests a second, variation of the gaps, mean and deviation of the lengths."""

    rate: float
    cv: float
    prompt: tuple[float, float]
    output: tuple[float, float]

    def stream(self, rng: random.Random) -> Iterator[tuple[float, int, int]]:
        """Arrival, prompt and output tokens, for ever; gaps are gamma distributed."""
        now, shape = 0.0, self.cv**-2
        while True:
            now += rng.gammavariate(shape, 1 / (shape * self.rate))
            yield now, _lognormal(rng, *self.prompt), _lognormal(rng, *self.output)


# The twelve largest, with 94 % of the requests, and thirty-one others as one. The first and the
# eighth have two kinds of prompt each, and two lines.
SERVEGEN_CLIENTS = (
    _Client(87.7, 1.06, (76, 2), (434, 90)),
    _Client(3.70, 1.06, (857, 28), (434, 90)),
    _Client(18.1, 2.98, (647, 86), (3.9, 13)),
    _Client(10.2, 1.09, (839, 328), (59, 80)),
    _Client(9.2, 0.89, (65, 43), (16, 18)),
    _Client(8.2, 0.90, (654, 141), (3.9, 21)),
    _Client(4.14, 1.35, (1040, 603), (7.3, 4.5)),
    _Client(3.20, 3.81, (2295, 244), (531, 81)),
    _Client(1.90, 1.07, (485, 222), (290, 354)),
    _Client(0.94, 1.07, (7761, 1567), (290, 354)),
    _Client(2.48, 3.98, (646, 179), (40, 39)),
    _Client(2.08, 0.96, (3217, 716), (760, 411)),
    _Client(1.45, 0.91, (121, 41), (84, 40)),
    _Client(1.32, 1.04, (1456, 1268), (80, 90)),
    _Client(10.5, 1.27, (780, 759), (81, 140)),
)


def servegen_m_large(count: int, rng: random.Random) -> list[Request]:
    """Clients of their own kinds: prompts 451 +- 827, answers 278 +- 230, 165 requests a second.

    One sends 55 % of the requests, some send in bursts (CV up to 4); together they are nearly
    Poisson.
    """
    merged = merge(*(client.stream(rng) for client in SERVEGEN_CLIENTS))
    return [
        Request(str(k), prompt, output, arrival)
        for k, (arrival, prompt, output) in enumerate(islice(merged, count))
    ]


WORKLOADS: Mapping[str, Workload] = {
    "gsm8k-llama65b": gsm8k,
    "azure-conv": azure_conv,
    "sharegpt": sharegpt,
    "mooncake": mooncake,
    "servegen-m-large": servegen_m_large,
}


def all_at_once(requests: Iterable[Request]) -> list[Request]:
    """The same requests, all there from the beginning."""
    return [replace(request, arrival_s=0.0) for request in requests]


def poisson(requests: Iterable[Request], rate: float, rng: random.Random) -> list[Request]:
    """The same requests in the same order, arriving at random, `rate` a second on average."""
    _positive("rate", rate)
    now, arriving = 0.0, []
    for request in requests:
        now += rng.expovariate(rate)
        arriving.append(replace(request, arrival_s=now))
    return arriving


def _positive(name: str, value: float) -> None:
    if not 0 < value < inf:
        raise ProblemError(f"arrivals: {name} must be a number > 0, not {value}")
