"""Checks a schedule by the contract alone, as somebody would who has only the files.

It is given requests, cost terms, slots, memory and the lines of a schedule file, and imports
nothing of what wrote them. A request holds its slot from its first prefill to its last token, and
memory for its prompt and what it has made from when its prefill begins, unless it is preempted:
then it is prefilled again, with what it has made, before it decodes on. Only bulk work is evicted,
and so loses its slot too, or paused, and so stands still in rounds of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf, isclose
from statistics import fmean, quantiles
from typing import Any

Line = Mapping[str, Any]
Terms = Mapping[str, float]

FIELDS = {"worker", "kind", "start_s", "end_s", "rounds", "prefill", "decode", "slots"}
SELDOM = {"cached", "preempted", "evicted", "paused"}
BLOCK_TOKENS = 512  # prompt tokens a hash stands for
LATE_S = 1e-9  # seconds that sums in another order may differ by


class Refused(AssertionError):
    """The schedule, or the report on it, breaks the contract."""


def require(claim: bool, complaint: str) -> None:
    """Refuse what is not so."""
    if not claim:
        raise Refused(complaint)


@dataclass
class Request:
    """One request, and how far the lines have brought it; `prefilled` counts what is cached."""

    id: str
    prompt: int
    output: int
    arrival_s: float
    hash_ids: Sequence[int]
    worker: str = ""
    slot: int = -1
    made: int = 0
    prefilled: int = 0
    first_s: float = inf
    end_s: float = inf
    bulk: bool = False
    targets_s: tuple[float, float] = (inf, inf)  # to the first token, and for each after it
    token_s: list[float] = field(default_factory=list)  # when it had each token

    @property
    def context(self) -> int:
        return self.prompt + self.made

    @property
    def stall_s(self) -> float:
        return max(after - before for before, after in pairwise(self.token_s))

    def is_good(self, slack_s: float) -> bool:
        """Whether it kept its targets, were they so much longer."""
        each = (self.end_s - self.first_s) / max(1, self.output - 1)
        first, limits = self.first_s - self.arrival_s, self.targets_s
        return first <= limits[0] + slack_s and each <= limits[1] + slack_s


@dataclass(frozen=True)
class Hardware:
    """What a worker can do. Terms are in milliseconds, as users give them."""

    cost: Terms
    slots: int
    kv_tokens: float = inf
    prefill_budget: float = inf

    def seconds(self, prompt: int, batch: int, kv: int, rounds: int) -> float:
        """Of one iteration, or of several decode rounds."""
        cost, gamma = self.cost, self.cost.get("gamma_d_ms", 0.0)
        if batch == 0:
            return (cost["alpha_p_ms"] + cost["beta_p_ms"] * prompt) / 1000
        reading = sum(gamma * (kv + done * batch) for done in range(rounds))
        if prompt == 0:
            each = cost["alpha_d_ms"] + cost["beta_d_ms"] * batch
            return (rounds * each + reading) / 1000
        require("alpha_m_ms" in cost, "a mixed iteration on an engine that has none")
        fixed = cost["alpha_m_ms"] + cost["beta_mp_ms"] * prompt
        return (fixed + cost["beta_md_ms"] * batch + reading) / 1000


@dataclass(frozen=True)
class Findings:
    """What the lines add up to, by the names of the report."""

    makespan_s: float
    utilization: float
    generation_tokens_per_s: float
    prefill_stages: int
    decode_rounds: int
    mixed_iterations: int
    preemptions: int
    ttft_s: Sequence[float]
    e2e_s: Sequence[float]
    stall_s: Sequence[float]
    goodput: tuple[float, float]  # at least and at most: sums may differ in their last digits


def check(
    requests: Iterable[Mapping[str, Any]],
    lines: Iterable[Line],
    hardware: Mapping[str, Hardware],
    report: Mapping[str, Any] | None = None,
) -> Findings:
    """Refuse a schedule of `requests` on workers of this `hardware`, or the report on it."""
    known = {request.id: request for request in map(_request, requests)}
    stages: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        stages[line["worker"]].append(line)
    require(stages.keys() <= hardware.keys(), "a worker that there is not")
    engines = [Engine(known, name, hardware[name], own) for name, own in stages.items()]
    for engine in engines:
        engine.check()
    for request in known.values():
        require(request.made == request.output, f"{request.id} has not all its tokens")
    findings = _sum_up(list(known.values()), engines, sum(h.slots for h in hardware.values()))
    if report is not None:
        _compare(findings, report)
    return findings


def _request(row: Mapping[str, Any]) -> Request:
    return Request(
        str(row["id"]),
        int(row["prompt_tokens"]),
        int(row["output_tokens"]),
        float(row.get("arrival_s", 0.0)),
        row.get("hash_ids", ()),
        bulk=row.get("priority") == "bulk",
        targets_s=_targets(row),
    )


def _targets(row: Mapping[str, Any]) -> tuple[float, float]:
    """Its own, where it has some, or its priority's: bulk work has none."""
    none = row.get("priority") == "bulk"
    return row.get("ttft_s", inf if none else 2.0), row.get("tpot_s", inf if none else 0.1)


class Engine:
    """One worker, stage by stage."""

    def __init__(
        self, requests: Mapping[str, Request], name: str, hardware: Hardware, lines: Sequence[Line]
    ) -> None:
        self.requests, self.name, self.hardware, self.lines = requests, name, hardware, lines
        self.useful_s = 0.0
        self.preemptions = 0
        self._in_memory: dict[str, Request] = {}
        self._slots: dict[int, Request] = {}
        self._blocks: set[int] = set()  # hashes of all that was ever prefilled here

    def check(self) -> None:
        free_s = 0.0
        for line in self.lines:
            self._check_form(line)
            require(line["start_s"] >= free_s - LATE_S, f"{self.name}: stages overlap")
            free_s = line["end_s"]
            for key in line.get("preempted", ()):
                self._preempt(key)
            for key in line.get("evicted", ()):
                self._evict(key)
            self._check_decoding(line)
            for key in line["prefill"]:
                self._prefill(self.requests[key], line)
            self._check_memory(line)
            self._check_time(line)
            self._decode(line)
            for request in (self.requests[key] for key in line["prefill"]):
                if request.prefilled == request.context:
                    self._blocks.update(request.hash_ids)

    def _check_form(self, line: Line) -> None:
        prefill, decode = line["prefill"].keys(), set(line["decode"])
        kind = {(True, False): "prefill", (False, True): "decode", (True, True): "mixed"}
        require(line.keys() - SELDOM == FIELDS, f"fields are {sorted(line)}")
        require(line["kind"] == kind.get((bool(prefill), bool(decode))), "it is of another kind")
        require(len(decode) == len(line["decode"]), "a request decodes twice")
        require(not prefill & decode, "a request is prefilled and decodes at once")
        require(line["slots"].keys() == prefill | decode, "slots of others than take part")
        require(line["rounds"] == 1 or line["kind"] == "decode", "several prefills in a line")
        require(line["rounds"] >= 1, "a stage of no rounds")
        tokens = line["prefill"].values()
        require(all(count >= 1 for count in tokens), "a prefill of nothing")
        require(sum(tokens) <= self.hardware.prefill_budget, "prefill over its budget")
        require(line.get("cached", {}).keys() <= prefill, "cached without a prefill")
        for key in prefill | decode:
            require(key in self.requests, f"{key}: there is no such request")

    def _preempt(self, key: str) -> None:
        require(key in self._in_memory, f"{key}: preempted without memory")
        self._in_memory.pop(key).prefilled = 0
        self.preemptions += 1

    def _evict(self, key: str) -> None:
        one = self.requests[key]
        require(one.bulk, f"{key}: evicted, though somebody waits for it")
        require(key not in self._in_memory, f"{key}: evicted with its memory")
        require(self._slots.pop(one.slot, None) is one, f"{key}: evicted from another's slot")
        one.slot = -1

    def _check_decoding(self, line: Line) -> None:
        """A round makes a token of everybody whose prefill is over."""
        ready = {key for key, one in self._in_memory.items() if one.prefilled == one.context}
        early = set(line["decode"]) - ready
        require(not early, f"{min(early, default='')}: decodes before its prefill is over")
        paused = set(line.get("paused", ()))
        require(paused <= ready, f"{min(paused - ready, default='')}: paused, and not decoding")
        require(not paused & set(line["decode"]), "paused, and decodes")
        strange = {key for key in paused if not self.requests[key].bulk}
        require(not strange, f"{min(strange, default='')}: paused, though somebody waits for it")
        late = ready - paused - set(line["decode"]) if line["decode"] else set()
        require(not late, f"{min(late, default='')}: is left out of a round")

    def _prefill(self, request: Request, line: Line) -> None:
        slot, key = line["slots"][request.id], request.id
        if request.slot < 0:
            require(request.worker in ("", self.name), f"{key}: on two workers")
            require(line["start_s"] >= request.arrival_s - LATE_S, f"{key}: before it arrives")
            require(0 <= slot < self.hardware.slots, f"{key}: there is no slot {slot}")
            require(slot not in self._slots, f"{key}: slot {slot} is taken")
            request.worker, request.slot = self.name, slot
            self._slots[slot] = request
        self._check_place(request, line)
        cached = line.get("cached", {}).get(key, 0)
        if key not in self._in_memory:
            require(cached <= self._cached(request), f"{key}: nothing like it is cached")
            self._in_memory[key] = request
            request.prefilled = cached
            cached = 0
        require(not cached, f"{key}: cached in the midst of its prefill")
        request.prefilled += line["prefill"][key]
        require(request.prefilled <= request.context, f"{key}: more is prefilled than it has")

    def _cached(self, request: Request) -> int:
        """The most that could be, were nothing ever thrown away."""
        blocks = 0
        for block in request.hash_ids:
            if block not in self._blocks:
                break
            blocks += 1
        return min(blocks * BLOCK_TOKENS, request.prompt - 1)

    def _check_place(self, request: Request, line: Line) -> None:
        require(request.worker == self.name, f"{request.id}: on two workers")
        require(line["slots"][request.id] == request.slot, f"{request.id}: on two slots")
        require(self._slots.get(request.slot) is request, f"{request.id}: not in its slot")

    def _check_memory(self, line: Line) -> None:
        """At the end of the line, when every round has added its tokens."""
        held = sum(request.context for request in self._in_memory.values())
        held += line["rounds"] * len(line["decode"])
        require(held <= self.hardware.kv_tokens, f"{self.name}: {held} tokens in memory")

    def _check_time(self, line: Line) -> None:
        kv = sum(self.requests[key].context for key in line["decode"])
        work = sum(line["prefill"].values()), len(line["decode"]), kv
        took, wanted = line["end_s"] - line["start_s"], self.hardware.seconds(*work, line["rounds"])
        require(isclose(took, wanted, rel_tol=1e-9, abs_tol=LATE_S), f"{took} s, not {wanted}")
        self.useful_s += took * len(line["slots"])
        prompt, batch, kv = work
        each = (
            self.hardware.seconds(prompt, batch, kv + k * batch, 1) for k in range(line["rounds"])
        )
        *ends, _ = accumulate(each, initial=line["start_s"])
        for key in line["decode"]:
            self.requests[key].token_s += [*ends[1:], line["end_s"]]
            self.requests[key].first_s = self.requests[key].token_s[0]

    def _decode(self, line: Line) -> None:
        for key in line["decode"]:
            request = self.requests[key]
            self._check_place(request, line)
            request.made += line["rounds"]
            request.prefilled += line["rounds"]
            require(request.made <= request.output, f"{key}: more tokens than it has")
            if request.made == request.output:
                request.end_s = line["end_s"]
                del self._in_memory[key], self._slots[request.slot]


def _sum_up(requests: Collection[Request], engines: Collection[Engine], slots: int) -> Findings:
    lines = [line for engine in engines for line in engine.lines]
    makespan = max(request.end_s for request in requests)

    def good(slack_s: float) -> float:
        asked = [request for request in requests if min(request.targets_s) < inf]
        return fmean(request.is_good(slack_s) for request in asked) if asked else 1.0

    return Findings(
        makespan_s=makespan,
        utilization=sum(engine.useful_s for engine in engines) / (slots * makespan),
        generation_tokens_per_s=sum(request.output for request in requests) / makespan,
        prefill_stages=sum(line["kind"] == "prefill" for line in lines),
        decode_rounds=sum(line["rounds"] for line in lines if line["kind"] == "decode"),
        mixed_iterations=sum(line["kind"] == "mixed" for line in lines),
        preemptions=sum(engine.preemptions for engine in engines),
        ttft_s=[request.first_s - request.arrival_s for request in requests],
        e2e_s=[request.end_s - request.arrival_s for request in requests],
        stall_s=[request.stall_s for request in requests if request.output > 1],
        goodput=(good(-LATE_S), good(LATE_S)),
    )


def _compare(found: Findings, report: Mapping[str, Any]) -> None:
    """The report says what the lines say, and its bound holds."""
    for name in ("makespan_s", "utilization", "generation_tokens_per_s"):
        value = getattr(found, name)
        require(isclose(report[name], value), f"{name}: {report[name]} reported, {value} found")
    for name in ("prefill_stages", "decode_rounds", "mixed_iterations", "preemptions"):
        require(report[name] == getattr(found, name), f"{name}: {report[name]} reported")
    least, most = found.goodput
    require(least <= report["goodput"] <= most, f"goodput: {report['goodput']} reported")
    for name in ("ttft_s", "e2e_s", "stall_s"):
        for figure, value in _spread(getattr(found, name)).items():
            told = report[name][figure]
            same = isclose(told, value, rel_tol=1e-6, abs_tol=1e-6)
            require(same, f"{name} {figure}: {told} reported, {value} found")
    bound = report["lower_bound_s"]
    require(0 < bound <= found.makespan_s * (1 + 1e-9), f"the bound {bound} is beaten")
    require(isclose(report["gap_ratio"], found.makespan_s / bound - 1, abs_tol=1e-9), "gap_ratio")


def _spread(values: Sequence[float]) -> dict[str, float]:
    values = values or [0.0]
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"mean": fmean(values), "p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
