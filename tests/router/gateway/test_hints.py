"""A client's hint of its answer's length orders and plans, and is no price."""

from __future__ import annotations

import json

import pytest

from router.gateway.accounting.accounts import Accounts, Size
from router.http.apis import COMPLETIONS
from router.http.outline import outline
from router.http.request_headers import Urgency
from router.observe.metrics import GatewayMetrics
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS

URGENCY = Urgency(Priority.DEFAULT, float("inf"), NO_TARGETS)
LIMIT = 2000


def size(hint: float | None, **fields: object) -> Size:
    body = {"model": "m", "prompt": "How many?", "max_tokens": LIMIT} | fields
    accounts = Accounts(GatewayMetrics(), 10)
    request = outline(json.dumps(body).encode(), COMPLETIONS)
    return accounts.size(request, 4096, hint, URGENCY, "a")


@pytest.mark.parametrize("choices", [{}, {"n": 3}, {"prompt": ["a", "b"], "n": 2}])
@pytest.mark.parametrize("hint", [1.0, 40.0, 1500.0, 1e9])
def test_no_hint_makes_a_request_cheaper(hint: float, choices: dict[str, object]) -> None:
    plain, hinted = size(None, **choices).job, size(hint, **choices).job
    assert plain.charged_tokens == plain.expected_tokens
    assert hinted.expected_tokens == hinted.sequences * min(hint, LIMIT), "it plans"
    assert hinted.charged_tokens == max(plain.expected_tokens, hinted.expected_tokens)
    assert hinted.reserved_tokens == hinted.prompt_tokens + hinted.charged_tokens
    assert size(hint, **choices).again() is None


@pytest.mark.parametrize("hint", [None, 1.0, 1e9])
def test_a_length_that_is_asked_for_needs_no_hint(hint: float | None) -> None:
    job = size(hint, ignore_eos=True, n=2).job
    assert job.expected_tokens == job.charged_tokens == 2 * LIMIT
