"""The commands: what is printed, and with which status they end.

Status 0: as it should be; 1: the batch has not been completed, or has no such file; 2: an argument
or a file is wrong; 3: the gateway does not answer, or refuses. What is told beside the answer goes
to standard error.
"""

from __future__ import annotations

import signal
import sys
import time
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any, NoReturn

import orjson
from tqdm import tqdm

from router.batch.client import BatchClient, BatchError
from router.files import writable
from router.settings.base import BadSettings
from router.settings.batch import (
    BatchCancelSettings,
    BatchListSettings,
    BatchResultsSettings,
    BatchSettings,
    BatchSubmitSettings,
    BatchWatchSettings,
)

# How often a batch that is watched is looked at, and a gateway that is away asked again.
LOOK_S = 1.0
ENDED = frozenset(("completed", "failed", "expired", "cancelled"))


def batch_command(settings: BatchSettings) -> None:
    """Run one.

    Raises:
        SystemExit: with its status, unless that is 0.
    """
    key = None if settings.key is None else settings.key.get_secret_value()
    try:
        with BatchClient(settings.gateway, key) as client:
            status = _run(settings, client)
    except BatchError as error:
        print(f"makespan {settings.table}: {error}", file=sys.stderr)
        status = 3
    if status:
        sys.exit(status)


def _run(settings: BatchSettings, client: BatchClient) -> int:
    if isinstance(settings, BatchSubmitSettings):
        return _submit(settings, client)
    if isinstance(settings, BatchWatchSettings):
        return _watch(settings.batch, client, json=settings.json)
    if isinstance(settings, BatchResultsSettings):
        return _results(settings, client)
    if isinstance(settings, BatchCancelSettings):
        batch = client.cancel(settings.batch)
        _show(batch, f"{batch['id']} is {batch['status']}", json=settings.json)
    elif isinstance(settings, BatchListSettings):
        rows = client.list(settings.limit)
        if settings.json:
            print(orjson.dumps({"data": rows}).decode())
        for row in () if settings.json else rows:
            print(f"{row['id']}  {_line(row)}")
    return 0


def _show(batch: dict[str, Any], words: str, *, json: bool) -> None:
    print(orjson.dumps(batch).decode() if json else words, flush=True)


def _line(batch: dict[str, Any]) -> str:
    """How far it is, in a line."""
    counts = batch.get("request_counts") or {}
    done, failed, total = (counts.get(name, 0) for name in ("completed", "failed", "total"))
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
    return f"{made}  {batch['status']:<11}  {done} of {total} done, {failed} failed"


def _submit(settings: BatchSubmitSettings, client: BatchClient) -> int:
    endpoint = settings.endpoint or _endpoint(settings.file)
    file = client.upload(settings.file)
    batch = client.create(file["id"], endpoint, settings.window)
    if not settings.watch:
        _show(batch, batch["id"], json=settings.json)
        return 0
    print(batch["id"], file=sys.stderr)
    return _watch(batch["id"], client, json=settings.json)


def _endpoint(path: Path) -> str:
    """That of the first line that says one.

    Raises:
        BadSettings: if it cannot be read, or none of the first does.
    """
    try:
        with path.open("rb") as file:
            for _, line in zip(range(100), file, strict=False):
                try:
                    url = orjson.loads(line.removeprefix(BOM_UTF8))["url"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    continue
                if isinstance(url, str):
                    return url
    except OSError as error:
        raise BadSettings.of_file(path, error) from error
    raise BadSettings(f"{path}: its first lines name no 'url'; say --endpoint /v1/completions")


def _watch(name: str, client: BatchClient, *, json: bool) -> int:
    """Until it has ended; a gateway that is away for a while is waited for."""
    batch = client.get(name)  # if there is none, or nobody to ask, that is told at once
    with tqdm(unit=" lines", disable=None, leave=False) as bar:
        while batch["status"] not in ENDED:
            _draw(bar, batch)
            time.sleep(LOOK_S)
            try:
                batch = client.get(name)
            except BatchError as error:
                if not error.again:
                    raise
                bar.set_postfix_str(str(error))
    _show(batch, _line(batch), json=json)
    for wrong in ((batch.get("errors") or {}).get("data") or [])[:5]:
        where = "" if wrong["line"] is None else f"line {wrong['line']}: "
        print(where + wrong["message"], file=sys.stderr)
    if batch["error_file_id"] is not None:
        print(f"makespan batch results {name} --errors has what failed", file=sys.stderr)
    return int(batch["status"] != "completed")


def _draw(bar: tqdm[NoReturn], batch: dict[str, Any]) -> None:
    counts, told = batch.get("request_counts") or {}, batch.get("makespan") or {}
    bar.total = counts.get("total") or None
    bar.n = counts.get("completed", 0) + counts.get("failed", 0)
    notes = [batch["status"]]
    if "planned_finish_s" in told:
        at = time.strftime("%H:%M:%S", time.localtime(time.time() + told["planned_finish_s"]))
        notes.append(f"planned finish {at}, gap {told['gap_ratio']:.1%}")
    if told.get("paused"):
        notes.append(f"paused: {told['paused']}")
    bar.set_postfix_str(", ".join(notes))
    bar.refresh()


def _results(settings: BatchResultsSettings, client: BatchClient) -> int:
    batch = client.get(settings.batch)
    file = batch["error_file_id" if settings.errors else "output_file_id"]
    if file is None:
        what = "errors" if settings.errors else "answers"
        if batch["status"] in ENDED:
            print(f"{batch['id']} has no {what}: it is {batch['status']}", file=sys.stderr)
        else:
            print(f"{batch['id']} is still {batch['status']}: watch it first", file=sys.stderr)
        return 1
    if settings.out is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may have seen enough
        for piece in client.content(file):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    with writable(settings.out) as to:
        for piece in client.content(file):
            to.write(piece)
    return 0
