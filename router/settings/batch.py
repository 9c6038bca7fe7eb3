"""Settings of ``makespan batch submit``, ``watch``, ``results``, ``cancel`` and ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from router.settings.base import Url
from router.settings.offline import Offline


class BatchSettings(Offline):
    """What all of them share: whom they ask."""

    model_config = SettingsConfigDict(cli_shortcuts={"out": "o"})

    gateway: Url = Field("http://127.0.0.1:8000", description="Base URL of the gateway.")
    key: SecretStr | None = Field(
        None, description="The client's key, where the gateway wants one; better by its variable."
    )


class BatchSubmitSettings(BatchSettings):
    """Upload a file of requests and have it run as a batch; its id is what is printed."""

    table: ClassVar[str] = "batch submit"

    file: CliPositionalArg[Path] = Field(
        description="The batch's requests, JSON lines as OpenAI's Batch API takes them."
    )
    endpoint: str = Field(
        "", description="What its lines ask for, like /v1/completions; default: its first line's."
    )
    window: str = Field("24h", description="How long it may take: 24h, 30m, 90s.")
    watch: bool = Field(False, description="Stay until it has ended.")


class BatchWatchSettings(BatchSettings):
    """Show how far a batch is until it has ended; exits with 1 unless it is completed."""

    table: ClassVar[str] = "batch watch"

    batch: CliPositionalArg[str] = Field(description="The batch's id.")


class BatchResultsSettings(BatchSettings):
    """Write the answers of a batch that has ended: its output file."""

    table: ClassVar[str] = "batch results"

    batch: CliPositionalArg[str] = Field(description="The batch's id.")
    out: Path | None = Field(None, description="File to write to; default: standard output.")
    errors: bool = Field(False, description="Write its error file instead.")


class BatchCancelSettings(BatchSettings):
    """Cancel a batch: what is done of it stays."""

    table: ClassVar[str] = "batch cancel"

    batch: CliPositionalArg[str] = Field(description="The batch's id.")


class BatchListSettings(BatchSettings):
    """List the latest batches."""

    table: ClassVar[str] = "batch list"

    limit: int = Field(20, ge=1, le=100, description="How many.")
