"""The gateway's accounts: sizes of requests as predicted, and what they turned out to be."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
from solver.lengths.predictor import Features, LengthPredictor, kind_of, worth_again
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
# Ends that are learnt from together: a sixteenth of those so far, and so many at most.
TOGETHER, MOST_TOGETHER = 1 / 16, 64


@dataclass(frozen=True, slots=True)
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


def _most(request: CompletionRequest, context: int | None) -> Usage:
    """Servers differ in what they make where no limit is asked for."""
    longest = UNLIMITED if context is None else context
    asked = longest if request.max_tokens is None else max(request.max_tokens, request.other_limit)
    limit = min(longest, asked)
    return Usage(longest * request.choices, limit * request.choices)


def _nothing_new() -> None:
    """The client has said its length."""


class _Again:
    """A job of predicted length; called, what it is now, or None where that has hardly changed."""

    __slots__ = ("_features", "_given", "_learned", "_lengths")

    def __init__(self, lengths: LengthPredictor, features: Features, given: _Given) -> None:
        self._lengths, self._features, self._given = lengths, features, given

    def __call__(self) -> Job | None:
        return self.job() if worth_again(self._lengths.learned, self._learned) else None

    def job(self) -> Job:
        """As predicted now."""
        self._learned = self._lengths.learned
        known = self._lengths.predict(self._features)
        return _job(self._given, known.mean, known)


# Of a job: prompt tokens, choices, priority, when it is due, targets and tenant.
_Given = tuple[int, int, Priority, float, Targets, str]


def _job(given: _Given, tokens: float, known: LengthDistribution | None = None) -> Job:
    """`tokens` are those of one choice."""
    total, choices, priority, due_s, targets, tenant = given
    weight, bulk = WEIGHT[priority], priority is Priority.BULK
    overrun = 0.0 if known is None else known.overrun
    tokens *= choices
    return Job(total, tokens, choices, weight, due_s, known, overrun, targets, tenant, bulk)


class Accounts:
    """Predicts, remembers, learns and counts.

    Attributes:
        here: planned requests, and those that are relayed: what `max_requests` is of, by tenant.
    """

    def __init__(
        self, metrics: GatewayMetrics, remember: int, traffic: TrafficLog | None = None
    ) -> None:
        self._metrics, self._traffic = metrics, traffic
        self.log, self.here = RequestLog(remember), Portions()
        self.tenants = Tenants()
        self._estimators: defaultdict[str, TokenEstimator] = defaultdict(TokenEstimator)
        self._lengths = LengthPredictor()
        self._ended: list[tuple[Features, int]] = []  # and not learnt from yet

    @property
    def running(self) -> int:
        """Planned requests in the gateway now."""
        return self.log.running

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
        prompts = [
            estimator.estimate(prompt.text_bytes) if prompt.token_ids is None else prompt.token_ids
            for prompt in request.prompts
        ]
        left = UNLIMITED if context is None else max(1, context - max(prompts))
        limit = min(UNLIMITED, request.output_limit(left))
        total, due_s = sum(prompts) * request.n, time.monotonic() + urgency.deadline_s
        certain_tokens, choices = self._certain(request, limit), request.choices
        kind = kind_of(request.prompts[0].text)
        given = total, choices, urgency.priority, due_s, urgency.targets, tenant
        again: Callable[[], Job | None] = _nothing_new
        if certain_tokens is None:
            features = Features(request.model, total // choices, limit, tenant, kind)
            predicted = _Again(self._lengths, features, given)
            job = predicted.job()
            if hint is None:
                again = predicted
            else:  # it orders and plans, and is no price
                unhinted = job.expected_tokens
                job = replace(_job(given, min(hint, float(limit))), unhinted_tokens=unhinted)
        else:
            job = _job(given, certain_tokens)
        certain = max([prompt.token_ids or 1 for prompt in request.prompts])
        return Size(job, certain + (request.max_tokens or 1), again, kind, _most(request, context))

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

    @staticmethod
    def _certain(request: CompletionRequest, limit: int) -> float | None:
        """The output tokens of one choice, where they are what the client asks for."""
        if request.ignore_eos and request.max_tokens is not None:
            return float(limit)
        return None

    def served(self, record: RequestRecord, slot_s: float) -> None:
        """A worker has spent so much on a request, whether or not that was all of it."""
        record.slot_s += slot_s
        label = self.tenants.spend(record.tenant, slot_s)
        self._metrics.tenant_slot_seconds.labels(label).inc(slot_s)

    def begin(self, record: RequestRecord) -> None:
        """A request has come in."""
        self.log.begin(record)
        self.here.add(record.tenant, 1)

    def learn(self, request: CompletionRequest, record: RequestRecord, usage: Usage | None) -> None:
        """A request has been answered in full."""
        if record.output_tokens:
            if not request.ignore_eos:
                self._learn_length(request, record, record.output_tokens // record.choices)
            ratio = record.expected_tokens / record.output_tokens
            self._metrics.predicted_tokens_error.observe(ratio)
        if usage is not None:
            sizes = [prompt.text_bytes for prompt in request.prompts if prompt.token_ids is None]
            if len(sizes) == len(request.prompts):
                self._estimators[request.model].observe(sum(sizes), usage.prompt_tokens)
            record.cached_tokens = usage.cached_tokens
            record.used_prompt_tokens = usage.prompt_tokens
            if record.choice is not None:
                self._metrics.predicted_cached_tokens.inc(record.choice.predicted_cached)
            if usage.cached_tokens:
                self._metrics.cached_prompt_tokens.inc(usage.cached_tokens)

    def _learn_length(self, request: CompletionRequest, record: RequestRecord, tokens: int) -> None:
        """A few ends together: until then, what has been predicted for one holds for its like."""
        features = Features(
            request.model,
            record.prompt_tokens // record.choices,
            request.output_limit(UNLIMITED),
            record.tenant,
            record.kind,
        )
        self._ended.append((features, tokens))
        if len(self._ended) >= min(MOST_TOGETHER, 1 + int(TOGETHER * self._lengths.learned)):
            self._lengths.observe_all(self._ended)
            self._ended.clear()

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
        self.tenants.end(record, outcome)

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
        felt = Felt.of(timing, record.output_tokens, record.choices)
        record.ended_s, record.ttft_s, record.tpot_s = time.time(), felt.ttft_s, felt.tpot_s
        record.kept = kept(record.targets, outcome, felt)
        if self.log.end(record):
            self.here.add(record.tenant, -1)
        if self._traffic is not None:
            self._traffic.note(record, blocks, made)
        if record.output_tokens is None:
            record.output_tokens = made
        self.tenants.end(record, outcome)
        metrics, model = self._metrics, record.label
        metrics.requests.labels(model, outcome).inc()
        until = timing.ended if timing.sent is None else timing.sent
        metrics.queue.labels(outcome).observe(until - timing.received)
        if timing.sent is not None and timing.first_byte is not None:
            metrics.overhead.observe(timing.sent - timing.received)
        for target, met in record.kept.items():
            metrics.slo_requests.labels(target, str(met).lower()).inc()
        if outcome is Outcome.COMPLETED:
            metrics.request_duration.labels(model).observe(felt.all_s)
            if felt.ttft_s is not None:
                metrics.time_to_first_token.labels(model).observe(felt.ttft_s)
                if felt.tpot_s:
                    metrics.time_per_output_token.labels(model).observe(felt.tpot_s)
        level = _LEVELS.get(outcome, logging.DEBUG)
        if log.isEnabledFor(level):
            log.log(level, "request ended", extra=record.summary())
