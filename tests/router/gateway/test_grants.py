"""What a key's limits come to, and what is told of them."""

from __future__ import annotations

from math import isfinite

import pytest

from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.said import said_in
from router.gateway.explanations.request_record import RequestRecord
from router.http.asgi import SAID
from router.http.errors import OverLimitError
from router.settings.keys import Key, hash_of
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS

LEAST, MOST = 1 / 1440, 1e12


@pytest.mark.parametrize("limit", [LEAST, 0.5, 1.0, 60.0, MOST])
def test_of_any_limit_that_a_file_may_have_finite_numbers_are_told(limit: float) -> None:
    key = Key(sha256=hash_of("a"), tenant="t", requests_per_minute=limit, tokens_per_minute=limit)
    grant = Grant(key)
    waits = [1]
    for _ in range(3):
        try:
            grant.reserve(1e6).settle(1e9)
        except OverLimitError as error:
            waits.append(int(dict(error.headers())[b"retry-after"]))
        told = {name.decode(): value.decode() for name, value in grant.headers()}
        assert len(told) == 6
        for name, value in told.items():
            assert "nan" not in value
            assert "inf" not in value
            if "reset" not in name:
                assert isfinite(float(value))
        assert float(told["x-ratelimit-limit-requests"]) > 0
    assert min(waits) >= 1


@pytest.mark.parametrize("limit", [1.0, 1.5, 5.0, 60.0])
def test_as_many_as_are_left_may_be_had_at_once(limit: float) -> None:
    """And not one more, whenever one asks."""
    grant = Grant(Key(sha256=hash_of("a"), tenant="t", requests_per_minute=limit))
    told = dict(grant.headers())
    assert int(told[b"x-ratelimit-limit-requests"]) == int(limit)
    while left := int(dict(grant.headers())[b"x-ratelimit-remaining-requests"]):
        grant.reserve(1.0)
        assert left <= limit
    with pytest.raises(OverLimitError):
        grant.reserve(1.0)


def test_a_head_that_comes_again_says_what_its_key_allows_by_now() -> None:
    grant = Grant(Key(sha256=hash_of("a"), tenant="before"))
    headers = [(b"content-type", b"application/json"), (b"x-makespan-priority", b"interactive")]
    scope = {"headers": headers, GRANT: grant, SAID: {}}
    defaults = dict.fromkeys(Priority, NO_TARGETS)

    def said() -> tuple[str, Priority]:
        record = RequestRecord("a", "m", stream=False, received_s=0.0)
        found = said_in(scope, defaults, 0.0, record)
        assert record.tenant == found.tenant
        return found.tenant, found.urgency.priority

    assert said() == said() == ("before", grant.key.priority)
    grant.become(Key(sha256=hash_of("a"), tenant="now", priority=Priority.BULK))
    assert said() == said() == ("now", Priority.BULK)
