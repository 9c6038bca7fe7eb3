"""How well output lengths are predicted: each request of a trace is predicted, then observed.

Against the plain mean of all requests so far and against their quantiles so far. Errors in tokens;
pinball is the mean loss of the quantiles .1 .25 .5 .75 .9; half-way is the error in what is left
once half of a request's tokens are there.

    python -m tests.bench.bench_predict
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from router.lab.simulation.traces import data_dir, dataset
from solver.lengths.distribution import LengthDistribution
from solver.lengths.predictor import Features, LengthPredictor, kind_of
from solver.sim.request import Request

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SERVEGEN_ROWS = 40_000
PRIOR, PRIOR_WEIGHT = 256.0, 8
Trace = list[tuple[Features, int]]


def gsm8k_answers() -> Trace:
    """The reference answers; lengths of their kind where they are not at hand."""
    prompts = column("gsm8k_test_lengths.csv", "prompt_tokens")
    answers = column("gsm8k_test_lengths.csv", "answer_tokens")
    if not prompts:
        rng = random.Random(1)
        prompts = [str(round(rng.lognormvariate(4.2, 0.35)) + 1) for _ in range(1319)]
        answers = [str(round(int(p) * rng.lognormvariate(0.6, 0.35)) + 1) for p in prompts]
    rows = zip(kinds(), prompts, answers, strict=True)
    return [(Features("m", int(p), kind=kind), int(a)) for kind, p, a in rows]


def gsm8k_outputs() -> Trace:
    """A model's outputs, cut at 512."""
    requests = dataset("gsm8k-llama65b")[0]
    rows = zip(kinds(), requests, strict=True)
    return [(Features("m", r.prompt_tokens, 512, kind=kind), r.output_tokens) for kind, r in rows]


def kinds() -> list[str]:
    """What the gateway makes of GSM8K's questions: each is a kind of its own."""
    path = (data_dir() or Path()) / "gsm8k_test.jsonl"
    if not path.is_file():
        return [str(k) for k in range(1319)]
    return [kind_of(json.loads(line)["question"]) for line in path.read_text("utf-8").splitlines()]


def servegen() -> Trace:
    """Its first requests, with clients as tenants."""
    clients = column("servegen_m_large_sample_20min.csv.gz", "client")
    requests = dataset("servegen-m-large")[0]
    rows = zip(requests, clients or [""] * len(requests), strict=True)
    return [
        (Features("m", r.prompt_tokens, tenant=client), r.output_tokens)
        for r, client in islice(rows, SERVEGEN_ROWS)
    ]


def no_kind(_: Request) -> str:
    """All prompts alike."""
    return ""


def first_block(request: Request) -> str:
    """Prompts that begin alike are of one kind."""
    return str(request.hash_ids[0]) if request.hash_ids else ""


def plain_trace(name: str, kind: Callable[[Request], str] = no_kind) -> Trace:
    """A data set, or what stands in for it."""
    requests = dataset(name)[0]
    return [(Features("m", r.prompt_tokens, kind=kind(r)), r.output_tokens) for r in requests]


def shuffled(trace: Trace) -> Trace:
    """In any order: what neighbours tell of each other is lost."""
    return random.Random(3).sample(trace, len(trace))


def column(name: str, title: str) -> list[str]:
    """One column of a file in the data folder; nothing if it is not there."""
    path = (data_dir() or Path()) / name
    if not path.is_file():
        return []
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [row[title] for row in csv.DictReader(text.splitlines())]


TRACES: dict[str, Callable[[], Trace]] = {
    "GSM8K answers": gsm8k_answers,
    "GSM8K outputs, cap 512": gsm8k_outputs,
    "Azure conversations": lambda: plain_trace("azure-conv"),
    "ShareGPT, turns in a row": lambda: plain_trace("sharegpt"),
    "ShareGPT, shuffled": lambda: shuffled(plain_trace("sharegpt")),
    "ServeGen, by client": servegen,
    "Mooncake": lambda: plain_trace("mooncake"),
    "Mooncake, by first block": lambda: plain_trace("mooncake", kind=first_block),
}


def pinball(q: float, error: float) -> float:
    """Loss of a quantile that is exceeded by `error`."""
    return max(q * error, (q - 1) * error)


@dataclass
class Score:
    """Sums over a trace, by the names of the table's columns."""

    n: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """One request's share of a column."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    def __getitem__(self, name: str) -> float:
        return self.sums[name] / self.n


class Baseline:
    """The mean, and the quantiles, of all lengths so far."""

    def __init__(self) -> None:
        self._sorted: list[int] = []
        self._sum, self._weight = PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT

    def score(self, score: Score, length: int) -> None:
        """Add its errors for a request of `length`."""
        mean, made = self._sum / self._weight, length // 2
        quantiles = [self._quantile(q) for q in QUANTILES]
        score.add("mae plain", abs(length - mean))
        score.add("halfway plain", abs(length - made - max(1.0, mean - made)))
        for q, value in zip(QUANTILES, quantiles, strict=True):
            score.add("pinball plain", pinball(q, length - mean) / len(QUANTILES))
            score.add("pinball quantiles", pinball(q, length - value) / len(QUANTILES))

    def observe(self, length: int) -> None:
        """A request has finished."""
        insort(self._sorted, length)
        self._sum, self._weight = self._sum + length, self._weight + 1

    def _quantile(self, q: float) -> float:
        return self._sorted[int(q * len(self._sorted))] if self._sorted else PRIOR


def judge(score: Score, expected: LengthDistribution, length: int) -> None:
    """Add the errors of a prediction for a request of `length`."""
    made, quantiles = length // 2, [expected.quantile(q) for q in QUANTILES]
    score.add("mae ours", abs(length - expected.mean))
    score.add("mae median", abs(length - expected.quantile(0.5)))
    score.add("halfway ours", abs(length - made - expected.remaining(made).mean))
    before, upto = expected.cdf(length - 1), expected.cdf(length)
    for q, value in zip(QUANTILES, quantiles, strict=True):
        score.add("pinball ours", pinball(q, length - value) / len(QUANTILES))
        # A length that many requests share counts for the part of it that lies below.
        score.add(f"below {q}", min(max((q - before) / max(upto - before, 1e-12), 0.0), 1.0))


def run(trace: Trace) -> Score:
    """Predict, then observe, request by request."""
    score, ours, plain = Score(), LengthPredictor(), Baseline()
    for features, length in trace:
        start = time.perf_counter()
        expected = ours.predict(features)
        predicted = time.perf_counter()
        judge(score, expected, length)
        plain.score(score, length)
        again = time.perf_counter()
        ours.observe(features, length)
        score.add("predict us", (predicted - start) * 1e6)
        score.add("observe us", (time.perf_counter() - again) * 1e6)
        plain.observe(length)
        score.n += 1
    return score


def main() -> None:
    """Print the tables."""
    folder = data_dir()
    print(f"lengths: {folder.name if folder else 'no data at hand, generated to look like it'}\n")
    scores = {name: run(read()) for name, read in TRACES.items()}
    print(f"{'':<32} | {'MAE':^23} | {'pinball':^23} | {'half-way':^15} | {'time, us':^15}")
    print(
        f"{'':<26}{'n':>6} | {'plain':>7}{'mean':>8}{'median':>8} | {'plain':>7}{'quant.':>8}"
        f"{'ours':>8} | {'plain':>7}{'ours':>8} | {'predict':>7}{'observe':>8}"
    )
    for name, s in scores.items():
        print(
            f"{name:<26}{s.n:>6} | {s['mae plain']:>7.1f}{s['mae ours']:>8.1f}"
            f"{s['mae median']:>8.1f} | {s['pinball plain']:>7.2f}{s['pinball quantiles']:>8.2f}"
            f"{s['pinball ours']:>8.2f} | {s['halfway plain']:>7.1f}{s['halfway ours']:>8.1f} | "
            f"{s['predict us']:>7.1f}{s['observe us']:>8.1f}"
        )
    print("\nshare of lengths below the predicted quantile")
    print(f"{'':<26}" + "".join(f"{q:>8}" for q in QUANTILES))
    for name, s in scores.items():
        print(f"{name:<26}" + "".join(f"{s[f'below {q}']:>8.3f}" for q in QUANTILES))


if __name__ == "__main__":
    main()
