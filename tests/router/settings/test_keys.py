"""The file of keys: what it says, and what is said of it where it makes no sense."""

from __future__ import annotations

import os
import tomllib
from codecs import BOM_UTF8
from pathlib import Path

import pytest

from router.settings.base import BadSettings, read_tables
from router.settings.commands import load
from router.settings.keys import Key, KeySettings, hash_of, read_keys
from router.settings.secrets import read_key, read_secrets
from solver.batching.priority import Priority

HASH, OTHER = hash_of("one"), hash_of("other")


def written(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--weight", "2.5", "--admin"),
        ("--requests-per-minute", "60", "--tokens-per-minute", "1000000"),
        ("--priority", "interactive", "--models", "a/b,c-\"d'"),
        ("--priority", "bulk"),
    ],
)
def test_a_key_that_is_made_is_read_as_it_was_meant(tmp_path: Path, flags: tuple[str, ...]) -> None:
    settings = load(KeySettings, ["new", "--tenant", 'a "team"', *flags])
    key, entry = settings.make()
    table = entry.to_toml()
    assert key not in table
    assert key.removeprefix("mk-") not in table
    assert read_keys(written(tmp_path, table)) == (entry,)
    assert entry.sha256 == hash_of(key)
    assert settings.make()[0] != key
    assert tomllib.loads(table)["key"][0]["tenant"] == 'a "team"'


def test_what_is_not_said_limits_nothing_but_priority_and_rights(tmp_path: Path) -> None:
    (key,) = read_keys(written(tmp_path, f'[[key]]\nsha256 = "{HASH}"\ntenant = "t"\n'))
    assert key == Key(sha256=HASH, tenant="t")
    assert (key.priority, key.admin, key.models) == (Priority.DEFAULT, False, None)
    assert key.requests_per_minute is key.tokens_per_minute is None


def entry(sha256: str = HASH, **said: str) -> str:
    fields = {"sha256": f'"{sha256}"', "tenant": '"t"', **said}
    return "[[key]]\n" + "".join(f"{name} = {text}\n" for name, text in fields.items())


WRONG = {
    "": "no [[key]]",
    "# nothing\n": "no [[key]]",
    "key = 3\n": "no [[key]]",
    "[[key]]\nsha256 =\n": "line 2",
    "[[keys]]\n": "keys: not known here",
    "[[key]]\n": "keys.toml:1: sha256",
    "\n\n" + entry(sha256="abc"): "keys.toml:3: sha256",
    entry() + entry(): "keys.toml:4: sha256: the key of line 1 again",
    entry() + entry(OTHER, weight="2.0"): "keys.toml:4: weight: 't' has 1 by line 1",
    entry(tenant='""'): "keys.toml:1: tenant",
    entry(tenant='"a\\nb"'): "keys.toml:1: tenant",
    entry(tenant='"' + "t" * 129 + '"'): "keys.toml:1: tenant",
    entry(weight="0"): "keys.toml:1: weight",
    entry(weight="inf"): "keys.toml:1: weight",
    entry(weight="nan"): "keys.toml:1: weight",
    entry() + entry(OTHER, tokens_per_minute="-1"): "keys.toml:4: tokens_per_minute",
    entry(requests_per_minute="0"): "keys.toml:1: requests_per_minute",
    entry(requests_per_minute="1e-320"): "keys.toml:1: requests_per_minute",
    entry(tokens_per_minute="0.0001"): "keys.toml:1: tokens_per_minute",
    entry(tokens_per_minute="1e400"): "keys.toml:1: tokens_per_minute",
    entry(weight="1e-320"): "keys.toml:1: weight",
    entry(weight="9" * 5000): "keys.toml: ",
    entry(models="[" * 100_000): "keys.toml: ",
    "\0": "keys.toml: ",
    entry(priority='"urgent"'): "keys.toml:1: priority",
    entry(models='"a"'): "keys.toml:1: models",
    entry(rights='"all"'): "keys.toml:1: rights: not known here; one of: sha256, tenant, weight, ",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_its_line_and_never_told(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadSettings) as told:
        read_keys(path)
    assert WRONG[text] in str(told.value)
    assert str(path) in str(told.value)


def test_a_key_where_its_hash_belongs_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as told:
        read_keys(written(tmp_path, entry(sha256="mk-the-key-itself")))
    assert "mk-the-key" not in str(told.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"keys: .*none\.toml: No such file"):
        read_keys(tmp_path / "none.toml")


def test_what_could_be_waited_for_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(BadSettings, match=r"no regular file|Is a directory"):
            read_keys(path)
    link = tmp_path / "link"
    link.symlink_to(written(tmp_path, entry()))
    assert len(read_keys(link)) == 1


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As some editors write it: files of keys, settings, secrets and workers' keys."""
    entry = Key(sha256=HASH, tenant="a")
    path = written(tmp_path, "\ufeff" + entry.to_toml())
    assert read_keys(path) == (entry,)
    path.write_text("\ufeff[gateway]\nport = 4321\n")
    assert read_tables(path) == {"gateway": {"port": 4321}}
    secret = b"s" * 40
    path.write_bytes(BOM_UTF8 + secret + b"\n")
    assert read_secrets(path) == (secret,)
    assert read_key(path, "worker_key_file") == secret.decode()
