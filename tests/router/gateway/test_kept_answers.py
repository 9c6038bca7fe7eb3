"""Which worker keeps which answer: so many are known, and nobody's by way of another's."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest

from router.gateway.admission.kept_answers import Kept, KeptAnswers
from router.http.errors import RequestError
from tests.router.gateway.fleet import half

MOST = 80


async def known(kept: KeptAnswers, names: list[str], tenant: str | None) -> int:
    found = 0
    for name in names:
        with suppress(RequestError):
            await kept.find(name, tenant)
            found += 1
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("floods", [1, 2])
async def test_who_makes_many_forgets_its_own(floods: int) -> None:
    async with half(2) as made:
        (worker, _), kept = made.workers, KeptAnswers(made.workers, MOST, None)
        few = [f"few-{k}" for k in range(4)]
        for name in few:
            kept.remember(name, worker, "few")
        for k in range(5 * MOST):
            for number in range(floods):
                kept.remember(f"{number}-{k}", worker, f"flood-{number}")
                kept.remember(f"{number}-{k}", worker, f"flood-{number}", 7)  # and has ended
        assert await known(kept, few, "few") == len(few)
        latest = [f"0-{k}" for k in range(5 * MOST)][-MOST // (2 * floods) :]
        assert await known(kept, latest, "flood-0") == len(latest)
        assert await known(kept, ["0-0"], "flood-0") == 0
        kept.remember("late", worker, "late")
        assert await known(kept, ["late"], "late") == 1


@pytest.mark.anyio
async def test_of_one_tenant_all_that_there_is_room_for_are_known() -> None:
    """And one that is deleted leaves room for another."""
    async with half(2) as made:
        (worker, _), kept = made.workers, KeptAnswers(made.workers, MOST, None)
        names = [str(k) for k in range(2 * MOST)]
        for name in names:
            kept.remember(name, worker, "")
        assert await known(kept, names, None) == MOST
        kept.forget(names[-1])
        kept.forget("never there")
        kept.remember("new", worker, "")
        assert await known(kept, names, None) == MOST - 1
        with pytest.raises(RequestError):
            await kept.find(names[0])


@pytest.mark.anyio
async def test_what_a_process_of_another_version_tells_is_understood() -> None:
    async with half(1) as made:
        (worker,), kept = made.workers, KeptAnswers(made.workers, MOST, None)
        kept.remember("one", worker, "a", 7)
        page = orjson.loads(kept.page("one") or b"")
        assert Kept.read(orjson.dumps(page | {"more": 1})) == Kept(worker.place, "a", 7)
        del page["tokens"]
        assert Kept.read(orjson.dumps(page)) == Kept(worker.place, "a")
