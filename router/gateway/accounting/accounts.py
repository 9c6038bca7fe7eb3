"""The gateway's accounts: sizes of requests as predicted, and what they turned out to be."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from router.gateway.accounting.counted import Ended, count
from router.gateway.accounting.slo import Felt, Timing, kept
from router.gateway.accounting.tenants import Tenants
from router.gateway.accounting.traffic_log import TrafficLog
from router.gateway.explanations.request_log import RequestLog
from router.gateway.explanations.request_record import RequestRecord
from router.http.errors import Outcome
from router.http.request_headers import Urgency
from router.http.schemas import CompletionRequest
from router.http.usage import Usage
from router.observe.metrics import GatewayMetrics
from solver.batching.priority import WEIGHT, Priority
from solver.batching.targets import Targets
from solver.cost.estimators import TokenEstimator
from solver.lengths.distribution import LengthDistribution
from solver.lengths.predictor import Features, LengthPredictor, again_from, kind_of
from solver.routing.fair import Weight, alike
from solver.routing.portions import Portions
from solver.routing.problem import Job

log = logging.getLogger(__name__)

# What somebody has to look into, what tells of too little capacity, and all the rest.
_LEVELS = {
    Outcome.FAILED: logging.WARNING,
    Outcome.REJECTED_NO_CAPACITY: logging.INFO,
    Outcome.EXPIRED: logging.INFO,
}
# Stands for "no limit" where neither request nor worker names one; nothing longer is planned for.
UNLIMITED = 1 << 20
# Ends that are counted and learnt from together: a sixteenth of those so far, and so many at most.
TOGETHER, MOST_TOGETHER = 1 / 16, 64


@dataclass(slots=True)
class Size:
    """A request's size in tokens.

    `least_tokens` is what its longest choice needs at least, prompt and the output it asks for: a
    prompt of text counts as one token there, since the gateway only estimates its length, and an
    estimate is no ground to refuse a request. The engine counts. `again` predicts it anew, or says
    None where too little has been learnt since the last time. `kind` is its prompt's. `most` is
    what there can be of it, whatever its worker says.
    """

    job: Job
    least_tokens: int
    again: Callable[[], Job | None]
    kind: str
    most: Usage


def _most(request: CompletionRequest, context: int | None, choices: int) -> Usage:
    """Servers differ in what they make where no limit is asked for."""
    longest = UNLIMITED if context is None else context
    asked = longest if request.max_tokens is None else max(request.max_tokens, request.other_limit)
    return Usage(longest * choices, min(longest, asked) * choices)


def _nothing_new() -> None:
    """The client has said its length."""


class _Again:
    """A job of predicted length; called, what it is now, or None where that has hardly changed."""

    __slots__ = ("_features", "_from", "_given", "_lengths")

    def __init__(self, lengths: LengthPredictor, features: Features, given: _Given) -> None:
        self._lengths, self._features, self._given = lengths, features, given

    def __call__(self) -> Job | None:
        return self.job() if self._lengths.learned >= self._from else None

    def job(self) -> Job:
        """As predicted now."""
        self._from = again_from(self._lengths.learned)
        known = self._lengths.predict(self._features)
        return _job(self._given, known.mean, known)


# Of a job: prompt tokens, choices, weight, when it is due, targets, tenant, and whether it is bulk.
_Given = tuple[int, int, float, float, Targets, str, bool]


def _job(given: _Given, tokens: float, known: LengthDistribution | None = None) -> Job:
    """`tokens` are those of one choice."""
    total, choices, weight, due_s, targets, tenant, bulk = given
    overrun = 0.0 if known is None else known.overrun
    tokens *= choices
    return Job(total, tokens, choices, weight, due_s, known, overrun, targets, tenant, bulk)


# Of one that has ended: it, its times, and hashes of its prompt's blocks and the tokens that were
# made of it, as its line in the traffic log tells.
_End = tuple[RequestRecord, Outcome, Timing, Sequence[int], int | None]
# Of one that was answered in full: it, its output limit if its length tells something, bytes of its
# prompt if that is text alone, and what the engine counted.
_Answer = tuple[RequestRecord, int | None, int, Usage | None]


class Accounts:
    """Predicts, remembers, learns and counts.

    Rules:
    - an end is counted, and learnt from, with some others, or when somebody looks: until then, what
      has been predicted for one holds for its like;
    - each is looked through once, in `settle`.

    Attributes:
        here: planned requests, and those that are relayed: what `max_requests` is of, by tenant.
    """

    def __init__(
        self,
        metrics: GatewayMetrics,
        remember: int,
        traffic: TrafficLog | None = None,
        weight: Weight = alike,
    ) -> None:
        self._metrics, self._traffic = metrics, traffic
        self.log, self.here = RequestLog(remember, self.settle), Portions(weight)
        self._tenants = Tenants()
        self._estimators: defaultdict[str, TokenEstimator] = defaultdict(TokenEstimator)
        self._lengths = LengthPredictor()
        self._ended: list[_End] = []  # and not counted yet
        self._answered: list[_Answer] = []  # and not learnt from yet
        metrics.settle = self.settle

    @property
    def logs(self) -> bool:
        """Whether ends are written to a traffic log."""
        return self._traffic is not None

    @property
    def running(self) -> int:
        """Planned requests in the gateway now."""
        return self.log.running

    @property
    def tenants(self) -> Tenants:
        """What each has had."""
        self.settle()
        return self._tenants

    def size(
        self,
        request: CompletionRequest,
        context: int | None,
        hint: float | None,
        urgency: Urgency,
        tenant: str,
    ) -> Size:
        """What the request will need, as well as one can tell now.

        `context` is the longest prompt and output that some worker can hold; `hint` the client's
        guess at the output tokens of one choice; deadlines count from now on.
        """
        estimator = self._estimators[request.model]
        all_tokens = longest = certain = 0
        for prompt in request.prompts:
            ids = prompt.token_ids
            tokens = estimator.estimate(prompt.text_bytes) if ids is None else ids
            all_tokens += tokens
            longest, certain = max(longest, tokens), max(certain, ids or 1)
        left = UNLIMITED if context is None else max(1, context - longest)
        limit = min(UNLIMITED, request.output_limit(left))
        total, due_s = all_tokens * request.n, time.monotonic() + urgency.deadline_s
        choices, is_certain = request.choices, request.ignore_eos and request.max_tokens is not None
        kind = kind_of(request.prompts[0].text)
        weight, bulk = WEIGHT[urgency.priority], urgency.priority is Priority.BULK
        given = total, choices, weight, due_s, urgency.targets, tenant, bulk
        again: Callable[[], Job | None] = _nothing_new
        if not is_certain:
            features = Features(request.model, total // choices, limit, tenant, kind)
            predicted = _Again(self._lengths, features, given)
            job = predicted.job()
            if hint is None:
                again = predicted
            else:  # it orders and plans, and is no price
                unhinted = job.expected_tokens
                job = replace(_job(given, min(hint, float(limit))), unhinted_tokens=unhinted)
        else:
            job = _job(given, float(limit))  # what its client asks for
        most = _most(request, context, choices)
        return Size(job, certain + (request.max_tokens or 1), again, kind, most)

    def lengths(
        self, model: str, prompt_tokens: int, limit: int, tenant: str
    ) -> LengthDistribution:
        """Output tokens of a request of which no more than this is known; `limit` 0: none."""
        most = min(UNLIMITED, limit or UNLIMITED)
        return self._lengths.predict(Features(model, prompt_tokens, most, tenant))

    @property
    def learned(self) -> int:
        """How many ends it is predicted from."""
        return self._lengths.learned

    def served(self, record: RequestRecord, slot_s: float) -> None:
        """A worker has spent so much on a request, whether or not that was all of it."""
        record.slot_s += slot_s
        self.spend(record.tenant, slot_s)

    def spend(self, tenant: str, slot_s: float) -> None:
        """So much of the workers' time was a tenant's."""
        label = self._tenants.spend(tenant, slot_s)
        self._metrics.tenant_slot_seconds.labels(label).inc(slot_s)

    def begin(self, record: RequestRecord) -> None:
        """A request has come in."""
        self.log.begin(record)
        self.here.add(record.tenant, 1)

    def learn(self, request: CompletionRequest, record: RequestRecord, usage: Usage | None) -> None:
        """A request has been answered in full."""
        told = bool(record.output_tokens) and not request.ignore_eos
        limit, text_bytes = request.output_limit(UNLIMITED) if told else None, 0
        if usage is not None:
            record.used_prompt_tokens, _, record.cached_tokens = usage
            for prompt in request.prompts:
                if prompt.token_ids is not None:
                    text_bytes = 0
                    break
                text_bytes += prompt.text_bytes
        self._answered.append((record, limit, text_bytes, usage))

    def settle(self) -> None:
        """Count those that have ended, and learn from those that were answered."""
        answered, self._answered = self._answered, []
        ended, self._ended = self._ended, []
        if ended:
            count(self._metrics, [self._end(*end) for end in ended])
        lengths: list[tuple[Features, int]] = []
        for record, limit, text_bytes, usage in answered:
            if limit is not None:
                lengths.append(_length(record, limit))
            self._learn(record, text_bytes, usage)
        if lengths:
            self._lengths.observe_all(lengths)

    def _learn(self, record: RequestRecord, text_bytes: int, usage: Usage | None) -> None:
        metrics = self._metrics
        if record.output_tokens:
            metrics.predicted_tokens_error.observe(record.expected_tokens / record.output_tokens)
        if usage is None:
            return
        if text_bytes:
            self._estimators[record.model].observe(text_bytes, usage.prompt_tokens)
        if record.choice is not None and (cached := record.choice.predicted_cached):
            metrics.predicted_cached_tokens.inc(cached)
        if usage.cached_tokens:
            metrics.cached_prompt_tokens.inc(usage.cached_tokens)

    def end_relayed(
        self, record: RequestRecord, outcome: Outcome, family: str, usage: Usage | None
    ) -> None:
        """A request that was not planned has ended; `usage`: tokens that its answer has told."""
        metrics, record.outcome, record.ended_s = self._metrics, outcome.value, time.time()
        metrics.relayed.labels(family, outcome.value).inc()
        if usage is not None:
            record.prompt_tokens, record.output_tokens, record.cached_tokens = usage
            for kind, tokens in (
                ("prompt", record.prompt_tokens),
                ("output", record.output_tokens),
            ):
                metrics.relayed_tokens.labels(family, kind).inc(tokens)
            if self._traffic is not None:
                self._traffic.note(record, path=family)
        self._tenants.end(record, outcome)

    def end(
        self,
        record: RequestRecord,
        outcome: Outcome,
        timing: Timing,
        blocks: Sequence[int] = (),
        made: int | None = None,
    ) -> None:
        """A request has ended, one way or the other: the one place that counts it.

        For the traffic log are hashes of its prompt's `blocks`, and the output tokens that were
        `made` until it broke off.
        """
        record.ended_s = time.time()
        if self.log.end(record):
            self.here.add(record.tenant, -1)
        self._ended.append((record, outcome, timing, blocks, made))
        level = _LEVELS.get(outcome, logging.DEBUG)
        told, ends = log.isEnabledFor(level), len(self._ended)
        if (
            told
            or self._traffic is not None
            or ends >= MOST_TOGETHER
            or ends >= 1 + int(TOGETHER * self._lengths.learned)
        ):
            self.settle()
        if told:
            log.log(level, "request ended", extra=record.summary())

    def _end(
        self,
        record: RequestRecord,
        outcome: Outcome,
        timing: Timing,
        blocks: Sequence[int],
        made: int | None,
    ) -> Ended:
        """Remember, log and count for its tenant what one has come to."""
        felt = Felt.of(timing, record.output_tokens, record.choices)
        record.ttft_s, record.tpot_s = felt.ttft_s, felt.tpot_s
        record.kept = kept(record.targets, outcome, felt)
        if self._traffic is not None:
            self._traffic.note(record, blocks, made)
        if record.output_tokens is None:
            record.output_tokens = made
        self._tenants.end(record, outcome)
        return record, outcome, timing, felt


def _length(record: RequestRecord, limit: int) -> tuple[Features, int]:
    """What is learnt from one: how long an answer of its like is."""
    assert record.output_tokens is not None
    prompt_tokens = record.prompt_tokens // record.choices
    features = Features(record.model, prompt_tokens, limit, record.tenant, record.kind)
    return features, record.output_tokens // record.choices
