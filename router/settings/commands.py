"""All commands by their settings; read from a file, the environment and flags, in rising order."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, SettingsError

from router.settings.agent import AgentSettings
from router.settings.base import CONFIG, DATASETS, PREFIX, BadSettings, Settings, read_tables
from router.settings.batch import BATCH_COMMANDS
from router.settings.batch_plan import BatchPlanSettings
from router.settings.bench import BenchSettings
from router.settings.calibrate import CalibrateSettings
from router.settings.gateway import GatewaySettings
from router.settings.keys import KeySettings
from router.settings.plan import PlanSettings
from router.settings.replay import ReplaySettings
from router.settings.simulate import SimulateSettings
from router.settings.up import UpSettings

Command = TypeVar("Command", bound=Settings)

COMMANDS: tuple[type[Settings], ...] = (
    UpSettings,
    GatewaySettings,
    AgentSettings,
    SimulateSettings,
    ReplaySettings,
    PlanSettings,
    *BATCH_COMMANDS,
    BatchPlanSettings,
    CalibrateSettings,
    BenchSettings,
    KeySettings,
)

# What values are called, by their types.
VALUES = {
    "str": "TEXT",
    "Path": "FILE",
    "int": "N",
    "float": "X",
    "Slo": "TEXT",
    "SecretStr": "TEXT",
}


def load(command: type[Command], arguments: list[str]) -> Command:
    """The settings of one process.

    Raises:
        BadSettings: naming the setting that is unknown or wrong.
    """
    check_environment()
    check_tables()
    try:
        flags: CliSettingsSource[ArgumentParser] = CliSettingsSource(
            command,
            cli_parse_args=arguments,
            cli_prog_name=f"makespan {command.table}",
            cli_show_env_vars=True,
            add_argument_method=_add_argument,
        )
        source: dict[str, Any] = {"_cli_settings_source": flags}
        return command(**source)
    except ValidationError as error:
        found = {e["loc"]: e["msg"].removeprefix("Value error, ") for e in error.errors()}
        problems = [
            f"{_where(place)}: {what}"
            for place, what in found.items()
            if not any(place == other[: len(place)] != other for other in found)  # its part's
        ]
        raise BadSettings("; ".join(problems)) from error
    except SettingsError as error:
        raise BadSettings(str(error)) from error


def _add_argument(parser: ArgumentParser, *flags: str, **options: Any) -> Action:  # noqa: ANN401
    """A flag, whose value is called by what it means to people, and not by its type in Python."""
    if "metavar" in options:
        one = options["metavar"].removeprefix("tuple[").removesuffix(",...]")
        more = "" if one == options["metavar"] else ",..."
        options["metavar"] = VALUES.get(one, one) + more
    return parser.add_argument(*flags, **options)


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"


def known_environment() -> frozenset[str]:
    """Every variable that some command reads."""
    names = {name.upper() for command in COMMANDS for name in command.model_fields}
    return frozenset({PREFIX + name for name in names} | {CONFIG, DATASETS})


def check_environment() -> None:
    """Refuse a misspelt variable rather than run with a default that nobody asked for.

    Raises:
        BadSettings: naming the first unknown one.
    """
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known_environment():
            raise BadSettings(f"{name}: unknown environment variable; see `makespan --help`")


def check_tables() -> None:
    """Refuse a table of the settings file that no command reads.

    Raises:
        BadSettings: naming it, or the file if it cannot be read.
    """
    known = [command.table for command in COMMANDS]
    for name, value in read_tables().items():
        if name not in known or not isinstance(value, dict):
            path = os.environ[CONFIG]
            raise BadSettings(f"{path}: {name}: not one of the tables {', '.join(known)}")
