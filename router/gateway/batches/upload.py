"""A file as it is uploaded: checked and kept as it comes, chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from math import inf

from router.gateway.batches.checking import FileCheck
from router.gateway.batches.database import StoreLost
from router.gateway.batches.files import CHUNK, Files, Found
from router.http.errors import RequestError
from router.http.forms import Form, Part, boundary_of

LONGEST_FIELD = 1024  # bytes
LONGEST_NAME = 255
# OpenAI's: an hour to 30 days.
LEAST_S, LONGEST_S = 3600, 30 * 86_400


class Upload:
    """One file of a tenant's."""

    def __init__(self, files: Files, tenant: str, most_line: int) -> None:
        self._files, self._tenant = files, tenant
        self._check = FileCheck(most_line)
        self._fields: dict[str, bytes] = {}
        self._held, self._chunks = bytearray(), 0
        self._part: Part | None = None
        self._name = ""

    async def run(self, content_type: str, body: AsyncIterator[bytes]) -> Found:
        """Take all of it.

        Raises:
            RequestError: if it is no form, or no file of requests; nothing of it is kept then.
            StoreLost: if it cannot be kept.
        """
        boundary = boundary_of(content_type.encode("latin-1"))
        if boundary is None:
            raise RequestError(
                "A file is uploaded as a form: 'content-type: multipart/form-data' with a "
                "boundary, as OpenAI's clients and `curl -F` send it.",
                code="unsupported_media_type",
                status=415,
            )
        form = Form(boundary)
        try:
            async for data in body:
                for part, piece in form.feed(data):
                    await self._take(part, piece)
            if not form.ended:
                raise RequestError("The form is broken: its end is missing.", code="invalid_form")
            return await self._finish()
        except BaseException:
            if self._name:
                with suppress(StoreLost):
                    await self._files.abandon(self._name)
            raise

    async def _take(self, part: Part, piece: bytes) -> None:
        if part.name != "file":
            value = self._fields.get(part.name, b"") + piece
            if len(value) > LONGEST_FIELD:
                message = f"'{part.name[:64]}' is over the limit of {LONGEST_FIELD} bytes."
                raise RequestError(message, param=part.name[:64])
            self._fields[part.name] = value
            return
        if self._part is None:
            self._part = part
            await self._files.check_quota(self._tenant, 1)
            named = (part.filename or "file").replace("\0", "")[:LONGEST_NAME]
            self._name = await self._files.begin(self._tenant, named)
        elif self._part is not part:
            raise RequestError("A form has one 'file'.", param="file", code="invalid_form")
        for start in range(0, len(piece), CHUNK):
            self._check.feed(piece[start : start + CHUNK])
        self._held += piece
        while len(self._held) >= CHUNK:
            await self._keep(CHUNK)

    async def _keep(self, size: int) -> None:
        await self._files.check_quota(self._tenant, self._chunks * CHUNK + size)
        await self._files.append(self._name, self._chunks, bytes(self._held[:size]))
        self._chunks += 1
        del self._held[:size]

    async def _finish(self) -> Found:
        if self._part is None:
            raise RequestError("'file' is required.", param="file", code="missing_field")
        purpose = self._fields.get("purpose", b"").decode("utf-8", "replace")
        if purpose != "batch":
            message = f"'purpose' must be 'batch', not '{purpose}': this gateway keeps no others."
            raise RequestError(message, param="purpose", code="invalid_purpose")
        lasts_s = self._lasts_s()
        self._check.feed(b"", last=True)
        if self._held:
            await self._keep(len(self._held))
        size = self._check.size
        return await self._files.finish(self._name, self._tenant, purpose, size, lasts_s)

    def _lasts_s(self) -> float | None:
        """How long it is kept, if its client says so."""
        told = self._fields.get("expires_after[seconds]")
        if told is None:
            return None
        seconds = float(told) if told.isdigit() else inf
        if not LEAST_S <= seconds <= LONGEST_S:
            message = f"'expires_after[seconds]' must be from {LEAST_S} to {LONGEST_S}."
            raise RequestError(message, param="expires_after", code="invalid_value")
        return seconds
