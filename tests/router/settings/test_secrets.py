"""Files of secrets and certificates: what is taken, and what stops a process with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.settings.base import BadSettings
from router.settings.secrets import (
    LEAST_SECRET,
    MOST_KEY,
    MOST_SECRET,
    check_certificate,
    read_key,
    read_secrets,
    trusted,
)
from tests.helpers import certify

SECRETS = {
    b"a" * LEAST_SECRET: 1,
    b"a" * MOST_SECRET: 1,
    b"  two words are fine too \r\n": 1,
    b"\n\nfirst of several, one a line\n\nthe second of them, after a gap\n": 2,
}
WRONG = {
    b"": "is empty",
    b" \n\n": "is empty",
    b"a" * (LEAST_SECRET - 1): "secret 1 is shorter than 16 characters",
    b"a" * 32 + b"\nshort": "secret 2 is shorter",
    b"a" * (MOST_SECRET + 1): "longer than 1024",
    "\u00e9".encode() * 32: "printable",
    b"a\x00" * 32: "printable",
}


@pytest.mark.parametrize("content", SECRETS)
def test_secrets_are_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    found = read_secrets(tmp_path / "secret")
    assert len(found) == SECRETS[content]
    assert all(secret == secret.strip() and secret in content for secret in found)


@pytest.mark.parametrize("content", WRONG)
def test_what_is_no_secret_is_named_and_not_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(BadSettings, match=f"secret_file: {path}") as caught:
        read_secrets(path)
    assert WRONG[content] in str(caught.value)
    assert "openssl rand -hex 32" in str(caught.value)
    assert "aaaa" not in str(caught.value)


def test_a_key_has_room_in_a_head(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"a" * MOST_KEY + b"\nanother line")
    assert len(read_key(path, "worker_key_file")) == MOST_KEY
    path.write_bytes(b"a" * (MOST_KEY + 1))
    with pytest.raises(BadSettings, match="has no key"):
        read_key(path, "worker_key_file")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(BadSettings, match=f"secret_file: {path}: {why}"):
            read_secrets(path)
    assert read_secrets(None) == ()


def test_a_certificate_and_its_key_go_together(tmp_path: Path) -> None:
    folder, other = certify(tmp_path), tmp_path / "other.pem"
    cert, key = folder / "cert.pem", folder / "key.pem"
    other.write_text("neither")
    assert check_certificate(cert, key)
    assert not check_certificate(None, None)
    for one, two, words in (
        (cert, None, "tls_key: tls_cert is of no use without it"),
        (None, key, "tls_cert: tls_key is of no use without it"),
        (other, key, "tls_cert, tls_key"),
        (cert, other, "tls_cert, tls_key"),
        (cert, tmp_path / "none", "No such file"),
    ):
        with pytest.raises(BadSettings, match=words):
            check_certificate(one, two)


def test_authorities_are_those_of_the_file_alone(tmp_path: Path) -> None:
    folder, other = certify(tmp_path), tmp_path / "other.pem"
    other.write_text("no authority")
    context = trusted(folder / "cert.pem")
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    assert trusted(None) is None
    for path in (other, tmp_path / "none"):
        with pytest.raises(BadSettings, match=f"worker_ca: {path}"):
            trusted(path)
