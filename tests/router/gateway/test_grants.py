"""What a key's limits come to, and what is told of them."""

from __future__ import annotations

from math import isfinite

import pytest

from router.gateway.accounting.keys import Grant
from router.http.errors import OverLimitError
from router.settings.keys import Key, hash_of

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
