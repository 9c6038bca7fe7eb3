"""Settings of every process: one frozen object, from a TOML file, the environment and flags.

In rising order: the file that ``--config`` or ``MAKESPAN_CONFIG`` names (one table per command),
``MAKESPAN_*`` variables, flags. A value that is unknown or wrong stops the process and names
itself.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from router.settings.addresses import base_url, parse

PREFIX = "MAKESPAN_"
DATASETS = PREFIX + "DATASETS"  # where the benches look for public data sets


class BadSettings(Exception):
    """A setting is unknown or wrong; the message names it."""

    @classmethod
    def of_file(cls, path: str | Path, error: Exception, setting: str = "") -> Self:
        """Of a file that cannot be read or written: its name, and the system's or a reader's words.

        `setting` is the one that names it, where it is not an argument of the command.
        """
        words = str(getattr(error, "strerror", None) or error)
        return cls(": ".join(part for part in (setting, str(path), words) if part))


def readable_by(read: Callable[[str], object]) -> BeforeValidator:
    """Keeps a setting's text, which `read` must be able to read: else its ValueError is told."""

    def check(value: object) -> str:
        text = str(value)
        read(text)
        return text

    return BeforeValidator(check)


def _split(value: Any) -> Any:  # noqa: ANN401
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value.rstrip("/") not in ("*", f"{parts.scheme}://{parts.netloc}"):
        raise ValueError(f"{value} is not like https://chat.example.com: no page has that origin")
    return value


def _worker(value: str) -> str:
    return str(parse(value))


def read_alias(text: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """Another name, and the models that it stands for with their shares: ``NAME=MODEL[:SHARE],…``.

    Raises:
        ValueError: saying what is wrong.
    """
    name, _, models = text.partition("=")
    shares = [_share(model) for model in models.split(",") if model]
    if not name or not shares or sum(share for _, share in shares) <= 0:
        raise ValueError(
            f"{text} is not like gpt-4o=llama-65b, or chat=new:0.1,old:0.9 with a share of each"
        )
    return name, tuple(shares)


def _share(text: str) -> tuple[str, float]:
    """A name may have colons itself: what comes after the last one is a share if it is a number."""
    model, colon, share = text.rpartition(":")
    if not colon or not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", share):
        return text, 1.0
    if not model or not 0 <= float(share) < inf:
        raise ValueError(f"{text}: a share is a number of at least 0")
    return model, float(share)


def _aliases(value: Any) -> Any:  # noqa: ANN401
    """What is after a comma belongs to the alias before it, unless it is one itself."""
    found: list[str] = []
    for part in ",".join([value] if isinstance(value, str) else value).split(","):
        if "=" in part or not found:
            found.append(part)
        else:
            found[-1] += f",{part}"
    names = [read_alias(text)[0] for text in found if text]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is there twice")
    return tuple(text for text in found if text)


def _path(value: str) -> str:
    if not value.startswith("/") or value == "/" or value.startswith("/makespan"):
        raise ValueError(f"{value} is not like /generate: a path of engines, and not all of them")
    return value.rstrip("/")


def _distinct(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"{url} is there twice")
    return urls


def read_slots(text: str) -> tuple[str, int]:
    """A worker's base URL and its slots, as ``URL=SLOTS``.

    Raises:
        ValueError: saying what is wrong.
    """
    url, _, slots = text.rpartition("=")
    if not url or not slots.isdigit() or not 1 <= int(slots) <= MOST_SLOTS:
        raise ValueError(f"{text} is not like http://10.0.0.5:8000=16")
    return _worker(url), int(slots)


def _slots(text: str) -> str:
    url, slots = read_slots(text)
    return f"{url}={slots}"


MOST_FILE_BYTES = 16 << 20  # some ten thousands of keys
MOST_SLOTS = 1 << 20  # no engine has more
Comma = BeforeValidator(_split)
Url = Annotated[str, BeforeValidator(base_url)]
Worker = Annotated[str, BeforeValidator(_worker)]
FleetOf = Annotated[tuple[Worker, ...], NoDecode, Comma, AfterValidator(_distinct)]
Names = Annotated[tuple[str, ...], NoDecode, Comma]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, Comma]
AliasesOf = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_aliases)]
Paths = Annotated[tuple[Annotated[str, BeforeValidator(_path)], ...], NoDecode, Comma]
SlotsOf = Annotated[tuple[Annotated[str, BeforeValidator(_slots)], ...], NoDecode, Comma]
Speed = Annotated[float, Field(gt=0, le=1e6)]
Speeds = Annotated[tuple[Speed, ...], NoDecode, Comma, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The base that knows where a command's settings come from."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    table: ClassVar[str]

    config: Path | None = Field(
        None,
        description="TOML file of these settings, in a table for each command; flags and variables "
        "win over it.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come first (pydantic-settings puts them there), then environment, then file."""
        return init_settings, env_settings, _File(settings_cls, cls.table)


class _File(PydanticBaseSettingsSource):
    """A table of the file that flags or environment name."""

    def __init__(self, settings_cls: type[BaseSettings], table: str) -> None:
        super().__init__(settings_cls)
        self._table = table

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Part of the interface; all are told at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Its settings."""
        return dict(read_tables(self.current_state.get("config")).get(self._table, {}))


def read_tables(path: str | Path | None) -> dict[str, Any]:
    """The tables of a settings file, if one is named.

    Raises:
        BadSettings: if the file cannot be read, or names another one.
    """
    if not path:
        return {}
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadSettings.of_file(path, error, "config") from error
    for name, table in found.items():
        if isinstance(table, dict) and "config" in table:
            raise BadSettings(f"{path}: [{name}] config: it is this file that is read")
    return found


def read_regular(path: Path) -> bytes:
    """All of a file that may be read again while a gateway runs: nothing that it could wait for.

    But for a byte order mark, which some editors put before what one writes.

    Raises:
        OSError: if it cannot be read, or is none: a pipe, a device, a folder, or far too large.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > MOST_FILE_BYTES:
            raise OSError(errno.EFBIG, f"it has over {MOST_FILE_BYTES} bytes")
        return file.read(MOST_FILE_BYTES).removeprefix(BOM_UTF8)
