"""HTTP as tests speak it: as patient as all waiting, and without certificates.

httpx reads the machine's certificates for every client that it makes, by its `get` for every
request, in 50 ms of a core; nothing that tests ask has any. And on a busy machine an answer may
take longer than the 5 s that it waits by default.
"""

from __future__ import annotations

from functools import partial

import httpx

from tests.waiting import PATIENCE_S

request = partial(httpx.request, verify=False, timeout=PATIENCE_S)  # noqa: TID251
get = partial(request, "GET")
post = partial(request, "POST")
put = partial(request, "PUT")
stream = partial(httpx.stream, verify=False, timeout=PATIENCE_S)  # noqa: TID251
Client = partial(httpx.Client, verify=False, timeout=PATIENCE_S)  # noqa: TID251
AsyncClient = partial(httpx.AsyncClient, verify=False, timeout=PATIENCE_S)


def is_well(url: str) -> bool:
    """Whether somebody answers there, and has nothing to complain of."""
    try:
        return get(url).status_code == 200
    except httpx.TransportError:
        return False
