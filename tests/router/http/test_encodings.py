"""Compressed bodies: as they were, within the limit, and nothing else."""

from __future__ import annotations

import gzip
import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.encodings import ENCODINGS, MOST_PARTS, decoded, encoding_of
from router.http.errors import RequestError
from tests.linear import TIMES, assert_linear

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
LIMIT = 3000


@given(st.lists(st.binary(max_size=1500), min_size=1, max_size=4), st.sampled_from(ENCODINGS))
def test_there_and_back_up_to_the_limit(parts: list[bytes], encoding: str) -> None:
    """Of several members or frames, all."""
    body, whole = b"".join(map(COMPRESS[encoding], parts)), b"".join(parts)
    if len(whole) <= LIMIT:
        assert decoded(body, encoding, LIMIT) == whole
        return
    with pytest.raises(RequestError) as error:
        decoded(body, encoding, LIMIT)
    assert error.value.status == 413


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_small_body_that_becomes_a_large_one_is_refused(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(32 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(RequestError, match="over the limit of 1000000 bytes"):
        decoded(bomb, encoding, 1_000_000)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_broken_is_said_to_be(encoding: str) -> None:
    good = COMPRESS[encoding](b"{}" * 500)
    for body in (b"", b"{}", good[:-5], good[5:], good + b"{}", good[:3]):
        with pytest.raises(RequestError, match=f"not {encoding}") as error:
            decoded(body, encoding, LIMIT)
        assert error.value.code == "invalid_content_encoding"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_it_costs_is_linear_in_its_size_however_many_parts_it_has(encoding: str) -> None:
    """Empty ones give nothing that the limit would be over; up to a number they are taken."""
    empty, whole = COMPRESS[encoding](b""), b"{}" * 1000
    one = COMPRESS[encoding](whole)
    assert decoded(empty * (MOST_PARTS - 1) + one, encoding, LIMIT) == whole

    def refused(body: bytes) -> None:
        with pytest.raises(RequestError, match=f"over {MOST_PARTS} parts"):
            decoded(body, encoding, LIMIT)

    many = empty * MOST_PARTS * 64
    assert_linear(refused, many, many * TIMES)
    long = empty * (MOST_PARTS - 1) + COMPRESS[encoding](random.Random(0).randbytes(1 << 20))
    longer = empty * (MOST_PARTS - 1) + COMPRESS[encoding](random.Random(0).randbytes(4 << 20))
    assert_linear(lambda body: decoded(body, encoding, 8 << 20), long, longer)


def test_a_window_that_takes_memory_is_refused() -> None:
    parameters = {int(zstd.CompressionParameter.window_log): 27}
    whole = zstd.ZstdCompressor(options=parameters)
    body = whole.compress(b"{}" * 100_000) + whole.flush()
    with pytest.raises(RequestError):
        decoded(body, "zstd", 1 << 20)


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, ""), (b"", ""), (b"identity", ""), (b"GZIP", "gzip"), (b"x-gzip ", "gzip"),
     (b"zstd", "zstd"), (b"br", None), (b"gzip, zstd", None), (b"deflate", None)],
)  # fmt: skip
def test_names(value: bytes | None, name: str | None) -> None:
    if name is not None:
        assert encoding_of(value) == name
        return
    with pytest.raises(RequestError, match="gzip or zstd") as error:
        encoding_of(value)
    assert error.value.status == 415
