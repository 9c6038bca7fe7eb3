"""Files and batches as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from router.gateway.batches.files import Found
from router.gateway.batches.lines import Counts
from router.gateway.batches.tables import OPEN

_TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def file_object(found: Found) -> dict[str, Any]:
    """A file."""
    return {
        "id": found.id,
        "object": "file",
        "bytes": found.bytes,
        "created_at": int(found.created_at),
        "expires_at": _seconds(found.expires_at),
        "filename": found.filename,
        "purpose": found.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(found: Found, counts: Counts, more: dict[str, Any]) -> dict[str, Any]:
    """A batch; `more` is what this gateway tells beside OpenAI's fields."""
    told: dict[str, Any] = {
        "id": found.id,
        "object": "batch",
        "endpoint": found.endpoint,
        "model": found.model,
        "errors": _errors(found.errors),
        "input_file_id": found.input_file,
        "completion_window": found.window,
        "status": found.status,
        "output_file_id": found.output_file,
        "error_file_id": found.error_file,
        "metadata": None if found.metadata is None else json.loads(found.metadata),
        "usage": _usage(found),
    }
    told |= {name: _seconds(getattr(found, name)) for name in _TIMES}
    if found.status in OPEN:
        done, failed = counts.done, counts.failed + counts.expired
        told["expired_at"] = None  # it is set while the lines that are left get their errors
    else:
        done, failed = found.completed, found.failed
    told["request_counts"] = {"total": found.total, "completed": done, "failed": failed}
    if more:
        told["makespan"] = more
    return told


def list_object(rows: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of either."""
    ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {}
    return {"object": "list", "data": rows, **ends, "has_more": more}


def _seconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)


def _errors(text: str | None) -> dict[str, Any] | None:
    return None if text is None else {"object": "list", "data": json.loads(text)}


def _usage(found: Found) -> dict[str, Any] | None:
    if not (found.input_tokens or found.output_tokens):
        return None
    return {
        "input_tokens": found.input_tokens,
        "input_tokens_details": {"cached_tokens": found.cached_tokens},
        "output_tokens": found.output_tokens,
        "output_tokens_details": {"reasoning_tokens": found.reasoning_tokens},
        "total_tokens": found.input_tokens + found.output_tokens,
    }
