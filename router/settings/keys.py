"""Keys of clients: a file says what each may do, by the key's hash.

A key is 256 random bits, so its SHA-256 can be neither guessed nor searched, and needs no slow hash
as passwords do. The file has a table ``[[key]]`` for each; whoever reads it has no key.
"""

from __future__ import annotations

import re
import secrets
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import CliPositionalArg

from router.settings.base import BadSettings, Names, read_regular
from router.settings.offline import Offline
from solver.batching.priority import Priority

# What a key begins with, so that people and scanners for leaked secrets know it for one.
MARK = "mk-"
LONGEST_TENANT = 128
Tenant = Annotated[str, Field(min_length=1, max_length=LONGEST_TENANT, pattern=r"^[\x20-\x7e]+$")]
Weight = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
# Of a minute; the least is one a day.
Limit = Annotated[float, Field(ge=1 / 1440, le=1e12, allow_inf_nan=False)]


class Key(BaseModel):
    """What whoever has a key may do; limits are a minute's.

    Attributes:
        sha256: of the key, in hexadecimal.
        tenant: whose it is.
        weight: of that tenant's share of engine time.
        requests_per_minute, tokens_per_minute: None: as many as one likes.
        priority: the highest that it may ask for.
        models: those that it may use; None: all.
        admin: it opens the gateway's own pages, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Tenant
    weight: Weight = 1.0
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    priority: Priority = Priority.DEFAULT
    models: tuple[str, ...] | None = None
    admin: bool = False

    def to_toml(self) -> str:
        """Its table in the file."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        plain = (
            (name, int(one) if isinstance(one, float) and one.is_integer() else one)
            for name, one in told.items()
        )
        lines = (f"{name} = {_toml(value)}" for name, value in plain)
        return "\n".join(("[[key]]", *lines, ""))


def _toml(value: object) -> str:
    """JSON's strings, numbers, truths and lists are TOML's, where they are printable ASCII."""
    return orjson.dumps(value).decode()


def hash_of(key: str | bytes) -> str:
    """By which a key is found in the file."""
    return sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        BadSettings: naming the file, and the line where something is wrong.
    """
    try:
        text = read_regular(path).decode("utf-8")
        tables = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # of long numbers, or deep lists
        raise BadSettings.of_file(path, error, "keys") from error
    entries = tables.pop("key", [])
    if tables or not isinstance(entries, list) or not entries:
        what = f"{next(iter(tables))}: not known here" if tables else "there is no [[key]] in it"
        raise BadSettings(f"keys: {path}: {what}; `makespan key new` makes one")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*key", line)]
    places = lines if len(lines) == len(entries) else [1] * len(entries)
    return _consistent(path, [_key(path, *pair) for pair in zip(places, entries, strict=True)])


def _key(path: Path, line: int, entry: Any) -> tuple[int, Key]:  # noqa: ANN401
    try:
        return line, Key.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # what is there may be a key
        where, what = ".".join(map(str, first["loc"])) or "key", first["msg"]
        if first["type"] == "extra_forbidden":
            what = f"not known here; one of: {', '.join(Key.model_fields)}"
        raise BadSettings(f"keys: {path}:{line}: {where}: {what}") from None


def _consistent(path: Path, keys: list[tuple[int, Key]]) -> tuple[Key, ...]:
    """Each key once, and of each tenant one weight."""
    lines: dict[str, int] = {}
    tenants: dict[str, tuple[int, float]] = {}
    for line, key in keys:
        if key.sha256 in lines:
            before = lines[key.sha256]
            raise BadSettings(f"keys: {path}:{line}: sha256: the key of line {before} again")
        lines[key.sha256] = line
        before, weight = tenants.setdefault(key.tenant, (line, key.weight))
        if weight != key.weight:
            raise BadSettings(
                f"keys: {path}:{line}: weight: {key.tenant!r} has {weight:g} by line {before}; "
                "a tenant has one weight, whichever of its keys is used"
            )
    return tuple(key for _, key in keys)


class KeySettings(Offline):
    """Make a key for a client, and what the gateway's file of keys says of it: new."""

    table: ClassVar[str] = "key"

    what: CliPositionalArg[Literal["new"]] = Field(
        description="new: make a key. It is printed once and kept nowhere; its table goes into the "
        "file that --keys names."
    )
    tenant: Tenant = Field(description="Whose key it is.")
    weight: Weight = Field(1.0, description="Weight of the tenant's share of engine time.")
    requests_per_minute: Limit | None = Field(
        None, description="Most requests a minute; default: no limit."
    )
    tokens_per_minute: Limit | None = Field(
        None, description="Most prompt and output tokens a minute; default: no limit."
    )
    priority: Literal["interactive", "default", "bulk"] = Field(
        "default", description="The highest priority that it may ask for."
    )
    models: Names = Field((), description="Models that it may use, by comma; default: all.")
    admin: bool = Field(False, description="It also opens metrics, explanations and the dashboard.")

    @model_validator(mode="after")
    def _some_model(self) -> Self:
        if "models" in self.model_fields_set and not self.models:
            raise ValueError("models: none are named; leave it out for all")
        return self

    def make(self) -> tuple[str, Key]:
        """A new key, and what the file says of it."""
        key = MARK + secrets.token_urlsafe(32)
        return key, Key(
            sha256=hash_of(key),
            tenant=self.tenant,
            weight=self.weight,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            priority=Priority(self.priority),
            models=self.models or None,
            admin=self.admin,
        )
