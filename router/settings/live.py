"""What all commands that listen share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
)

from router.settings.base import Names, Settings, Url


class Live(Settings):
    """What all commands that listen share."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    log_format: Literal["text", "json"] = Field("text", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines that are logged."
    )
    drain_s: float = Field(
        30.0, ge=0, le=86_400, description="Seconds that running requests get to end at shutdown."
    )
    client_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a client may take to send a request's head, and its body where "
        "that comes at less than 16 KiB a second.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Names by which clients may call this machine, by comma, beside addresses and "
        "names without a dot; * for any. Unless given, any where other machines can connect.",
    )
    otel_endpoint: Url | None = Field(
        None,
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP) that gets a trace a "
        "request; default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else none. Needs an extra: pip "
        "install '.[otel]' in Makespan's folder.",
    )
    otel_sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests traced where the client's traceparent does not decide.",
    )


class Served(Live):
    """A process that listens on its own, or on a socket that a supervisor made."""

    tls_cert: Path | None = Field(
        None,
        description="File of the certificate, and those between it and its authority, by which "
        "clients know this process; with tls_key it speaks HTTPS alone.",
    )
    tls_key: Path | None = Field(None, description="File of the certificate's private key.")
    secret_file: Path | None = Field(
        None,
        description="File of the secret that gateways and agents share, the same on both sides; "
        "an agent that has one takes requests from nobody else. Of several, one a line, a gateway "
        "sends the first, and an agent takes all.",
    )
    fd: int | None = Field(
        None,
        ge=0,
        description="Inherited socket to listen on instead; the process then ends with its parent.",
    )
