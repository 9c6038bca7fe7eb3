"""Asks a gateway for its batches, and says in words what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import orjson

from router.settings.base import BadSettings

# For an answer; an upload of 200 MiB has as long between two of its parts.
ANSWER_S = 60.0


class BatchError(Exception):
    """What a person is to be told; `again`: it may be well in a moment."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class BatchClient:
    """See the module; to be closed."""

    def __init__(self, gateway: str, key: str | None) -> None:
        self._gateway = gateway
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(  # noqa: TID251 - which is for tests
            base_url=gateway, headers=headers, timeout=ANSWER_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, path: Path) -> dict[str, Any]:
        """A file's object.

        Raises:
            BadSettings: if it cannot be read.
            BatchError: if it is refused.
        """
        try:
            with path.open("rb") as file:
                parts = {"file": (path.name, file, "application/jsonl")}
                return self._ask("POST", "/v1/files", files=parts, data={"purpose": "batch"})
        except OSError as error:
            raise BadSettings.of_file(path, error) from error

    def create(self, file: str, endpoint: str, window: str) -> dict[str, Any]:
        """A batch's object.

        Raises:
            BatchError: if it is refused.
        """
        asked = {"input_file_id": file, "endpoint": endpoint, "completion_window": window}
        return self._ask("POST", "/v1/batches", json=asked)

    def get(self, batch: str) -> dict[str, Any]:
        """A batch's object.

        Raises:
            BatchError: if there is none of that id.
        """
        return self._ask("GET", _path(batch))

    def cancel(self, batch: str) -> dict[str, Any]:
        """A batch's object.

        Raises:
            BatchError: if it has ended.
        """
        return self._ask("POST", f"{_path(batch)}/cancel")

    def list(self, limit: int) -> list[dict[str, Any]]:
        """The latest batches, the newest first."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/batches", params={"limit": limit})[
            "data"
        ]
        return found

    def content(self, file: str) -> Iterator[bytes]:
        """A file, in pieces.

        Raises:
            BatchError: if there is none, or it breaks off.
        """
        try:
            with self._http.stream("GET", f"/v1/files/{file}/content") as answer:
                if answer.status_code != 200:
                    answer.read()
                _check(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise self._away(error) from error

    def _ask(self, method: str, path: str, **parts: Any) -> dict[str, Any]:  # noqa: ANN401
        try:
            answer = self._http.request(method, path, **parts)
        except httpx.TransportError as error:
            raise self._away(error) from error
        _check(answer)
        try:
            told = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict):
            raise BatchError(f"gateway: {self._gateway} says no JSON: is it a gateway?")
        return told

    def _away(self, error: httpx.TransportError) -> BatchError:
        why = str(error) or type(error).__name__
        return BatchError(f"gateway: {self._gateway} does not answer: {why}", again=True)


def _path(batch: str) -> str:
    if not batch.isascii() or not batch.replace("_", "").replace("-", "").isalnum():
        raise BadSettings(f"batch: {batch!r} is no id of a batch, which is like batch_0123abcd")
    return f"/v1/batches/{batch}"


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        error: Mapping[str, Any] = orjson.loads(answer.content)["error"]
        message = str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = f"the gateway answered {answer.status_code}"
    raise BatchError(message, again=answer.status_code in (429, 502, 503, 504))
