"""All commands by their settings; read from a file, the environment and flags, in rising order."""

from __future__ import annotations

import os
import re
from argparse import Action, ArgumentParser
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, SettingsError

from router.settings.base import DATASETS, PREFIX, BadSettings, Settings, read_tables

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Command = TypeVar("Command", bound=Settings)

# Where each command's settings are: whoever runs one command imports no other's.
SETTINGS = {
    "up": "router.settings.up:UpSettings",
    "gateway": "router.settings.gateway:GatewaySettings",
    "agent": "router.settings.agent:AgentSettings",
    "simulate": "router.settings.simulate:SimulateSettings",
    "replay": "router.settings.replay:ReplaySettings",
    "plan": "router.settings.plan:PlanSettings",
    "batch submit": "router.settings.batch:BatchSubmitSettings",
    "batch watch": "router.settings.batch:BatchWatchSettings",
    "batch results": "router.settings.batch:BatchResultsSettings",
    "batch cancel": "router.settings.batch:BatchCancelSettings",
    "batch list": "router.settings.batch:BatchListSettings",
    "batch plan": "router.settings.batch_plan:BatchPlanSettings",
    "calibrate": "router.settings.calibrate:CalibrateSettings",
    "bench": "router.settings.bench:BenchSettings",
    "key": "router.settings.keys:KeySettings",
}

# What values are called, by their types.
VALUES = {
    "str": "TEXT",
    "Path": "FILE",
    "int": "N",
    "float": "X",
    "Slo": "TEXT",
    "SecretStr": "TEXT",
}
NO_DEFAULT = re.compile(r" \(default: (?:None|\(\)|)\)")
TUPLE = re.compile(r"(?<=\(default: )\((.*?),?\)(?=\))")


def settings_of(name: str) -> type[Settings]:
    """The settings of the command of that name."""
    found: type[Settings] = resolve_name(SETTINGS[name])
    return found


def all_settings() -> tuple[type[Settings], ...]:
    """Those of all commands."""
    return tuple(map(settings_of, SETTINGS))


def load(command: type[Command], arguments: list[str]) -> Command:
    """The settings of one process.

    Raises:
        BadSettings: naming the setting that is unknown or wrong.
    """
    check_environment(command)
    file: str | None = None
    try:
        flags: CliSettingsSource[ArgumentParser] = CliSettingsSource(
            command,
            cli_parse_args=arguments,
            cli_prog_name=f"makespan {command.table}",
            cli_show_env_vars=True,
            cli_exit_on_error=False,
            add_argument_method=_add_argument,
        )
        file = flags().get("config") or os.environ.get(f"{PREFIX}CONFIG")
        check_tables(file)
        source: dict[str, Any] = {"_cli_settings_source": flags}
        return command(**source)
    except ValidationError as error:
        found = {e["loc"]: _what(e, command) for e in error.errors()}
        table = read_tables(file).get(command.table, {})
        in_file = {(e["loc"][0],) for e in error.errors() if e["loc"] and _is_in(table, e)}
        where = f"{file}: [{command.table}] "
        problems = [
            (where if place[:1] in in_file else "") + ": ".join([*_name(place), what])
            for place, what in found.items()
            if not any(place == other[: len(place)] != other for other in found)  # its part's
        ]
        raise BadSettings("; ".join(problems)) from error
    except SettingsError as error:
        what = str(error).removeprefix("error parsing CLI: ")
        raise BadSettings(f"{what}; {_see(command)}") from error


def _what(error: ErrorDetails, command: type[Settings]) -> str:
    if error["type"] == "extra_forbidden":
        return f"not known; {_see(command)}"
    if error["type"] == "missing":
        return f"needed; {_see(command)}"
    return error["msg"].removeprefix("Value error, ")


def _see(command: type[Settings]) -> str:
    return f"see `makespan {command.table} --help`"


def _is_in(table: Mapping[str, object], error: ErrorDetails) -> bool:
    """Whether what is wrong came from the file, and not from what goes before that."""
    name = error["loc"][0]
    return name in table and (len(error["loc"]) > 1 or table[str(name)] == error["input"])


def _add_argument(parser: ArgumentParser, *flags: str, **options: Any) -> Action:  # noqa: ANN401
    """A flag, with its value and default as people know them, and not as Python does."""
    if "metavar" in options:
        one = options["metavar"].removeprefix("tuple[").removesuffix(",...]")
        more = "" if one == options["metavar"] else ",..."
        is_folder = one == "Path" and options.get("help", "").startswith("Folder")
        options["metavar"] = ("DIR" if is_folder else VALUES.get(one, one)) + more
    told = NO_DEFAULT.sub("", options.get("help", ""))
    options["help"] = TUPLE.sub(lambda found: found[1].replace("'", "").replace(", ", ","), told)
    return parser.add_argument(*flags, **options)


def _name(location: tuple[int | str, ...]) -> list[str]:
    """None of what is wrong with several together: that names them itself."""
    return [".".join(map(str, location))] if location else []


def known_environment() -> frozenset[str]:
    """Every variable that some command reads."""
    return frozenset({DATASETS}.union(*map(_variables, all_settings())))


def _variables(command: type[Settings]) -> set[str]:
    return {PREFIX + name.upper() for name in command.model_fields}


def check_environment(command: type[Settings]) -> None:
    """Refuse a misspelt variable rather than run with a default that nobody asked for.

    Raises:
        BadSettings: naming the first that neither this command reads nor any other.
    """
    given = {name for name in os.environ if name.startswith(PREFIX)}
    others = given - _variables(command) - {DATASETS}
    for name in sorted(others and others - known_environment()):
        raise BadSettings(f"{name}: unknown environment variable; see `makespan --help`")


def check_tables(path: str | None) -> None:
    """Refuse a table of a settings file that no command reads.

    Raises:
        BadSettings: naming it, or the file if it cannot be read.
    """
    for name, value in read_tables(path).items():
        if name not in SETTINGS or not isinstance(value, dict):
            raise BadSettings(f"{path}: {name}: not one of the tables {', '.join(SETTINGS)}")
