"""Files of keys that change while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from router.http import reread
from router.http.reread import Reread
from router.settings.base import BadSettings
from tests.waiting import until

FAILURES: dict[str, Exception] = {
    "settings": BadSettings("no"), "value": ValueError("a long number"),
    "deep": RecursionError("deep"), "memory": MemoryError(), "key": KeyError("k"),
    "os": OSError("gone"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_goes_wrong_the_old_keys_stay_and_it_is_said_once(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reread, "LOOK_S", 0.001)
    path, read, taken = tmp_path / "keys", list[str](), list[str]()
    path.write_text("one")

    def look() -> str:
        read.append(path.read_text())
        if read[-1].startswith("bad"):
            raise FAILURES[failure]
        return read[-1]

    def take(text: str) -> int:
        taken.append(text)
        return 1

    def say(text: str) -> Callable[[], bool]:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)
        return lambda: bool(read) and read[-1] == text

    async def change() -> None:
        task = asyncio.create_task(Reread([path], "keys", look, take).run())
        await asyncio.sleep(0)
        for text in ("bad 1", "bad 22", "good"):
            await until(say(text))
        await until(lambda: taken == ["good"])
        task.cancel()

    asyncio.run(change())
    assert sum("stay as they were" in record.message for record in caplog.records) == 1
