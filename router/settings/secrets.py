"""What a process keeps to itself, read from files: a fleet's secret, a certificate and its key.

They are files, as flags and variables are seen by others of the machine and end up in logs.
"""

from __future__ import annotations

import ssl
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from pathlib import Path

from router.settings.addresses import base_url
from router.settings.base import BadSettings, read_regular

# Of printable characters; what a person makes up is shorter.
LEAST_SECRET, MOST_SECRET = 16, 1024
MOST_KEY = 16_384  # a head has to have room for it
MAKE_ONE = "`openssl rand -hex 32` makes one"


def read_secrets(path: Path | None) -> tuple[bytes, ...]:
    """The secrets of a file, one a line: the first is sent, all are taken; none without a file.

    Raises:
        BadSettings: if there is none, or one that is no secret.
    """
    if path is None:
        return ()
    try:
        lines = [
            line.strip()
            for line in path.read_bytes().removeprefix(BOM_UTF8).splitlines()
            if line.strip()
        ]
    except OSError as error:
        raise BadSettings.of_file(path, error, "secret_file") from error
    if not lines:
        raise BadSettings(f"secret_file: {path} is empty; {MAKE_ONE}")
    for number, line in enumerate(lines, 1):
        fits = LEAST_SECRET <= len(line) <= MOST_SECRET
        if not fits or not line.isascii() or not line.decode().isprintable():
            raise BadSettings(
                f"secret_file: {path}: secret {number} is shorter than {LEAST_SECRET} characters, "
                f"longer than {MOST_SECRET}, or has others than ASCII's printable ones; {MAKE_ONE}"
            )
    return tuple(lines)


def check_certificate(certificate: Path | None, key: Path | None) -> bool:
    """Whether to serve TLS.

    Raises:
        BadSettings: if one of both is missing, or they do not go together.
    """
    if certificate is None and key is None:
        return False
    if certificate is None or key is None:
        missing, given = ("tls_cert", "tls_key") if certificate is None else ("tls_key", "tls_cert")
        raise BadSettings(f"{missing}: {given} is of no use without it")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:
        raise BadSettings.of_file(f"{certificate}, {key}", error, "tls_cert, tls_key") from error
    return True


def trusted(authorities: Path | None) -> ssl.SSLContext | None:
    """Whom to believe that it is who it says: those of a file alone; None: the machine's own.

    Raises:
        BadSettings: if there is none in the file.
    """
    if authorities is None:
        return None
    try:
        return ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise BadSettings.of_file(authorities, error, "worker_ca") from error


def read_keys(files: Sequence[str]) -> Mapping[str, str]:
    """Workers' keys by their base URLs, from ``URL=FILE``; under the empty URL, from ``FILE``.

    Raises:
        BadSettings: if a file has none.
    """
    return {url: read_key(Path(path), "worker_key_file") for url, path in map(key_file, files)}


def key_file(text: str) -> tuple[str, str]:
    """A worker's base URL, empty if none is named, and the file of its key."""
    url, _, path = text.rpartition("=")
    if url and "://" not in url:
        return "", text  # a file may have such a name
    return (base_url(url).removesuffix("/v1").rstrip("/") if url else ""), path


def read_key(path: Path, setting: str) -> str:
    """The key in a file: its first line.

    Raises:
        BadSettings: if there is none, or it could go into no header.
    """
    try:
        key = read_regular(path).strip().partition(b"\n")[0].strip()
    except OSError as error:
        raise BadSettings.of_file(path, error, setting) from error
    if not 0 < len(key) <= MOST_KEY or not key.isascii() or not key.decode().isprintable():
        raise BadSettings(
            f"{setting}: {path} has no key: one line of ASCII's printable characters, at most "
            f"{MOST_KEY}"
        )
    return key.decode()


def bearer(key: str | None) -> dict[str, str]:
    """The header by which it is told."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
